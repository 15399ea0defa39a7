"""What a run has to do: the shards of its list that are not finished, where they go, and how far they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from finercam.data.source import Source
from finercam.run.lists import ImageList
from finercam.run.manifest import Manifest

__all__ = ["Work"]


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
