"""All shards in this process: threads read ahead, across the ends of shards, while the model works."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice

from finercam.run.lists import ImageList
from finercam.run.pictures import read_ahead
from finercam.run.rows import write_rows
from finercam.run.settings import preprocess_of
from finercam.run.source import Source
from finercam.run.worker import Worker

__all__ = ["default_readers", "explain_shards"]


def explain_shards(
    worker: Worker, source: Source, listed: ImageList, numbers: Sequence[int], readers: int
) -> Iterator[tuple[int, bytes]]:
    """The Parquet file of each shard, in order. At most two batches are decoded ahead, and one shard packed behind."""
    entries = (entry for number in numbers for entry in listed.shard(number))
    prepare, digest = preprocess_of(worker.settings), worker.settings.digest
    with (
        closing(read_ahead(source, prepare, entries, readers, 2 * worker.settings.batch)) as reads,
        _packer() as pack,
    ):
        waiting: tuple[int, Future[bytes]] | None = None
        for number in numbers:
            rows = worker.rows(islice(reads, listed.length(number)))
            packed = pack.submit(write_rows, rows, listed.fingerprint(number, digest), worker.halved)
            if waiting is not None:
                yield waiting[0], waiting[1].result()
            waiting = number, packed
        if waiting is not None:
            yield waiting[0], waiting[1].result()


def _packer() -> ThreadPoolExecutor:
    """One shard is compressed while the model works on the next."""
    return ThreadPoolExecutor(1, thread_name_prefix="finercam-pack")


def default_readers() -> int:
    return min(4, os.cpu_count() or 1)
