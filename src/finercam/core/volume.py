"""How a layer's output is read as feature maps of a volume or a video, `(N, C, d, h, w)`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import nn

__all__ = ["read_volume", "volume_patch"]

_HALVINGS = 6
"""How often a transformer may halve the sides of its grid; the slices or frames it keeps."""


def read_volume(
    shape: tuple[int, ...],
    size: tuple[int, ...],
    channels: Mapping[str, set[int]],
    patch: tuple[int, ...] | None = None,
    prefix: int | None = None,
) -> tuple[str, tuple[int, ...], int] | None:
    """Kind, grid `(d, h, w)` and number of prefix tokens of an output of `shape` for volumes of `size` (D, H, W).

    `channels` are those that the parts of the layer declare, first ("nchw") and last ("nhwc"). Tokens are read where
    `patch`, the strides of the model's first convolution, explains their number. None where no reading fits.

    >>> read_volume((2, 64, 4, 8, 8), (16, 32, 32), {"nchw": {64}, "nhwc": set()})
    ('nchw', (4, 8, 8), 0)
    >>> read_volume((2, 393, 96), (16, 224, 224), {"nchw": set(), "nhwc": {96}}, (2, 4, 4), 1)
    ('tokens', (8, 7, 7), 1)
    """
    if len(shape) == 5:
        return _maps(shape, size, channels)
    if len(shape) != 3 or patch is None:
        return None
    for before in (0, 1) if prefix is None else (prefix,):
        for grid in _grids(size, patch):
            if math.prod(grid) == shape[1] - before:
                return "tokens", grid, before
    return None


def volume_patch(model: nn.Module | None) -> tuple[int, ...] | None:
    """Strides of the convolution that reads the volume, or None where there is none."""
    convolutions = (module for module in (model.modules() if model is not None else ()) if type(module) is nn.Conv3d)
    first = next(convolutions, None)
    return None if first is None else tuple(first.stride)


def _maps(
    shape: tuple[int, ...], size: tuple[int, ...], channels: Mapping[str, set[int]]
) -> tuple[str, tuple[int, ...], int] | None:
    readings = {"nchw": (shape[1], shape[2:]), "nhwc": (shape[4], shape[1:4])}
    fitting = [
        kind for kind, (_, grid) in readings.items() if all(0 < g <= s for g, s in zip(grid, size, strict=True))
    ]
    declared = [kind for kind in fitting if readings[kind][0] in channels[kind]]
    # Both readings can fit: the strides of rows and columns are alike, and channels usually come first.
    best = max(declared or fitting, key=lambda kind: (-_skew(readings[kind][1], size), kind == "nchw"), default=None)
    return None if best is None else (best, readings[best][1], 0)


def _skew(grid: tuple[int, ...], size: tuple[int, ...]) -> float:
    """How far the strides of rows and columns are apart."""
    return abs(math.log(grid[1] * size[2] / (grid[2] * size[1])))


def _grids(size: tuple[int, ...], patch: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Grids of patches, and those of later stages with half the rows and columns each; sides rounded up or down."""
    for halving in range(_HALVINGS):
        strides = (patch[0], patch[1] << halving, patch[2] << halving)
        yield tuple(max(1, -(-side // stride)) for side, stride in zip(size, strides, strict=True))
        yield tuple(max(1, side // stride) for side, stride in zip(size, strides, strict=True))
