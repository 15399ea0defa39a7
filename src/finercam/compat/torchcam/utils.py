"""Overlays under torch-cam's name."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from finercam.compat.torchcam.methods.hooked import WrongType
from finercam.errors import FinerCAMError

__all__ = ["overlay_mask"]


def overlay_mask(img: Image.Image, mask: Image.Image, colormap: Any = "jet", alpha: float = 0.7) -> Image.Image:
    """A map drawn over a picture: `mask` of mode "F" in [0, 1], or of 8 bits; `alpha` is the picture's opacity.

    >>> overlay_mask(Image.new("RGB", (8, 6)), Image.new("F", (2, 2)), alpha=0.5).size
    (8, 6)
    """
    from matplotlib import colormaps

    if not isinstance(img, Image.Image) or not isinstance(mask, Image.Image):
        raise WrongType("img and mask arguments need to be PIL.Image")
    if not isinstance(alpha, float) or not 0 <= alpha < 1:
        raise FinerCAMError(f"alpha={alpha!r}: the alpha argument is expected to be of type float between 0 and 1")
    if len(img.getbands()) not in (1, 3):
        raise FinerCAMError(f"the img argument needs to be a grayscale or RGB image, not {img.mode}")
    values = np.asarray(mask.resize(img.size, Image.Resampling.BICUBIC))
    values = values / 255 if values.dtype == np.uint8 else values.clip(0, 1)
    heat = colormaps.get_cmap(colormap)(values**2)[..., :3] * 255
    photo = np.asarray(img.convert("RGB") if img.mode != "HSV" else img, dtype=np.float64)
    return Image.fromarray((alpha * photo + (1 - alpha) * heat).astype(np.uint8))
