"""Shards spread over a Ray cluster: actors hold the model, this process writes; a worker that dies is replaced."""

from __future__ import annotations

import math
import os
import signal
import threading
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from finercam.data.open import open_source
from finercam.errors import FinerCAMError
from finercam.io import one_line, weights_hash
from finercam.models import load_model
from finercam.run.lists import Entry
from finercam.run.pictures import read_ahead
from finercam.run.rows import write_rows
from finercam.run.settings import Settings, preprocess_of
from finercam.run.work import Work
from finercam.run.worker import Worker

__all__ = ["TRIES", "Actor", "Cluster", "explain_shards", "plain_error", "started"]

TRIES = 3
"""How often a shard is begun again after its worker died."""
STARTS = 2
"""How often Ray is started here: its own processes have 15 s to come up, which a busy machine may not give them."""
OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory for a cluster started here: finished shards wait there to be written."""
REPORT_EVERY = 0.5
"""Seconds between two questions to the workers how far they are."""


@dataclass(frozen=True)
class Cluster:
    """Ray: `address` is "local", "auto" or a cluster's; `workers` hold the model, each with a share of a GPU.

    >>> Cluster(workers=0)
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: workers=0, gpus=0.0: expected at least 1 worker, and no less than 0
    """

    address: str = "local"
    workers: int = 2
    gpus: float = 0.0

    def __post_init__(self) -> None:
        if self.workers < 1 or self.gpus < 0:
            raise FinerCAMError(
                f"workers={self.workers}, gpus={self.gpus}: expected at least 1 worker, and no less than 0"
            )


class Actor:
    """A worker process: the model and the source, opened once. Two shards at a time, so that one is read meanwhile."""

    def __init__(self, settings: dict[str, Any], data: dict[str, Any], readers: int) -> None:
        self.settings = Settings.from_json(settings)
        model = load_model(self.settings.model, self.settings.device).model
        if weights_hash(model) != self.settings.weights_sha256:
            raise FinerCAMError(f"model {self.settings.model!r} has other weights on this worker than where it began")
        self.source = open_source(data["text"], data["split"])
        self.worker = Worker(self.settings, model, data["numbered"])
        self.readers, self.turn = readers, threading.Lock()
        self.explained: dict[int, int] = {}

    def explain(self, number: int, entries: list[Entry], fingerprint: str) -> tuple[int, bytes]:
        """The number of a shard and its Parquet file, with the rows of a local run."""
        ahead, rows = 2 * self.settings.batch, list[dict[str, Any]]()
        with closing(read_ahead(self.source, preprocess_of(self.settings), entries, self.readers, ahead)) as reads:
            begun = chain(islice(reads, 1), reads)
            first = next(begun)  # reading continues while another shard uses the model
            with self.turn, self.worker.computing():
                for some in self.worker.batches(chain([first], begun)):
                    rows += some
                    self.explained[number] = len(rows)
                halved = self.worker.halved
            self.explained.pop(number)
        return number, write_rows(rows, fingerprint, halved)

    def progress(self) -> dict[int, int]:
        """How many images of each shard under way have been explained here."""
        return dict(self.explained)


def explain_shards(work: Work, cluster: Cluster) -> None:
    """Explain the shards on a cluster and save each as it comes. At most two shards a worker are under way.

    Raises FinerCAMError for a cluster that cannot be reached, and, when all else is done, for shards whose worker
    died each time.
    """
    ray = started(cluster)
    from ray.util import ActorPool

    kind = ray.remote(Actor).options(
        num_cpus=1, num_gpus=cluster.gpus, max_restarts=-1, max_task_retries=TRIES, max_concurrency=3
    )
    data = {**work.manifest.data, "numbered": work.listed.numbered}
    left = set(work.numbers)
    try:
        given = (work.manifest.settings.to_json(), data, work.readers)
        actors = [kind.remote(*given) for _ in range(min(cluster.workers, len(work.numbers)))]
        pool, watch = ActorPool(2 * actors), _Watch(ray, actors, work)
        for number in work.numbers:  # the list is read when a worker is free
            pool.submit(lambda actor, n: actor.explain.remote(n, work.listed.shard(n), work.fingerprint(n)), number)
        while pool.has_next():
            try:
                number, content = pool.get_next_unordered(timeout=REPORT_EVERY)
            except ray.exceptions.RayTaskError as error:
                raise plain_error(error) from error
            except ray.exceptions.RayActorError as error:
                if "creation" in str(error) or isinstance(error.__cause__, ray.exceptions.RayTaskError):
                    raise plain_error(error) from error
            except TimeoutError:
                watch.look(left)
            else:
                work.save(number, content)
                left.discard(number)
                watch.look(left)
    finally:
        ray.shutdown()
    if left:
        first = min(left) * work.listed.rows
        raise FinerCAMError(
            f"{len(left)} shards were not made: their worker died {TRIES + 1} times (the first: images "
            f"{first} to {first + work.listed.length(min(left)) - 1}); run the command again"
        )


class _Watch:
    """Asks the workers how far they are, without waiting for one that is busy starting."""

    def __init__(self, ray: Any, actors: list[Any], work: Work) -> None:
        self.ray, self.actors, self.work = ray, actors, work
        self.waiting: dict[Any, Any] = {}
        self.partial: dict[int, int] = {}
        self.most = 0

    def look(self, left: set[int]) -> None:
        """Report the images of finished shards and what is known of the shards in `left`."""
        for actor in self.actors:
            if actor not in self.waiting.values():
                self.waiting[actor.progress.remote()] = actor
        for answer in self.ray.wait(list(self.waiting), num_returns=len(self.waiting), timeout=0)[0]:
            del self.waiting[answer]
            with suppress(self.ray.exceptions.RayError):  # the next look asks the worker that replaces it
                self.partial |= self.ray.get(answer)
        finished = sum(self.work.listed.length(number) for number in self.work.numbers if number not in left)
        begun = sum(done for number, done in self.partial.items() if number in left)
        if finished + begun > self.most:  # a shard whose worker died begins again
            self.most = finished + begun
            self.work.report(self.most)


def started(cluster: Cluster) -> Any:
    """Ray, connected to a cluster, or to one of `workers` processors started here: no dashboard, little memory."""
    try:
        import ray
    except ModuleNotFoundError:
        raise FinerCAMError("--ray needs ray: pip install 'finercam[ray]'") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address == "local":
        gpus = {"num_gpus": math.ceil(cluster.workers * cluster.gpus)} if cluster.gpus else {}
        started = {"num_cpus": cluster.workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        common |= started | gpus
    own = signal.getsignal(signal.SIGTERM)
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(address=cluster.address, **common)
            break
        except Exception as error:  # ray raises plain Exception where its own processes came up too slowly
            ray.shutdown()
            if attempt == STARTS or "timed out during startup" not in str(error):
                raise FinerCAMError(
                    f"the Ray cluster {cluster.address!r} cannot be used: {one_line(error)}"
                ) from error
    if own is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, own)  # ray puts its own in its place
    return ray


def plain_error(error: BaseException) -> FinerCAMError:
    """What went wrong in a worker, in one line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, FinerCAMError):
        return cause
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return FinerCAMError(f"a worker failed: {lines[-1] if lines else type(cause).__name__}")
