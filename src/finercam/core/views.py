"""Views of an image for test-time smoothing: flips and scales, and the way back for a map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.core.maps import peak, upsample
from finercam.errors import FinerCAMError

__all__ = ["IDENTITY", "LARGER", "View", "average", "views"]


@dataclass(frozen=True)
class View:
    """A mirrored or scaled version of images `(N, 3, H, W)`, or a mirrored one of volumes `(N, C, D, H, W)`."""

    flip: bool = False
    scale: float = 1.0

    def apply(self, images: Tensor) -> Tensor:
        if self.flip:
            images = images.flip(-1)
        if self.scale == 1.0:
            return images
        if images.ndim != 4:
            raise FinerCAMError(
                "smooth='scale' and 'larger' resize pictures; for volumes take smooth='flip', or none"
            )
        size = [max(1, round(side * self.scale)) for side in images.shape[-2:]]
        wide = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images  # not on all devices
        return F.interpolate(wide, size=size, mode="bilinear", align_corners=False, antialias=True).to(images.dtype)

    def undo(self, maps: Tensor, size: tuple[int, ...]) -> Tensor:
        """Bring a map `(N, h, w)` of the view back to the original's grid `size`."""
        return upsample(maps.flip(-1) if self.flip else maps, size)


IDENTITY = View()
SMOOTHINGS = ("flip", "scale", "larger")
LARGER = 1.5
"""Scale of the larger view: its maps have 2.25 times the places, and it costs 2.25 runs of the image itself."""


def average(maps: Sequence[Tensor], seen: Sequence[View], fused: bool) -> Tensor:
    """The mean of the views' signed maps `(N, h_v, w_v)`, on the grid of the image itself, or of the largest view.

    Maps that were fused from several layers have no common scale, and each is divided by its largest magnitude.
    """
    if len(maps) == 1:
        return maps[0]
    finest = max(range(len(seen)), key=lambda at: (seen[at].scale if seen[at].scale >= LARGER else 0.0, -at))
    size = tuple(maps[finest].shape[1:])
    scaled = [of_view / peak(of_view.abs()) for of_view in maps] if fused else maps
    return torch.stack([view.undo(of_view, size) for view, of_view in zip(seen, scaled, strict=True)]).mean(0)


def views(smooth: str | tuple[str, ...] | None) -> tuple[View, ...]:
    """The views that `smooth` asks for, the image itself first: "flip", "scale" (0.875 and 1.125), "larger" (1.5),
    or several of them.

    >>> views("flip")
    (View(flip=False, scale=1.0), View(flip=True, scale=1.0))
    >>> len(views(("flip", "scale")))
    6
    """
    asked = smooth if isinstance(smooth, (tuple, list)) else () if smooth is None else (smooth,)
    for name in asked:
        if not isinstance(name, str) or name not in SMOOTHINGS:
            raise FinerCAMError(f"smooth={smooth!r}: expected 'flip', 'scale', 'larger' or several of them")
    scales = (1.0, *((0.875, 1.125) if "scale" in asked else ()), *((LARGER,) if "larger" in asked else ()))
    flips = (False, True) if "flip" in asked else (False,)
    return tuple(View(flip, scale) for scale in scales for flip in flips)
