"""The numbers of a picture: scaling and upsampling of maps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["peak", "positive", "upsample"]


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
    """Largest value of each map, `(N, 1, 1)`, or 1 where that is zero."""
    largest = maps.amax(dim=(-2, -1), keepdim=True)
    return torch.where(largest == 0, torch.ones_like(largest), largest)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, pixel centres aligned: `(N, h, w)` to `(N, H, W)`."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
