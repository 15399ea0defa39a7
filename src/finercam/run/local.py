"""All shards in this process: threads read ahead, across the ends of shards, while the model works."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

from torch import nn

from finercam.run.pictures import read_ahead
from finercam.run.rows import write_rows
from finercam.run.settings import preprocess_of
from finercam.run.work import Work
from finercam.run.worker import Worker

__all__ = ["default_readers", "explain_shards"]


def explain_shards(work: Work, model: nn.Module) -> None:
    """Explain and save the shards in order. Two batches are decoded ahead, and one shard is packed and saved behind.

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


def default_readers() -> int:
    return min(4, os.cpu_count() or 1)
