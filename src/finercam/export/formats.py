"""The formats that a whole run can be exported to, each with the file that it writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from finercam.errors import FinerCAMError, suggest
from finercam.export.coco import coco
from finercam.export.dataset import dataset
from finercam.export.label_studio import label_studio
from finercam.export.rasters import rasters
from finercam.export.record import Record
from finercam.export.regions import regions
from finercam.io import write_whole

__all__ = ["FORMATS", "checked_format", "write"]


def _json(build: Callable[[Iterable[Record]], Any], name: str) -> Callable[[Iterable[Record], Path], Path]:
    def write(records: Iterable[Record], folder: Path) -> Path:
        return write_whole(folder / name, json.dumps(build(records), allow_nan=False).encode())

    return write


def _regions(records: Iterable[Record], folder: Path) -> Path:
    return write_whole(folder / "regions.csv", regions(records).encode())


def _dataset(records: Iterable[Record], folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    dataset(records).to_parquet(path := folder / "dataset.parquet")
    return path


FORMATS: dict[str, Callable[[Iterable[Record], Path], Path]] = {
    "coco": _json(coco, "coco.json"),
    "label-studio": _json(label_studio, "label-studio.json"),
    "regions": _regions,
    "rasters": lambda records, folder: rasters(records, folder / "rasters"),
    "dataset": _dataset,
}
"""Writers by the name of their format."""


def checked_format(name: str) -> str:
    """The name of a format, as it was given; raises FinerCAMError for another one.

    >>> checked_format("coco")
    'coco'
    """
    if name not in FORMATS:
        raise FinerCAMError(f"export {name!r}: expected one of {', '.join(FORMATS)}.{suggest(name, FORMATS)}")
    return name


def write(name: str, records: Iterable[Record], folder: Path) -> Path:
    """Write records in a format into a folder, and give the path of the file or folder made."""
    return FORMATS[checked_format(name)](records, folder)
