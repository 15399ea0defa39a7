"""An explanation's maps as they are drawn: smooth, and dimmed if their evidence is weak."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finercam.core.maps import peak, positive
from finercam.view.blend import contour, overlay, signed
from finercam.view.shown import require_pictures
from finercam.view.strength import Strength, strength

if TYPE_CHECKING:
    from finercam.explanation import Explanation

__all__ = ["MUTE", "VIEWS", "drawn", "drawn_signed", "picture", "smooth", "strength_of"]

VIEWS = ("overlay", "contour", "signed", "photo")
MUTE = 0.85
"""Share of the photo's colour that is removed under a tint, so that the colours of the map stand out."""


def picture(photo: np.ndarray, answer: Explanation, view: str = "overlay") -> Image.Image:
    """The map of an explanation of one image on its photo `(H, W, 3)`, in one of VIEWS."""
    if view == "photo":
        return Image.fromarray(photo)
    if view == "signed":
        return signed(photo, drawn_signed(answer), mute=MUTE)
    return contour(photo, drawn(answer)) if view == "contour" else overlay(photo, drawn(answer), mute=MUTE)


def drawn(answer: Explanation) -> Tensor:
    """The map of an explanation of one image as it is drawn, `(H, W)` in [0, 1]; its peak is its brightness."""
    require_pictures(answer)
    smoothed = smooth(answer.signed.float(), answer.image_size)
    return positive(smoothed)[0].cpu() * strength_of(answer).brightness


def drawn_signed(answer: Explanation) -> Tensor:
    """The signed map of an explanation of one image as it is drawn, `(H, W)` in [-1, 1]."""
    require_pictures(answer)
    smoothed = smooth(answer.signed.float(), answer.image_size)
    return (smoothed / peak(smoothed.abs()))[0].cpu() * strength_of(answer).signed_brightness


def strength_of(answer: Explanation) -> Strength:
    """The strength of an explanation of one image."""
    return strength(answer.signed[0], answer.plain.signed[0], len(answer.layers) > 1)


def smooth(maps: Tensor, size: tuple[int, ...]) -> Tensor:
    """Enlarge maps `(N, h, w)` to `size` (H, W) by quadratic B-splines with aligned pixel centres.

    Unlike bilinear interpolation this makes no star-shaped creases, and unlike bicubic interpolation it does not
    overshoot. Each value is a weighted mean of the three nearest places in each direction, so that no new sign and no
    new extreme appears.

    >>> smooth(torch.tensor([[[0.0, 1.0, 0.0]]]), (1, 6))
    tensor([[[0.0312, 0.2812, 0.6875, 0.6875, 0.2812, 0.0312]]])
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    down, across = (_spline(n, side).to(maps) for n, side in zip(maps.shape[-2:], size, strict=True))
    return down @ maps @ across.T


def _spline(n: int, side: int) -> Tensor:
    """The weight of each of n places at each of `side` pixels, `(side, n)`; the places at the edges are repeated."""
    at = (torch.arange(side, dtype=torch.float64) + 0.5) * n / side - 0.5
    distance = (at[:, None] - torch.arange(-1, n + 1)).abs()
    weight = torch.where(distance <= 0.5, 0.75 - distance**2, (1.5 - distance).clamp(min=0) ** 2 / 2)
    weight[:, 1] += weight[:, 0]
    weight[:, -2] += weight[:, -1]
    return weight[:, 1:-1]
