"""The paper's table: a row for each dataset, method and contrast, `plain → finer` of Del, RD@5, RD@10 and Loc."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finercam.evaluation.summary import CHANCE, CONTROL, LAST, Line, significance_marker

__all__ = ["PaperRow", "paper_csv", "paper_markdown", "paper_rows"]

COLUMNS = {
    "Del": ("deletion",),
    "RD@5": ("rd@5% similar",),
    "RD@10": ("rd@10% similar",),
    "Loc": ("energy in box", "energy"),
}
"""The table's columns, and which metric stands in each: the first that was measured."""

_ARROWS = {"Del": "↓", "RD@5": "↑", "RD@10": "↑", "Loc": "↑"}
_NAMES = {"gradcam": "Grad-CAM", "layercam": "LayerCAM", "scorecam": "Score-CAM"}
_NEEDS = dict(zip(COLUMNS, ("deletion", "rd", "rd", "localisation"), strict=True))


@dataclass(frozen=True)
class PaperRow:
    """One row: `cells` has for each column the plain line and the contrast's line, or the reason why there is none."""

    dataset: str
    method: str
    contrast: str
    cells: Mapping[str, tuple[Line, Line] | str]


def paper_rows(lines: Sequence[Line], settings: Mapping[str, Any]) -> list[PaperRow]:
    """The rows of one evaluation: its methods, each under every contrast but the plain one.

    `settings` are those of the evaluation: its dataset, the metrics that were wanted and those that the data cannot give.
    """
    found = {(line.method, line.contrast, line.metric): line for line in lines}
    maps = dict.fromkeys((line.method, line.contrast) for line in lines)
    return [
        PaperRow(
            settings["dataset"],
            method,
            contrast,
            {column: _cell(found, method, contrast, column, settings) for column in COLUMNS},
        )
        for method, contrast in maps
        if method not in (CONTROL, CHANCE, LAST) and contrast != "plain"
    ]


def paper_markdown(rows: Sequence[PaperRow], setting: str) -> str:
    """The table with the set-up in its head and what the columns are below it."""
    head = [f"{column} {_ARROWS[column]}" for column in COLUMNS]
    lines = [f"| dataset | method | contrast | {' | '.join(head)} |", "|---|---|---|" + "--:|" * len(head)]
    for row in rows:
        cells = [_shown(cell) for cell in row.cells.values()]
        named = [_plain(row.dataset), _NAMES.get(row.method, row.method), row.contrast]
        lines.append(f"| {' | '.join(named + cells)} |")
    return f"{setting}\n\n" + "\n".join(lines) + f"\n\n{_legend(rows)}\n"


def paper_csv(rows: Sequence[PaperRow]) -> str:
    """A line a row: of every column the measure, both means, the paired difference with its interval, the pictures.

    The first line is the same for every dataset, so that tables can be put under one another.
    """
    parts = ("measure", "plain", "finer", "difference", "difference_low", "difference_high", "pictures")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["dataset", "method", "contrast", *(f"{c} {part}" for c in COLUMNS for part in parts)])
    for row in rows:
        values: list[Any] = []
        for cell in row.cells.values():
            if isinstance(cell, str):
                values += [cell, *[""] * (len(parts) - 1)]
            else:
                plain, finer = cell
                values += [finer.metric, plain.mean, finer.mean, finer.difference]
                values += [finer.difference_low, finer.difference_high, finer.pictures]
        writer.writerow([row.dataset, row.method, row.contrast, *values])
    return out.getvalue()


def _cell(
    found: Mapping[tuple[str, str, str], Line], method: str, contrast: str, column: str, settings: Mapping[str, Any]
) -> tuple[Line, Line] | str:
    base = LAST if settings.get("baseline") == "last" else method
    for metric in COLUMNS[column]:
        plain, finer = found.get((base, "plain", metric)), found.get((method, contrast, metric))
        if plain is not None and finer is not None:
            return plain, finer
    group = _NEEDS[column]
    if group in settings.get("left out", {}):
        return f"no {settings['left out'][group]}"
    measured = {"paper", group} & set(settings["metrics"])
    return "undefined on every picture" if measured else "not measured"


def _shown(cell: tuple[Line, Line] | str) -> str:
    if isinstance(cell, str):
        return cell
    plain, finer = cell
    return f"{plain.mean:.3f} → {finer.mean:.3f}{significance_marker(finer)}"


def _legend(rows: Sequence[PaperRow]) -> str:
    measured = {cell[1].metric for row in rows for cell in row.cells.values() if not isinstance(cell, str)}
    place = "the box" if "energy in box" in measured else "the object's mask"
    legend = (
        "Plain → contrast; ▲ better, ▼ worse where the 95 % interval of the paired difference excludes zero. "
        "Del: area under the deletion curve. "
        "RD@k: relative confidence drop (Eq. 10) when k % of the pixels are removed, against the most similar class, "
        "which is one of the paper contrast's own references: RD against others is in summary.md."
    )
    if measured & set(COLUMNS["Loc"]):
        legend += f" Loc: share of the map's energy in {place}; the chance level is in summary.md."
    return legend


def _plain(text: str) -> str:
    return text.replace("|", "\\|")
