"""Shards spread over a Ray cluster: actors hold the model, this process writes; a worker that dies is replaced."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from finercam.errors import FinerCAMError
from finercam.io import one_line, weights_hash
from finercam.run.lists import Entry, ImageList
from finercam.run.manifest import Manifest
from finercam.run.pictures import read_ahead
from finercam.run.settings import Settings, preprocess_of
from finercam.run.source import open_source
from finercam.run.worker import Worker

if TYPE_CHECKING:
    from finercam.run.job import Cluster

__all__ = ["Actor", "explain_shards"]

TRIES = 3
"""How often a shard is begun again after its worker died."""
STARTS = 2
"""How often Ray is started here: its own processes have 15 s to come up, which a busy machine may not give them."""
OBJECT_STORE = 100 * 2**20
"""Bytes of shared memory for a cluster started here: finished shards wait there to be written."""


class Actor:
    """A worker process: the model and the source, opened once. Two shards at a time, so that one is read meanwhile."""

    def __init__(self, settings: dict[str, Any], data: dict[str, Any], readers: int, size: int | None) -> None:
        from finercam.commands.explain import load

        self.settings = Settings.from_json(settings)
        loaded = load(self.settings.model, self.settings.device, size)
        if weights_hash(loaded.model) != self.settings.weights_sha256:
            raise FinerCAMError(f"model {self.settings.model!r} has other weights on this worker than where it began")
        self.source = open_source(data["text"], data["split"])
        self.worker = Worker(self.settings, loaded.model, data["numbered"])
        self.readers, self.turn = readers, threading.Lock()

    def explain(self, entries: list[Entry], fingerprint: str) -> bytes:
        """The Parquet file of one shard, as `local` makes it."""
        ahead = 2 * self.settings.batch
        with closing(read_ahead(self.source, preprocess_of(self.settings), entries, self.readers, ahead)) as reads:
            begun = chain(islice(reads, 1), reads)
            first = next(begun)  # reading goes on while another shard has its turn with the model
            with self.turn:
                return self.worker.shard(chain([first], begun), fingerprint)


def explain_shards(
    cluster: Cluster, manifest: Manifest, listed: ImageList, numbers: Sequence[int], readers: int, size: int | None
) -> Iterator[tuple[int, bytes]]:
    """The Parquet file of each shard as it comes. At most two shards a worker are under way.

    Raises FinerCAMError for a cluster that cannot be reached, and, when all else is done, for shards whose worker
    died each time.
    """
    ray = _started(cluster)
    kind = ray.remote(Actor).options(
        num_cpus=1, num_gpus=cluster.gpus, max_restarts=-1, max_task_retries=TRIES, max_concurrency=2
    )
    data = {"text": manifest.data["text"], "split": manifest.data["split"], "numbered": listed.numbered}
    digest = manifest.settings.digest
    lost: list[int] = []
    try:
        given = (manifest.settings.to_json(), data, readers, size)
        actors = [kind.remote(*given) for _ in range(min(cluster.workers, len(numbers)))]
        free = [actor for _ in range(2) for actor in actors]
        waiting = list(reversed(numbers))
        under_way: dict[Any, tuple[int, Any]] = {}
        while waiting or under_way:
            while waiting and free:
                number, actor = waiting.pop(), free.pop(0)
                task = actor.explain.remote(listed.shard(number), listed.fingerprint(number, digest))
                under_way[task] = (number, actor)
            for task in ray.wait(list(under_way), num_returns=1)[0]:
                number, actor = under_way.pop(task)
                free.append(actor)
                try:
                    content = ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    raise _plain(error) from error
                except ray.exceptions.RayActorError as error:
                    if "creation" in str(error) or isinstance(error.__cause__, ray.exceptions.RayTaskError):
                        raise _plain(error) from error
                    lost.append(number)
                    continue
                yield number, content
    finally:
        ray.shutdown()
    if lost:
        raise FinerCAMError(
            f"{len(lost)} shards were not made: their worker died {TRIES + 1} times (the first: images "
            f"{lost[0] * listed.rows} to {lost[0] * listed.rows + listed.length(lost[0]) - 1}); run the command again"
        )


def _started(cluster: Cluster) -> Any:
    """Ray, connected to a cluster, or to one of `workers` processors started here: no dashboard, little memory."""
    try:
        import ray
    except ModuleNotFoundError:
        raise FinerCAMError("--ray needs ray: pip install 'finercam[ray]'") from None
    if cluster.workers < 1 or cluster.gpus < 0:
        raise FinerCAMError(
            f"workers={cluster.workers}, gpus={cluster.gpus}: expected at least 1 worker, and no less than 0"
        )
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if cluster.address == "local":
        gpus = {"num_gpus": math.ceil(cluster.workers * cluster.gpus)} if cluster.gpus else {}
        started = {"num_cpus": cluster.workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE}
        common |= started | gpus
    for attempt in range(1, STARTS + 1):
        try:
            ray.init(address=cluster.address, **common)
            return ray
        except Exception as error:  # ray raises plain Exception where its own processes came up too slowly
            ray.shutdown()
            if attempt == STARTS or "timed out during startup" not in str(error):
                raise FinerCAMError(
                    f"the Ray cluster {cluster.address!r} cannot be used: {one_line(error)}"
                ) from error
    raise AssertionError


def _plain(error: BaseException) -> FinerCAMError:
    """What went wrong in a worker, in one line."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, FinerCAMError):
        return cause
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return FinerCAMError(f"a worker failed: {lines[-1] if lines else type(cause).__name__}")
