"""Metrics for photos with keypoints: whether the map lies on the parts in which target and rival differ."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.metrics.checks import as_maps, finite_maps, void_where
from finercam.metrics.ranks import spearman

__all__ = ["deciding_parts", "keypoint_regions", "part_evidence", "part_evidence_chance"]


def keypoint_regions(points: Tensor, radius: Tensor, size: tuple[int, int]) -> Tensor:
    """The nearest visible keypoint of each pixel within `radius (N,)` pixels, `(N, H, W)` int64; −1 if there is none.

    `points (N, K, 2)` are x, y in pixels, NaN if a keypoint is not visible. Of equally near ones the first counts.

    >>> keypoint_regions(torch.tensor([[[0.5, 0.5], [3.5, 0.5]]]), torch.tensor([1.0]), (1, 4)).tolist()
    [[[0, 0, 1, 1]]]
    """
    rows = torch.arange(size[0], device=points.device) + 0.5
    columns = torch.arange(size[1], device=points.device) + 0.5
    x, y = points[..., 0, None, None], points[..., 1, None, None]
    squared = ((columns - x) ** 2 + (rows[:, None] - y) ** 2).nan_to_num(torch.inf, posinf=torch.inf)
    if points.shape[1] == 0:
        return torch.full((len(points), *size), -1, device=points.device)
    distance, nearest = squared.min(1)
    return nearest.masked_fill(~(distance <= radius[:, None, None] ** 2), -1)  # also where the radius is NaN


def deciding_parts(difference: Tensor) -> Tensor:
    """The parts in which target and rival differ, bool `(N, P)`.

    `difference (N, P)` is in [0, 1], and NaN for parts that are not visible. A part is deciding if its difference is
    at least 0.3, at least 0.75 of the largest visible one, and at least 0.1 above the median of the visible ones.

    >>> deciding_parts(torch.tensor([[0.9, 0.8, 0.1, 0.2, torch.nan]])).int().tolist()
    [[1, 1, 0, 0, 0]]
    """
    floor = (0.75 * difference.nan_to_num(-torch.inf).amax(1, keepdim=True)).clamp_min(0.3)
    above_median = difference >= difference.nanquantile(0.5, 1, keepdim=True) + 0.1
    return (difference >= floor) & above_median


def part_evidence(maps: Tensor, regions: Tensor, difference: Tensor) -> dict[str, Tensor]:
    """Whether a map `(N, H, W)` lies on the parts in which target and rival differ; each value `(N,)`.

    `regions (N, H, W)` is the part of every pixel (−1: none). `difference (N, P)` is how much target and rival differ
    in each part, NaN for parts that are not visible. The deciding parts are `deciding_parts(difference)`.

    - `part_pointing` in [0, 1] (higher is better): whether the part with the highest mean value is a deciding one;
    - `part_correlation` in [−1, 1] (higher): Spearman's ρ of the parts' mean values and their differences;
    - `part_share` in [0, 1] (higher): the mass on deciding parts as a share of the mass on all parts;
    - `part_energy` in [0, 1] (higher): the mass on deciding parts as a share of the map's positive mass.

    All are NaN if no part is deciding or the map has no positive mass. Raises `FinerCAMError` if the shapes differ.

    >>> maps, regions = torch.tensor([[[3.0, 1.0, 4.0]]]), torch.tensor([[[0, 1, -1]]])
    >>> values = part_evidence(maps, regions, torch.tensor([[0.9, 0.1]]))
    >>> [round(values[name].item(), 3) for name in ("part_pointing", "part_share", "part_energy")]
    [1.0, 0.75, 0.375]
    """
    if regions.shape != maps.shape or difference.ndim != 2 or len(difference) != len(maps):
        raise FinerCAMError(
            f"maps {tuple(maps.shape)}, regions {tuple(regions.shape)} and difference {tuple(difference.shape)}: "
            "expected (N, H, W) twice and (N, P)."
        )
    regions, difference = regions.to(maps.device), difference.to(maps.device)
    mass = as_maps(maps).clamp_min(0).flatten(1)
    total = mass.sum(1)
    pixels, on_part = _per_part(torch.ones_like(mass), regions, difference), _per_part(mass, regions, difference)
    difference = difference.masked_fill(pixels == 0, torch.nan)
    deciding, seen = deciding_parts(difference), ~difference.isnan()
    decided = (on_part * deciding).sum(1)
    density = torch.where(seen, on_part / pixels, -1.0)
    top = density == density.amax(1, keepdim=True)  # equal densities share the value, as in `pointing`
    pairs = zip(difference, density, seen, strict=True)
    correlations = [spearman(d[s][None, None], p[s][None, None])[0] for d, p, s in pairs]
    values = {
        "part_pointing": (top & deciding).sum(1) / top.sum(1),
        "part_correlation": torch.stack(correlations) if correlations else total,
        "part_share": decided / (on_part * seen).sum(1),
        "part_energy": decided / total,
    }
    undefined = ~deciding.any(1) | (total <= 0) | ~finite_maps(maps)
    return {name: void_where(undefined, value.to(mass)) for name, value in values.items()}


def part_evidence_chance(regions: Tensor, difference: Tensor) -> dict[str, Tensor]:
    """The values of the uniform map under the names of `part_evidence`; its correlation is undefined (NaN).

    >>> part_evidence_chance(torch.tensor([[[0, 1, -1, -1]]]), torch.tensor([[0.9, 0.1]]))["part_energy"].item()
    0.25
    """
    return part_evidence(torch.ones(regions.shape, device=regions.device), regions, difference)


def _per_part(values: Tensor, regions: Tensor, difference: Tensor) -> Tensor:
    """The sum of values `(N, H·W)` over the pixels of each part, `(N, P)`."""
    count = difference.shape[1]
    place = torch.where(regions < 0, count, regions).flatten(1)
    return values.new_zeros(len(values), count + 1).scatter_add_(1, place, values)[:, :count]
