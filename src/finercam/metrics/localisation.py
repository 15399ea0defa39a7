"""Metrics of how well a map marks a known region, each with its chance level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.metrics.checks import as_maps, as_masks, finite_maps, void_where
from finercam.metrics.perturb import pixel_counts

__all__ = [
    "average_precision",
    "average_precision_chance",
    "box_masks",
    "box_share",
    "energy",
    "equal_area_energy",
    "mask_iou",
    "mask_share",
    "pointing",
    "pointing_chance",
]


def box_masks(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Boxes `(N, 4)` x0, y0, x1, y1 (x1, y1 exclusive) as masks `(N, H, W)`: pixels whose centre lies inside.

    >>> box_masks(torch.tensor([[1, 0, 3, 1]]), (2, 4)).int().tolist()
    [[[0, 1, 1, 0], [0, 0, 0, 0]]]
    """
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise FinerCAMError(f"boxes have shape {tuple(boxes.shape)}, expected (N, 4): x0, y0, x1, y1.")
    x0, y0, x1, y1 = boxes.float()[:, :, None].unbind(1)
    rows = torch.arange(size[0], device=boxes.device) + 0.5
    columns = torch.arange(size[1], device=boxes.device) + 0.5
    inside_y = (rows >= y0) & (rows < y1)
    inside_x = (columns >= x0) & (columns < x1)
    return inside_y[:, :, None] & inside_x[:, None, :]


def mask_share(masks: Tensor) -> Tensor:
    """The mask's share of the picture, `(N,)` in [0, 1]: the chance level of `energy`, `pointing` and `mask_iou`."""
    return masks.flatten(1).bool().float().mean(1)


