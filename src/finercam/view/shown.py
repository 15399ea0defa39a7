"""The pictures that an explanation's maps lie on: what the model was shown, as a person sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
from PIL import Image
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.view.blend import pixels

if TYPE_CHECKING:
    from finercam.explanation import Explanation

__all__ = ["Display", "one_each", "shown"]

AT_LEAST, AT_MOST = 448, 1024
"""Pixels of a picture's longer side: coloured maps look coarse on fewer, and more than that nobody sees."""


class Display(Protocol):
    """What a `finercam.images.Preprocess` can say about what a tensor shows."""

    def inverse(self, tensor: Tensor) -> np.ndarray: ...

    def crop_box(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]: ...


def shown(answer: Explanation, image: Any = None, preprocess: Display | None = None) -> list[np.ndarray]:
    """One picture (uint8 `(H, W, 3)`) for each sample: the part of it that the maps cover.

    `image` is a photo (PIL image or array), or a list of one for each sample; with `preprocess` it is the whole
    photo and is cropped as the model's input was, without it is that crop already. With no image, the kept input is
    shown: exactly with `preprocess`, else stretched from its lowest to its highest value.

    Raises FinerCAMError where there is no picture, or not one for each sample.
    """
    if image is None:
        if answer.images is None:
            raise FinerCAMError("the explanation kept no images (keep_images=False); give the photo as image=")
        kept = answer.images.detach().float().cpu()
        return [_sized(pixels(preprocess.inverse(x) if preprocess else _stretched(x))) for x in kept]
    return [_sized(_cropped(pixels(photo), preprocess)) for photo in one_each(image, len(answer))]


def one_each(image: Any, count: int) -> list[Any]:
    """A photo, or several, as a list of one for each sample; raises FinerCAMError for another number."""
    one = isinstance(image, Image.Image) or (not isinstance(image, (list, tuple)) and np.ndim(image) < 4)
    photos: list[Any] = [image] if one else list(cast(Any, image))
    if len(photos) != count:
        raise FinerCAMError(f"{len(photos)} pictures for an explanation of {count}; give one for each")
    return photos


def _cropped(photo: np.ndarray, preprocess: Display | None) -> np.ndarray:
    if preprocess is None:
        return photo
    x0, y0, x1, y1 = (round(side) for side in preprocess.crop_box((photo.shape[1], photo.shape[0])))
    # Pillow's crop pads with black where the box reaches outside, as the preprocessing does
    return np.asarray(Image.fromarray(photo).crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))))


def _stretched(tensor: Tensor) -> np.ndarray:
    """A normalised tensor `(C, H, W)` for display when nobody says how it was normalised."""
    low, high = tensor.min(), tensor.max()
    unit = (tensor - low) / (high - low).clamp(min=1e-9) if low < 0 or high > 1 else tensor
    rgb = unit if len(unit) == 3 else unit.mean(0, keepdim=True).expand(3, -1, -1)
    return rgb.movedim(0, -1).numpy()


def _sized(photo: np.ndarray) -> np.ndarray:
    longer = max(photo.shape[:2])
    factor = AT_LEAST / longer if longer < AT_LEAST else min(1.0, AT_MOST / longer)
    if factor == 1.0:
        return photo
    size = (max(1, round(photo.shape[1] * factor)), max(1, round(photo.shape[0] * factor)))
    # tiny pictures keep their square pixels, others are smoothed
    how = Image.Resampling.NEAREST if longer <= 64 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(photo).resize(size, how))
