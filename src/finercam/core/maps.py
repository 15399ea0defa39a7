"""The numbers of a picture: scaling and upsampling of maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["aligned", "peak", "places", "positive", "upsample"]

_MODES = {2: "bilinear", 3: "trilinear"}


def places(x: Tensor, first: int) -> tuple[int, ...]:
    """The axes of `x` from `first` on: rows and columns of a picture, slices too of a volume.

    >>> places(torch.zeros(2, 8, 4, 4), 2), places(torch.zeros(2, 8, 5, 4, 4), 2)
    ((2, 3), (2, 3, 4))
    """
    return tuple(range(first, x.ndim))


def aligned(values: Tensor, maps: Tensor) -> Tensor:
    """Values such as `(N, C)` with axes of length one behind, so that they combine with maps `(N, C, h, w)`."""
    return values[(..., *(None,) * (maps.ndim - values.ndim))]


def positive(signed: Tensor) -> Tensor:
    """ReLU, then division by each map's largest value: in [0, 1], and all zero if there is no evidence for the target.

    The least value is never subtracted: a constant positive map is one everywhere, no evidence stays zero.

    >>> positive(torch.tensor([[[1.0, 4.0]], [[-1.0, -2.0]]]))
    tensor([[[0.2500, 1.0000]],
    <BLANKLINE>
            [[0.0000, 0.0000]]])
    """
    rectified = signed.clamp(min=0)
    return rectified / peak(rectified)


def peak(maps: Tensor) -> Tensor:
    """Largest value of each map `(N, h, w)` or `(N, d, h, w)`, with axes of length one behind, or 1 where that is zero."""
    largest = maps.amax(dim=places(maps, 1), keepdim=True)
    return torch.where(largest == 0, torch.ones_like(largest), largest)


def upsample(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Linear, pixel centres aligned: `(N, h, w)` to `(N, H, W)`, or `(N, d, h, w)` to `(N, D, H, W)`."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size=size, mode=_MODES[len(size)], align_corners=False)[:, 0]
