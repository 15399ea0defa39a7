"""Views of an image for test-time smoothing: flips and scales, and the way back for a map."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from finercam.core.maps import upsample
from finercam.errors import FinerCAMError

__all__ = ["IDENTITY", "View", "views"]


@dataclass(frozen=True)
class View:
    """A mirrored or scaled look at images `(N, 3, H, W)`."""

    flip: bool = False
    scale: float = 1.0

    def apply(self, images: Tensor) -> Tensor:
        if self.flip:
            images = images.flip(-1)
        if self.scale == 1.0:
            return images
        size = [max(1, round(side * self.scale)) for side in images.shape[-2:]]
        return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)

    def undo(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring a map `(N, h, w)` of the view back to the original's grid `size`."""
        return upsample(maps.flip(-1) if self.flip else maps, size)


IDENTITY = View()


def views(smooth: str | tuple[str, ...] | None) -> tuple[View, ...]:
    """The views that `smooth` asks for, the image itself first: "flip", "scale" (0.875 and 1.125), or both.

    >>> views("flip")
    (View(flip=False, scale=1.0), View(flip=True, scale=1.0))
    >>> len(views(("flip", "scale")))
    6
    """
    asked = smooth if isinstance(smooth, (tuple, list)) else () if smooth is None else (smooth,)
    for name in asked:
        if not isinstance(name, str) or name not in ("flip", "scale"):
            raise FinerCAMError(f"smooth={smooth!r}: expected 'flip', 'scale' or both")
    scales = (1.0, 0.875, 1.125) if "scale" in asked else (1.0,)
    flips = (False, True) if "flip" in asked else (False,)
    return tuple(View(flip, scale) for scale in scales for flip in flips)
