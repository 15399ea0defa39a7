"""Percentile bootstrap intervals of means, paired if two methods were measured on the same pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from finercam.errors import FinerCAMError

__all__ = ["Interval", "bootstrap", "bootstrap_difference", "bootstrap_ratio", "bootstrap_statistic"]

_CHUNK = 2**22  # resampled values held at a time


class Interval(NamedTuple):
    """An estimate, the interval around it, and the number of pictures behind it."""

    estimate: float
    low: float
    high: float
    pictures: int


def bootstrap(values: Tensor, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """The mean of `values` `(N,)` with its percentile bootstrap interval; NaN values are not counted.

    Source: Efron and Tibshirani, 1993, chapter 13. The same values and seed give the same interval.

    >>> bootstrap(torch.tensor([1.0, 1.0, float("nan"), 1.0]))
    Interval(estimate=1.0, low=1.0, high=1.0, pictures=3)
    """
    return bootstrap_statistic([values], lambda means: means[0], resamples=resamples, level=level, seed=seed)


def bootstrap_difference(
    a: Tensor, b: Tensor, *, resamples: int = 2000, level: float = 0.95, seed: int = 0
) -> Interval:
    """`mean(a) − mean(b)`, paired: the same pictures `(N,)` are drawn for both, and a pair with a NaN is not counted.

    >>> bootstrap_difference(torch.tensor([2.0, 2.0, 2.0]), torch.tensor([1.0, 1.0, 1.0]))
    Interval(estimate=1.0, low=1.0, high=1.0, pictures=3)
    """
    return bootstrap_statistic([a, b], lambda means: means[0] - means[1], resamples=resamples, level=level, seed=seed)


def bootstrap_ratio(a: Tensor, b: Tensor, *, resamples: int = 2000, level: float = 0.95, seed: int = 0) -> Interval:
    """`mean(a) / mean(b)`, paired as in `bootstrap_difference`. It is the ratio of means, not the mean of ratios.

    >>> bootstrap_ratio(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 2.0]))
    Interval(estimate=2.0, low=2.0, high=2.0, pictures=2)
    """
    return bootstrap_statistic([a, b], lambda means: means[0] / means[1], resamples=resamples, level=level, seed=seed)


def bootstrap_statistic(
    columns: Sequence[Tensor],
    statistic: Callable[[Tensor], Tensor],
    *,
    resamples: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A function of the means of several paired columns `(N,)`; `statistic` maps means `(C, ...)` to `(...)`.

    Raises `FinerCAMError` if columns differ in shape, or for a level or number of resamples out of range.

    >>> half = bootstrap_statistic([torch.ones(3), torch.full((3,), 4.0)], lambda m: m[0] / m[1] * 2)
    >>> half.estimate
    0.5
    """
    if any(column.ndim != 1 or column.shape != columns[0].shape for column in columns):
        shapes = " and ".join(str(tuple(column.shape)) for column in columns)
        raise FinerCAMError(f"values have shape {shapes}, expected (N,), one value a picture, paired by place.")
    if not 0 < level < 1 or resamples < 1:
        raise FinerCAMError(f"level is {level} and resamples {resamples}, expected a level in (0, 1) and at least 1.")
    # The columns are small, so this runs in double precision on the CPU, with the same random draw on every device.
    table = torch.stack([column.detach().cpu().double() for column in columns])
    table = table[:, ~table.isnan().any(0)]
    count = table.shape[1]
    if count == 0:
        return Interval(torch.nan, torch.nan, torch.nan, 0)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, _CHUNK // count)
    drawn = []
    for start in range(0, resamples, at_once):
        picks = torch.randint(count, (min(at_once, resamples - start), count), generator=generator)
        drawn.append(statistic(torch.stack([column[picks].mean(1) for column in table])))
    tail = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.quantile(torch.cat(drawn), tail).tolist()
    return Interval(float(statistic(table.mean(1))), low, high, count)
