"""From evidence to pictures' numbers: signed maps, their fusion over layers, scaling and upsampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.errors import FinerCAMError

__all__ = ["FUSIONS", "checked_fusion", "fuse", "peak", "positive", "signed_map", "upsample"]

FUSIONS = ("mean", "product")


def signed_map(
    evidence: Evidence, contrast: Contrast, rule: Callable[[Tensor, Tensor], Tensor], fusion: str
) -> Tensor:
    """The map before the ReLU, `(N, h, w)`: the rule's own numbers for one layer, a fusion in [-1, 1] for several."""
    with torch.autocast(evidence.activations[0].device.type, enabled=False):  # half precision is for the model
        return fuse([rule(*of_layer) for of_layer in evidence.contrasted(contrast)], fusion)


def fuse(signed: Sequence[Tensor], fusion: str = "mean") -> Tensor:
    """Fuse signed maps `(N, h_l, w_l)` of several layers on the finest of their grids.

    Each is first divided by its largest magnitude. "mean" averages; "product" multiplies what all layers agree
    speaks for the target, and takes away the product of what they agree speaks against it (after RefineCAM, 2026).

    >>> fuse([torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[1.0, 1.0]]])], "product")
    tensor([[[1., 0.]]])
    """
    checked_fusion(fusion)
    if len(signed) == 1:
        return signed[0]
    finest = max(((s.shape[1], s.shape[2]) for s in signed), key=lambda size: size[0] * size[1])
    scaled = torch.stack([upsample(s / peak(s.abs()), finest) for s in signed])
    if fusion == "mean":
        return scaled.mean(0)
    return scaled.clamp(min=0).prod(0) - (-scaled).clamp(min=0).prod(0)


def checked_fusion(fusion: Any) -> str:
    """The name of a fusion, as it was given; raises FinerCAMError for another one."""
    if not isinstance(fusion, str) or fusion not in FUSIONS:
        raise FinerCAMError(f"fusion={fusion!r}: expected one of {', '.join(FUSIONS)}")
    return fusion


def positive(signed: Tensor) -> Tensor:
    """ReLU, then division by each map's largest value: in [0, 1], and all zero where nothing speaks for the target.

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
