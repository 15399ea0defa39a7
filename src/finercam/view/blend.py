"""Maps drawn on a photo: overlay, signed overlay and contour lines, as Pillow images of the photo's size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finercam.core.maps import upsample
from finercam.errors import FinerCAMError
from finercam.view.colours import evidence_colours, opacity, signed_colours

__all__ = ["contour", "heat", "overlay", "pixels", "signed"]

LEVELS = (0.25, 0.5, 0.75)


def overlay(image: Any, evidence: Any, *, strongest: float = 0.8, mute: float = 0.0) -> Image.Image:
    """The photo, tinted in proportion to the evidence and unchanged where the evidence is zero.

    `image` is a PIL image or an array `(H, W, 3)`, uint8 or floats in [0, 1]. `evidence` is a map `(h, w)` in [0, 1]
    (tensor or array) of any resolution. The values are not rescaled: a blank map does not change the photo, and
    values outside [0, 1] are clipped. `strongest` in [0, 1] is the opacity at evidence 1. `mute` in [0, 1] is the
    share of the photo's colour that is removed, so that the colours of the map stand out.

    Raises FinerCAMError for a picture or map of another shape or with NaN.

    >>> photo = Image.new("RGB", (8, 8), "green")
    >>> overlay(photo, np.zeros((2, 2))) == photo
    True
    """
    return _blend(_muted(pixels(image), mute), evidence, evidence_colours, strongest, low=0.0)


def signed(image: Any, evidence: Any, *, strongest: float = 0.8, mute: float = 0.0) -> Image.Image:
    """The photo, orange where the map `(h, w)` in [-1, 1] is evidence for the target and blue where it is against.

    The colours are symmetric around 0, where the photo is unchanged. Arguments and errors as in `overlay`.

    >>> photo = Image.new("RGB", (8, 8), "white")
    >>> signed(photo, np.ones((2, 2))).getpixel((0, 0)) != signed(photo, -np.ones((2, 2))).getpixel((0, 0))
    True
    """
    return _blend(_muted(pixels(image), mute), evidence, signed_colours, strongest, low=-1.0)


def contour(
    image: Any, evidence: Any, *, levels: Sequence[float] = LEVELS, width: float | None = None
) -> Image.Image:
    """The photo with contour lines of the map `(h, w)` in [0, 1] at `levels`.

    Lines are `width` pixels wide; None chooses a width for the size of the photo. Each line has the colour of its
    level and a dark edge, which is visible on any photo. Errors as in `overlay`.

    >>> photo = Image.new("RGB", (8, 8), "green")
    >>> contour(photo, np.zeros((2, 2))) == photo
    True
    """
    from contourpy import contour_generator
    from PIL import ImageDraw

    photo = pixels(image)
    values = _on_grid(evidence, photo.shape[:2], low=0.0)
    if any(not 0 < level < 1 for level in levels):
        raise FinerCAMError(f"levels={tuple(levels)}: expected numbers between 0 and 1")
    if width is None:  # on a small photo, lines of two pixels would hide the object
        width = min(2.0, max(0.7, min(photo.shape[:2]) / 160))
    finer = 3  # lines are drawn larger and shrunk, because Pillow draws them without smooth edges
    # A border of zeros closes the lines at the edge of the picture.
    lines = contour_generator(z=np.pad(values, 1))
    paths = {level: lines.lines(level) for level in sorted(levels)}
    if not any(len(level_paths) for level_paths in paths.values()):
        return Image.fromarray(photo)
    sheet = Image.new("RGBA", (photo.shape[1] * finer, photo.shape[0] * finer), (0, 0, 0, 0))
    draw = ImageDraw.Draw(sheet)
    strokes = [(max(2, round(finer * width * 1.9)), None), (max(1, round(finer * width)), evidence_colours)]
    for stroke, colours in strokes:
        for level, level_paths in paths.items():
            colour = np.rint(255 * colours(np.array([level]))[0]) if colours else np.array([10, 5, 20])
            for path in level_paths:
                # contourpy's origin is the centre of the first pixel of the border.
                corners = [tuple(xy) for xy in (np.asarray(path) - 0.5) * finer]
                draw.line(corners, fill=(*colour.astype(int).tolist(), 255), width=stroke, joint="curve")
    drawn = sheet.resize((photo.shape[1], photo.shape[0]), Image.Resampling.BOX)
    return Image.alpha_composite(Image.fromarray(photo).convert("RGBA"), drawn).convert("RGB")


def heat(evidence: Any, size: tuple[int, int] | None = None) -> Image.Image:
    """The map `(h, w)` in [0, 1] in colours on black, at `size` (H, W) or at its own size.

    >>> heat(np.zeros((2, 2)), size=(4, 6)).getpixel((0, 0))
    (0, 0, 0)
    """
    shape = np.shape(evidence) if size is None else size
    return overlay(np.zeros((shape[-2], shape[-1], 3), np.uint8), evidence, strongest=1.0)


def pixels(image: Any) -> np.ndarray:
    """A picture as uint8 `(H, W, 3)`, from a PIL image or a grey or RGB array of uint8 or floats in [0, 1].

    Raises FinerCAMError for other shapes, types and values.
    """
    if isinstance(image, Image.Image):
        return np.array(image.convert("RGB"))
    array = image.detach().cpu().numpy() if isinstance(image, Tensor) else np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    if array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise FinerCAMError(
            f"a picture of shape {array.shape}: expected a PIL image or an array (H, W, 3); preprocess.inverse(tensor) "
            "turns a model's input into one"
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    low, high = (float(array.min()), float(array.max())) if array.dtype.kind == "f" else (0.0, 2.0)
    if not (low >= 0 and high <= 1):  # also refuses NaN
        raise FinerCAMError(
            f"a picture of {array.dtype} with values {array.min()} to {array.max()}: expected uint8, or floats in [0, 1]"
        )
    return np.rint(array * 255).astype(np.uint8)


def _muted(photo: np.ndarray, mute: float) -> np.ndarray:
    if mute == 0:
        return photo
    grey = np.asarray(Image.fromarray(photo).convert("L"))[..., None]
    return np.rint((1 - mute) * photo + mute * grey).astype(np.uint8)


def _blend(
    photo: np.ndarray, evidence: Any, colours: Callable[[np.ndarray], np.ndarray], strongest: float, low: float
) -> Image.Image:
    values = _on_grid(evidence, photo.shape[:2], low)
    alpha = opacity(values, strongest)[..., None]
    return Image.fromarray(np.rint((1 - alpha) * photo + alpha * 255 * colours(values)).astype(np.uint8))


def _on_grid(evidence: Any, size: tuple[int, int], low: float) -> np.ndarray:
    """The map at the photo's size, clipped to [low, 1]."""
    values = torch.as_tensor(evidence).detach().cpu().float()
    if values.ndim != 2 or 0 in values.shape:
        raise FinerCAMError(f"a map of shape {tuple(values.shape)}: expected one map (H, W); take answer.maps[i]")
    if not np.isfinite(values.numpy()).all():
        raise FinerCAMError("the map holds NaN or infinite values; expected [0, 1], or [-1, 1] for a signed one")
    return upsample(values[None], size)[0].clamp(low, 1).numpy()
