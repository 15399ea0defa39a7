"""From rows to a table: means with bootstrap intervals, and each contrast paired with its method's plain map."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from finercam import metrics
from finercam.evaluation.measures import DIRECTION

__all__ = [
    "CHANCE",
    "CONTROL",
    "Line",
    "cell",
    "describe",
    "heading",
    "markdown",
    "significance_marker",
    "summarise",
    "to_csv",
]

CONTROL, CHANCE = "control", "chance"
KEYS = ("index", "id", "label", "prediction", "probability", "rival", "method", "contrast", "error")


@dataclass(frozen=True)
class Line:
    """One number of the table, with its 95 % interval, and against the plain map of the same method: the paired
    difference and the ratio of means, with theirs. NaN where there is no plain map to compare with."""

    method: str
    contrast: str
    metric: str
    mean: float
    low: float
    high: float
    pictures: int
    difference: float = math.nan
    difference_low: float = math.nan
    difference_high: float = math.nan
    ratio: float = math.nan
    ratio_low: float = math.nan
    ratio_high: float = math.nan


def summarise(table: Any, *, correct_only: bool = False, seed: int = 0) -> list[Line]:
    """Summarise the rows of a pyarrow table, each (method, contrast) by each metric; pictures are the unit.

    Intervals are percentile bootstraps over pictures; differences and ratios are paired, picture by picture.
    """
    import pyarrow.compute as pc

    if "error" in table.column_names:
        table = table.filter(pc.field("error").is_null())
    if correct_only:
        table = table.filter(pc.field("label") == pc.field("prediction"))
    names = [name for name in table.column_names if name not in KEYS]
    values = _by_map(table, names)
    lines = []
    for (method, contrast), columns in values.items():
        plain = values.get((method, "plain")) if contrast != "plain" else None
        for name in names:
            mine = columns[name]
            if not mine:
                continue
            lines.append(_line(method, contrast, name, mine, plain[name] if plain else None, seed))
    return lines


def markdown(lines: Sequence[Line], names: Sequence[str], setting: str = "") -> str:
    """A Markdown table, a row a map; better than plain is marked ▲, worse ▼, where the interval excludes no change."""
    head = [heading(name) for name in names]
    rows = [f"| method | contrast | {' | '.join(head)} |", "|---|---|" + "--:|" * len(names)]
    cells = {(line.method, line.contrast, line.metric): line for line in lines}
    for method, contrast in dict.fromkeys((line.method, line.contrast) for line in lines):
        found = [cells.get((method, contrast, name)) for name in names]
        rows.append(f"| {method} | {contrast} | " + " | ".join(cell(line) for line in found) + " |")
    return (f"{setting}\n\n" if setting else "") + "\n".join(rows) + "\n"


def heading(name: str) -> str:
    """A metric's name with the way that is better."""
    return f"{name} { ({'up': '↑', 'down': '↓'}.get(_direction(name), '')) }".strip()


def cell(line: Line | None) -> str:
    """A mean, with ▲ or ▼ where it is surely better or worse than the plain map's."""
    if line is None:
        return ""
    return f"{line.mean:.3f}{significance_marker(line)}"


def significance_marker(line: Line) -> str:
    """An arrow up where a line is surely better than the plain map, down where it is worse, by the interval."""
    if not _direction(line.metric) or math.isnan(line.difference_low):
        return ""
    up = 1 if _direction(line.metric) == "up" else -1
    gains = sorted((up * line.difference_low, up * line.difference_high))
    return " ▲" if gains[0] > 0 else " ▼" if gains[1] < 0 else ""


def to_csv(lines: Sequence[Line]) -> str:
    """All lines with all intervals, as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(Line.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return out.getvalue()


def describe(settings: dict[str, Any], pictures: int, errors: int, accuracy: float) -> str:
    """The set-up in one paragraph, for the head of every table."""
    return (
        f"{settings['dataset']} ({pictures} pictures" + (f", {errors} unreadable" if errors else "") + f"), model "
        f"{settings['model']} (accuracy {accuracy:.1%} on them), layer {', '.join(settings['layers'])}, target: the "
        f"{settings['target']}{'; maps as a run kept them' if 'run' in settings else ''}; pictures {settings['preprocess']}; removed pixels filled with {settings['fill']}, "
        f"ranked on the map before its ReLU; rival: the likeliest {settings['rival']}; seed {settings['seed']}; "
        f"finercam {settings['finercam']}, torch {settings['torch']}. 95 % intervals by bootstrap over pictures."
    )


def _by_map(table: Any, names: Sequence[str]) -> dict[tuple[str, str], dict[str, dict[int, float]]]:
    """{(method, contrast): {metric: {picture: value}}}, leaving out what was not measured."""
    columns = {name: table[name].to_pylist() for name in (*names, "method", "contrast", "index")}
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for row, key in enumerate(zip(columns["method"], columns["contrast"], strict=True)):
        measured = found.setdefault(key, {name: {} for name in names})
        for name in names:
            value = columns[name][row]
            if value is not None and not math.isnan(value):
                measured[name][columns["index"][row]] = value
    return found


def _line(
    method: str, contrast: str, name: str, mine: dict[int, float], plain: dict[int, float] | None, seed: int
) -> Line:
    own = metrics.bootstrap(torch.tensor(list(mine.values())), seed=seed)
    line = (method, contrast, name, own.estimate, own.low, own.high, own.pictures)
    both = [index for index in mine if index in plain] if plain else []
    if not both or plain is None:
        return Line(*line)
    a, b = torch.tensor([mine[i] for i in both]), torch.tensor([plain[i] for i in both])
    gap = metrics.bootstrap_difference(a, b, seed=seed)
    ratio = metrics.bootstrap_ratio(a, b, seed=seed)
    return Line(*line, gap.estimate, gap.low, gap.high, ratio.estimate, ratio.low, ratio.high)


def _direction(name: str) -> str:
    words = [name.split("@")[0], name.split("@")[0].split()[0].split("/")[0], name.split("_")[0]]
    return next((DIRECTION[word] for word in words if word in DIRECTION), "")
