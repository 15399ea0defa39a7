"""An explanation's maps as they are drawn: smooth, and no brighter than their evidence is strong."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finercam.core.maps import peak, positive
from finercam.view.blend import contour, overlay, signed
from finercam.view.strength import Strength, strength

if TYPE_CHECKING:
    from finercam.explanation import Explanation

__all__ = ["MUTE", "VIEWS", "drawn", "drawn_signed", "picture", "smooth", "strength_of"]

VIEWS = ("overlay", "contour", "signed", "photo")
MUTE = 0.85
"""How much of its own colour a photo loses under a tint, so that the colours to be seen are the map's."""


def picture(photo: np.ndarray, answer: Explanation, view: str = "overlay") -> Image.Image:
    """The map of an explanation of one image on its photo `(H, W, 3)`: tinted, with lines, signed, or the photo alone."""
    if view == "photo":
        return Image.fromarray(photo)
    if view == "signed":
        return signed(photo, drawn_signed(answer), mute=MUTE)
    return contour(photo, drawn(answer)) if view == "contour" else overlay(photo, drawn(answer), mute=MUTE)


def drawn(answer: Explanation) -> Tensor:
    """The map of an explanation of one image as it is drawn, `(H, W)` in [0, 1]: its peak is its brightness."""
    smoothed = smooth(answer.signed.float(), answer.image_size)
    return positive(smoothed)[0].cpu() * strength_of(answer).brightness


def drawn_signed(answer: Explanation) -> Tensor:
    """The signed map of an explanation of one image as it is drawn, `(H, W)` in [-1, 1]."""
    smoothed = smooth(answer.signed.float(), answer.image_size)
    return (smoothed / peak(smoothed.abs()))[0].cpu() * strength_of(answer).signed_brightness


def strength_of(answer: Explanation) -> Strength:
    """The strength of an explanation of one image."""
    return strength(answer.signed[0], answer.plain.signed[0])


def smooth(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps `(N, h, w)` at `size` (H, W) by quadratic B-splines, pixel centres aligned.

    Unlike bilinear maps they have no creases that look like stars, and unlike bicubic ones they never overshoot: each
    value is a weighted mean of its three nearest places in each direction, so no sign and no new extreme is made up.

    >>> smooth(torch.tensor([[[0.0, 1.0, 0.0]]]), (1, 6))
    tensor([[[0.0312, 0.2812, 0.6875, 0.6875, 0.2812, 0.0312]]])
    """
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    down, across = (_spline(n, side).to(maps) for n, side in zip(maps.shape[-2:], size, strict=True))
    return down @ maps @ across.T


def _spline(n: int, side: int) -> Tensor:
    """How much each of n places counts at each of `side` pixels, `(side, n)`; the places at the edges are repeated."""
    at = (torch.arange(side, dtype=torch.float64) + 0.5) * n / side - 0.5
    distance = (at[:, None] - torch.arange(-1, n + 1)).abs()
    weight = torch.where(distance <= 0.5, 0.75 - distance**2, (1.5 - distance).clamp(min=0) ** 2 / 2)
    weight[:, 1] += weight[:, 0]
    weight[:, -2] += weight[:, -1]
    return weight[:, 1:-1]
