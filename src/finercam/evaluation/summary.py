"""From rows to a table: means with bootstrap intervals, and each contrast paired with its method's plain map."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from finercam import metrics
from finercam.evaluation.groups import DIRECTION, RANKED

__all__ = ["CHANCE", "CONTROL", "LAST", "Line", "direction", "significance_marker", "summarise"]

CONTROL, CHANCE, LAST = "control", "chance", "last layer"
"""What stands in the place of a method's name for maps and levels that no compared method made."""

KEYS = (
    *("index", "id", "label", "prediction", "probability", "target probability"),
    *("rival", "method", "contrast", "error"),
)

Values = dict[int, tuple[float, ...]]
"""What a metric is by picture: its value, or a numerator and a denominator of which the means are divided."""


@dataclass(frozen=True)
class Line:
    """One number of the table with its 95 % interval, and its comparison with the plain map: the paired difference and
    the ratio of means, with their intervals. They are NaN where there is no plain map to compare with."""

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


def summarise(table: Any, *, baseline: str = "same", correct_only: bool = False, seed: int = 0) -> list[Line]:
    """Summarise the rows of a pyarrow table, each (method, contrast) by each metric, rank-based metrics first.

    Pictures are the unit: intervals are percentile bootstraps over them, differences and ratios are paired. The
    `baseline` is the plain map of the same method, layers and fusion ("same"), or the last layer's Grad-CAM ("last").
    Relative drops "rd/p@…" are ratios of means, for the mean of ratios explodes where the target's probability is near 0.
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
        plain = (LAST, "plain") if baseline == "last" else (method, "plain")
        base = values.get(plain) if (method, contrast) != plain and method not in (CONTROL, CHANCE) else None
        for name, measured in sorted(columns.items(), key=lambda item: not item[0].startswith(RANKED)):
            if measured:
                lines.append(_line((method, contrast, name), measured, base[name] if base else {}, seed))
    return lines


def significance_marker(line: Line) -> str:
    """▲ where a line is better than the plain map, ▼ where it is worse, if the interval of the difference excludes 0."""
    if not direction(line.metric) or math.isnan(line.difference_low):
        return ""
    up = 1 if direction(line.metric) == "up" else -1
    gains = sorted((up * line.difference_low, up * line.difference_high))
    return " ▲" if gains[0] > 0 else " ▼" if gains[1] < 0 else ""


def direction(name: str) -> str:
    """ "up", "down" or "": which way a metric is better.

    >>> direction("rd/p@5% rival"), direction("average drop"), direction("complexity")
    ('up', 'down', '')
    """
    words = [name.split("@")[0], name.split("@")[0].split()[0].split("/")[0], name.split("_")[0]]
    return next((DIRECTION[word] for word in words if word in DIRECTION), "")


def _by_map(table: Any, names: list[str]) -> dict[tuple[str, str], dict[str, Values]]:
    """{(method, contrast): {metric: values}}, leaving out what was not measured."""
    columns = {name: table[name].to_pylist() for name in (*names, *KEYS) if name in table.column_names}
    relative = {f"rd/p{name[2:]}": name for name in names if name.startswith("rd@")}
    found: dict[tuple[str, str], dict[str, Values]] = {}
    for row, key in enumerate(zip(columns["method"], columns["contrast"], strict=True)):
        measured = found.setdefault(key, {name: {} for name in (*names, *relative)})
        index = columns["index"][row]
        for name in names:
            value = columns[name][row]
            if value is not None and not math.isnan(value):
                measured[name][index] = (value,)
        for name, numerator in relative.items():
            if index in measured[numerator]:
                measured[name][index] = (*measured[numerator][index], columns["target probability"][row])
    return found


def _line(name: tuple[str, str, str], mine: Values, plain: Values, seed: int) -> Line:
    own = metrics.bootstrap_statistic(_columns(mine, list(mine)), _quotient, seed=seed)
    line = (*name, own.estimate, own.low, own.high, own.pictures)
    both = [index for index in mine if index in plain]
    if not both:
        return Line(*line)
    columns = [*_columns(mine, both), *_columns(plain, both)]
    half = len(columns) // 2
    gap = metrics.bootstrap_statistic(columns, lambda m: _quotient(m[:half]) - _quotient(m[half:]), seed=seed)
    ratio = metrics.bootstrap_statistic(columns, lambda m: _quotient(m[:half]) / _quotient(m[half:]), seed=seed)
    return Line(*line, gap.estimate, gap.low, gap.high, ratio.estimate, ratio.low, ratio.high)


def _columns(values: Values, indices: list[int]) -> list[Tensor]:
    return list(torch.tensor([values[index] for index in indices], dtype=torch.float64).T)


def _quotient(means: Tensor) -> Tensor:
    """A mean, or the first of two means divided by the second."""
    return means[0] if len(means) == 1 else means[0] / means[1]
