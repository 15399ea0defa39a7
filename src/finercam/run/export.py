"""The explained images of a run as records for other tools' formats."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from finercam.errors import FinerCAMError
from finercam.export.formats import write
from finercam.export.record import Record
from finercam.run.reader import Run

__all__ = ["export_run", "run_records"]


def run_records(run: Run) -> Iterator[Record]:
    """A record for each image that has an explanation, in the order of the shards."""
    for part in run.parts():
        columns = (part.rows.column(name).to_pylist() for name in ("position", "path", "width", "height"))
        for one, position, path, width, height in zip(part.answer, *columns, strict=True):
            yield Record.of(one, path, (width, height), partial(run.picture, position, path), run.preprocess)


def export_run(run: Run, name: str) -> Path:
    """Write a run in one of `finercam.export.formats.FORMATS` into its folder `export/`, and give the path.

    Raises FinerCAMError for another format, and for a run in an object store.
    """
    if "://" in str(run.store.place):
        raise FinerCAMError(f"{run.store.place} is no folder; copy the run to this machine and export it from there")
    return write(name, run_records(run), Path(run.store.place) / "export")
