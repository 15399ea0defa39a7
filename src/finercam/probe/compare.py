"""A table of the accuracy of backbones on datasets, from the model folders of earlier probes."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from io import StringIO
from pathlib import Path
from typing import Any

from finercam.data.files import read_json
from finercam.errors import FinerCAMError

__all__ = ["Row", "grid", "markdown", "read_probe", "to_csv"]


@dataclass(frozen=True)
class Row:
    """The accuracy of a probe on a dataset: top-1 and top-5 in [0, 1] on `count` pictures of `split`."""

    backbone: str
    pool: str
    dataset: str
    split: str
    top1: float
    top5: float
    count: int
    weight_decay: float
    seed: int
    folder: str


def read_probe(folder: str | os.PathLike[str]) -> Row:
    """The accuracy of the probe in a model folder, on the first of the splits test, val and train that it has.

    Raises FinerCAMError for a folder that `finercam probe` did not write.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise FinerCAMError(f"{folder} is not a model folder: it has no config.json")
    try:
        written: Any = read_json(path)["provenance"]
        split = next(name for name in ("test", "val", "train") if name in written["accuracy"])
        measured = written["accuracy"][split]
        return Row(
            backbone=str(written["backbone"]),
            pool=str(written["pool"]),
            dataset=str(written["dataset"]),
            split=split,
            top1=float(measured["top1"]),
            top5=float(measured["top5"]),
            count=int(measured["count"]),
            weight_decay=float(written["weight_decay"]),
            seed=int(written["seed"]),
            folder=str(folder),
        )
    except (KeyError, TypeError, StopIteration, ValueError, OverflowError):
        raise FinerCAMError(f"{folder} was not written by 'finercam probe': config.json has no accuracy") from None


def grid(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines of the table of backbones by datasets; a cell is "top-1 / top-5" in percent, or "–".

    A cell names its split if it is not the test split, and shows all probes of its backbone and dataset.
    """
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    backbones = list(dict.fromkeys((row.backbone, row.pool) for row in rows))
    lines = []
    for backbone, pool in backbones:
        own = [row for row in rows if (row.backbone, row.pool) == (backbone, pool)]
        cells = ["; ".join(_cell(row) for row in own if row.dataset == dataset) or "–" for dataset in datasets]
        lines.append([backbone, pool, *cells])
    return ["backbone", "pool", *datasets], lines


def markdown(rows: Sequence[Row]) -> str:
    """The table as Markdown, with a line that explains its numbers."""
    header, lines = grid(rows)
    table = [header, ["---"] * 2 + ["---:"] * (len(header) - 2), *lines]
    text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in table)
    return f"{text}\n\nTop-1 / top-5 in percent on the test split, unless another is named.\n"


def to_csv(rows: Iterable[Row]) -> str:
    """The table as CSV: a line for each probe, with all fields of `Row`."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def _cell(row: Row) -> str:
    split = "" if row.split == "test" else f" ({row.split})"
    return f"{100 * row.top1:.1f} / {100 * row.top5:.1f}{split}"
