"""The evidence of classes collected on a Ray cluster: each worker loads the model, this process writes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from finercam.errors import FinerCAMError
from finercam.io import weights_hash
from finercam.models import load_model
from finercam.run.cluster import TRIES, Cluster, plain_error, started
from finercam.traits.album import Album
from finercam.traits.request import Request, collector

__all__ = ["Actor", "collect_spread"]


class Actor:
    """A worker process: the model, and what it needs to look at photos."""

    def __init__(self, model: str, album: Album, request: Request, weights: str) -> None:
        loaded = load_model(model)
        if weights_hash(loaded.model) != weights:
            raise FinerCAMError(f"model {model!r} has other weights on this worker than where it began")
        self.collector = collector(loaded, album, request)

    def collect(self, target: int, rivals: Sequence[int], fingerprint: str) -> tuple[int, bytes]:
        return target, self.collector.collect(target, rivals).to_bytes(fingerprint)


def collect_spread(
    cluster: Cluster, about: tuple[Any, ...], work: Sequence[tuple[int, Sequence[int], str]]
) -> Iterator[tuple[int, bytes]]:
    """The evidence file of each class of `work`, as it comes; a class whose worker died is begun again.

    `about` is what an `Actor` is made of. Raises FinerCAMError for a cluster that cannot be reached, or a class whose
    worker failed.
    """
    ray = started(cluster)
    from ray.util import ActorPool

    kind = ray.remote(Actor).options(num_cpus=1, num_gpus=cluster.gpus, max_restarts=-1, max_task_retries=TRIES)
    try:
        pool: Any = ActorPool([kind.remote(*about) for _ in range(min(cluster.workers, len(work)))])
        for given in work:
            pool.submit(lambda actor, values: actor.collect.remote(*values), given)
        while pool.has_next():
            try:
                yield pool.get_next_unordered()
            except ray.exceptions.RayError as error:
                raise plain_error(error) from error
    finally:
        ray.shutdown()