def box_share(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The box's share of the picture, `(N,)` in [0, 1]. The task is easier with a loose box than with a tight one.

    >>> box_share(torch.tensor([[0, 0, 2, 2]]), (4, 4)).tolist()
    [0.25]
    """
    return mask_share(box_masks(boxes, size))


def energy(maps: Tensor, masks: Tensor) -> Tensor:
    """Energy-based pointing game: the share of the map's positive mass inside the mask, `(N,)` in [0, 1], higher is better.

    `Σ_{i∈M} S_i⁺ / Σ_i S_i⁺`. Chance: `mask_share`, exactly for the uniform map and on average for shuffled maps. NaN
    for an empty mask and for a map without positive mass. Pitfall: sharpening a map raises the value without changing
    the order of the pixels; compare with the plain map of the same layers, or use `equal_area_energy`. Source:
    Score-CAM, CVPR-W 2020.

    >>> energy(torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[True, False]]])).item()
    0.75
    """
    mass = as_maps(maps).clamp_min(0).flatten(1)
    inside = as_masks(masks, maps).flatten(1)
    # Dividing by the peak first keeps the sums of huge and tiny maps in range.
    mass = mass / mass.amax(1, keepdim=True).clamp_min(torch.finfo(mass.dtype).tiny)
    share = (mass * inside).sum(1) / mass.sum(1)
    return void_where(~inside.any(1) | ~finite_maps(maps), share)


def equal_area_energy(maps: Tensor, masks: Tensor, shares: Sequence[float] | None = (0.05, 0.1, 0.2)) -> Tensor:
    """The share of the map's top pixels that lie inside the mask, `(N, S)` in [0, 1], higher is better.

    This is the energy of a map whose top share of pixels is 1 and whose other pixels are 0. It depends only on the
    order of the pixels, so sharpening cannot raise it, and signed maps can be compared. With `shares=None` the share
    is the area of the mask, `(N, 1)`. Equal values at the threshold count in proportion, so the uniform map gets the
    chance level, `mask_share`. NaN for an empty mask.

    >>> equal_area_energy(torch.tensor([[[3.0, 1.0, 2.0, 0.0]]]), torch.tensor([[[True, True, False, False]]]), [0.5])
    tensor([[0.5000]])
    """
    flat = as_maps(maps).flatten(1)
    inside = as_masks(masks, maps).flatten(1)
    pixels = flat.shape[1]
    if shares is None:
        counts = inside.sum(1, keepdim=True).clamp_min(1)
    else:
        counts = pixel_counts(shares, pixels).clamp_min(1).to(flat.device).expand(len(flat), -1).long()
    edge = flat.sort(1, descending=True).values.gather(1, counts - 1)[:, :, None]
    above, level = flat[:, None] > edge, flat[:, None] == edge
    hits = inside[:, None]
    tied = counts - above.sum(2)
    share = ((above & hits).sum(2) + tied * (level & hits).sum(2) / level.sum(2)) / counts
    return void_where(~inside.any(1) | ~finite_maps(maps), share)


def pointing(maps: Tensor, masks: Tensor, *, tolerance: int = 0) -> Tensor:
    """Pointing game: whether the map's maximum is within `tolerance` pixels of the mask, `(N,)`, higher is better.

    If several pixels have the maximum, the value is the share of them that hit, so that a uniform map gets the chance
    level, `pointing_chance`. NaN for an empty mask. Source: Zhang et al., Excitation Backprop, IJCV 2018, with a
    tolerance of 15 pixels. Report the tolerance, because 15 pixels make a small part a large target.

    >>> pointing(torch.tensor([[[3.0, 1.0, 1.0]]]), torch.tensor([[[False, True, False]]]), tolerance=1).item()
    1.0
    """
    flat = as_maps(maps).flatten(1)
    target = _grow(as_masks(masks, maps), tolerance).flatten(1)
    peak = flat == flat.amax(1, keepdim=True)
    hit = (peak & target).sum(1) / peak.sum(1)
    return void_where(~target.any(1) | ~finite_maps(maps), hit)


def pointing_chance(masks: Tensor, *, tolerance: int = 0) -> Tensor:
    """The chance that a random pixel hits, `(N,)`: the area share of the mask dilated by the tolerance.

    >>> pointing_chance(torch.tensor([[[True, False, False, False]]]), tolerance=1).item()
    0.5
    """
    return void_where(~masks.flatten(1).bool().any(1), mask_share(_grow(masks.bool(), tolerance)))


def mask_iou(maps: Tensor, masks: Tensor, thresholds: Sequence[float] = (0.25, 0.5, 0.75)) -> Tensor:
    """Intersection over union of the mask and the map's pixels at or above each share of its peak, `(N, T)` in [0, 1].

    Thresholds are in (0, 1] and relative to the positive peak. A map without positive values has IoU 0. The uniform
    map gets `mask_share`. NaN for an empty mask.

    >>> mask_iou(torch.tensor([[[4.0, 2.0, 0.0]]]), torch.tensor([[[True, False, False]]]), [0.5, 1.0]).tolist()
    [[0.5, 1.0]]
    """
    if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
        raise FinerCAMError(f"thresholds are {list(thresholds)}, expected shares of the peak in (0, 1].")
    flat = as_maps(maps).flatten(1)
    inside = as_masks(masks, maps).flatten(1)
    peak = flat.amax(1, keepdim=True)
    columns = []
    for threshold in thresholds:
        chosen = (flat >= peak * threshold) & (peak > 0)
        columns.append((chosen & inside).sum(1) / (chosen | inside).sum(1))
    return void_where(~inside.any(1) | ~finite_maps(maps), torch.stack(columns, 1))


def average_precision(maps: Tensor, masks: Tensor) -> Tensor:
    """Average precision of the map as a detector of the mask's pixels, `(N,)` in (0, 1], higher is better.

    `AP = Σ_t (R_t − R_{t−1}) P_t` over the distinct values t of the map, so that tied pixels enter together, as in
    scikit-learn. It depends only on ranks, so signed maps are allowed. Chance: the uniform map gets `mask_share`, a
    random order `average_precision_chance`. NaN for an empty mask.

    >>> average_precision(torch.tensor([[[0.9, 0.8, 0.1]]]), torch.tensor([[[True, False, True]]])).item()
    0.8333333730697632
    """
    flat = as_maps(maps).flatten(1)
    inside = as_masks(masks, maps).flatten(1)
    values, order = flat.sort(1, descending=True)
    hits = inside.gather(1, order)
    pixels = flat.shape[1]
    place = torch.arange(pixels, device=flat.device)
    # Every pixel gets the precision at the end of its group of equal values.
    closes = torch.cat((values[:, 1:] != values[:, :-1], torch.ones_like(inside[:, :1])), 1)
    end = torch.where(closes, place, pixels).flip(1).cummin(1).values.flip(1)
    precision = hits.cumsum(1).gather(1, end) / (end + 1)
    average = (precision * hits).sum(1) / inside.sum(1)
    return void_where(~inside.any(1) | ~finite_maps(maps), average)


def average_precision_chance(masks: Tensor) -> Tensor:
    """The expected average precision of a random order of the pixels, `(N,)`; slightly above `mask_share`.

    `[H_P + (P − H_P)(R − 1)/(P − 1)] / P` for R of P pixels, `H_P = 1 + 1/2 + … + 1/P`.

    >>> average_precision_chance(torch.tensor([[[True, False]]])).item()   # 1 or 1/2
    0.75
    """
    flat = masks.flatten(1).bool()
    pixels = flat.shape[1]
    harmonic = float((1 / torch.arange(1, pixels + 1, dtype=torch.float64)).sum())
    others = (flat.sum(1) - 1) / max(1, pixels - 1)
    return void_where(~flat.any(1), (harmonic + (pixels - harmonic) * others) / pixels)


def _grow(masks: Tensor, radius: int) -> Tensor:
    """The mask dilated by a disc of `radius` pixels, as the union of its rows."""
    if radius < 0:
        raise FinerCAMError(f"tolerance is {radius}, expected pixels, 0 or more.")
    if radius == 0:
        return masks
    grown = torch.zeros_like(masks)
    x = masks.float()[:, None]
    height = masks.shape[1]
    for dy in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        reach = int((radius**2 - dy**2) ** 0.5)
        row = F.max_pool2d(F.pad(x, (reach, reach)), (1, 2 * reach + 1), stride=1)[:, 0] > 0
        source, place = (
            (slice(0, height - dy), slice(dy, None)) if dy >= 0 else (slice(-dy, None), slice(0, height + dy))
        )
        grown[:, place] |= row[:, source]
    return grown
