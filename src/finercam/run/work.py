"""What a run has to do, the shards of its list that are not finished, and how this process does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

from torch import nn

from finercam.data.source import Source
from finercam.run.lists import ImageList
from finercam.run.manifest import Manifest
from finercam.run.pictures import read_ahead
from finercam.run.rows import write_rows
from finercam.run.settings import preprocess_of
from finercam.run.worker import Worker

__all__ = ["Work", "explain_shards"]


@dataclass(frozen=True)
class Work:
    """The shards `numbers` of a list; `readers` threads decode pictures for each worker.

    `save(number, content)` writes the Parquet file of a shard, `report(done)` says how many images are explained.
    """

    source: Source
    listed: ImageList
    manifest: Manifest
    numbers: Sequence[int]
    readers: int
    save: Callable[[int, bytes], None]
    report: Callable[[int], None]

    def fingerprint(self, number: int) -> str:
        """What the rows of a shard are made of."""
        return self.listed.fingerprint(number, self.manifest.settings.digest)


def explain_shards(work: Work, model: nn.Module) -> None:
    """Explain and save the shards in this process. Threads read two batches ahead, and save one shard behind.

    A shard that is complete is saved even if the run is interrupted then.
    """
    settings, listed = work.manifest.settings, work.listed
    worker = Worker(settings, model, listed.numbered)
    entries = (entry for number in work.numbers for entry in listed.shard(number))
    ahead = 2 * settings.batch

    def save(number: int, rows: Sequence[dict[str, Any]], halved: int) -> None:
        work.save(number, write_rows(rows, work.fingerprint(number), halved))

    done = 0
    with (
        closing(read_ahead(work.source, preprocess_of(settings), entries, work.readers, ahead)) as reads,
        ThreadPoolExecutor(1, thread_name_prefix="finercam-save") as saver,
        worker.computing(),
    ):
        saving: Future[None] | None = None
        for number in work.numbers:
            rows: list[dict[str, Any]] = []
            for some in worker.batches(islice(reads, listed.length(number))):
                rows += some
                if len(rows) < listed.length(number):
                    work.report(done + len(rows))
            if saving is not None:
                saving.result()
            saving = saver.submit(save, number, rows, worker.halved)
            done += len(rows)
            work.report(done)
        if saving is not None:
            saving.result()
