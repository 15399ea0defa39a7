"""The list of a run: the entries of its source in order, written once, so that every shard is a fixed range of it."""

from __future__ import annotations

import hashlib
import sys
from array import array
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from finercam.data.labels import is_number
from finercam.data.source import Source
from finercam.errors import FinerCAMError

__all__ = ["Entry", "ImageList", "write_list"]


@dataclass(frozen=True)
class Entry:
    """An image of the list: position, path, label as written, and `(status, reason)` if it is not to be read."""

    position: int
    path: str
    label: str | None = None
    skip: tuple[str, str] | None = None


@dataclass(frozen=True)
class ImageList:
    """A written list of `count` images in shards of `rows`; `numbered` if every label is a whole number."""

    file: Path
    count: int
    rows: int
    digest: str
    numbered: bool
    repeated: dict[int, int]

    @property
    def shards(self) -> int:
        return -(-self.count // self.rows)

    def length(self, number: int) -> int:
        """How many images a shard has."""
        return min(self.rows, self.count - number * self.rows)

    def shard(self, number: int) -> list[Entry]:
        """The images of one shard."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.file) as file:  # opened each time: workers are forked, threads share nothing
            table = file.read_row_group(number, use_threads=False)
        return [
            Entry(position, path, label, self._skip(position, refused))
            for position, path, label, refused in zip(
                range(number * self.rows, number * self.rows + table.num_rows),
                *(table.column(name).to_pylist() for name in ("path", "label", "refused")),
                strict=True,
            )
        ]

    def fingerprint(self, number: int, settings: str) -> str:
        """A hash of all that decides a shard's rows: the settings' hash, and the paths and labels of its range."""
        found = hashlib.sha256(f"{settings} {number * self.rows}\n".encode())
        for entry in self.shard(number):
            found.update(f"{entry.path}\0{entry.label or ''}\0{entry.skip or ''}\n".encode())
        return found.hexdigest()

    def _skip(self, position: int, refused: str | None) -> tuple[str, str] | None:
        if refused is not None:
            return "refused", refused
        if position in self.repeated:
            return "duplicate", f"listed before, at position {self.repeated[position]}"
        return None


def write_list(source: Source, file: Path, rows: int, limit: int | None = None) -> ImageList:
    """Write what a source lists; one row group is one shard. Memory: one shard, and 8 bytes an image of a list file.

    Raises FinerCAMError for a source without images.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = pa.schema([("path", pa.string()), ("label", pa.string()), ("refused", pa.string())])
    digest, marks, count = hashlib.sha256(), array("Q"), 0
    labels, numbered = 0, True
    entries = islice(source.entries(), None if limit is None else min(limit, sys.maxsize))
    with pq.ParquetWriter(file, columns, compression="zstd") as writer:
        while some := list(islice(entries, rows)):
            for one in some:
                digest.update(f"{one.path}\0{one.label or ''}\0{one.refused or ''}\n".encode())
                if source.repeats:
                    marks.append(_mark(one.path))
                if one.label is not None:
                    labels += 1
                    numbered = numbered and is_number(one.label)
            values = [[getattr(one, name) for one in some] for name in columns.names]
            writer.write_table(pa.table(values, schema=columns), row_group_size=rows)
            count += len(some)
    if count == 0:
        raise FinerCAMError("the dataset lists no picture")
    repeated = _repeated(file, marks) if source.repeats else {}
    return ImageList(file, count, rows, digest.hexdigest(), numbered and labels > 0, repeated)


def _mark(path: str) -> int:
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "little")


def _repeated(file: Path, marks: array) -> dict[int, int]:
    """The positions of repeated paths, and where each was first; only paths with equal 8-byte marks are compared."""
    import pyarrow.parquet as pq

    values, times = np.unique(np.frombuffer(marks, np.uint64), return_counts=True)
    twice = set(values[times > 1].tolist())
    if not twice:
        return {}
    first: dict[str, int] = {}
    found: dict[int, int] = {}
    batches = pq.ParquetFile(file).iter_batches(4096, columns=["path"])
    for position, path in enumerate(path for batch in batches for path in batch.column(0).to_pylist()):
        if marks[position] in twice and first.setdefault(path, position) != position:
            found[position] = first[path]
    return found
