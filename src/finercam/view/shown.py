"""The pictures under an explanation's maps: the part of each photo that the model saw."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.view.blend import pixels

if TYPE_CHECKING:
    from finercam.explanation import Explanation

__all__ = ["Display", "one_each", "require_pictures", "shown", "shown_picture"]

AT_LEAST, AT_MOST = 448, 1024
"""Limits in pixels of a picture's longer side. Maps look coarse on smaller ones; larger ones look no better."""


class Display(Protocol):
    """The methods of `finercam.images.Preprocess` that are needed to show a model's input."""

    def inverse(self, tensor: Tensor) -> np.ndarray: ...

    def crop_box(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]: ...


def shown(answer: Explanation, image: Any = None, preprocess: Any = None) -> list[np.ndarray]:
    """For each sample, the part of its picture that the maps cover, uint8 `(H, W, 3)`.

    `image` and `preprocess` are as in `shown_picture`; `image` may be a list with one picture for each sample. Without
    an image the stored input is shown. Raises FinerCAMError if there is no picture, or not one for each sample.
    """
    require_pictures(answer)
    if image is None:
        if answer.images is None:
            raise FinerCAMError("the explanation kept no images (keep_images=False); give the photo as image=")
        return [_sized(shown_picture(x, preprocess)) for x in answer.images]
    return [_sized(shown_picture(photo, preprocess)) for photo in one_each(image, len(answer))]


def require_pictures(answer: Explanation) -> None:
    """Raise FinerCAMError for an explanation of volumes."""
    if len(answer.image_size) != 2:
        raise FinerCAMError(
            "this shows pictures, and the explanation is of volumes: take answer.plot() for slices, answer.save() for "
            "the arrays, or finercam.data.nifti for NIfTI"
        )


def one_each(image: Any, count: int) -> list[Any]:
    """One or several photos as a list with one for each sample; raises FinerCAMError for another number."""
    single = isinstance(image, (Image.Image, str, os.PathLike))
    single = single or (not isinstance(image, (list, tuple)) and np.ndim(image) < 4)
    photos: list[Any] = [image] if single else list(cast(Any, image))
    if len(photos) != count:
        raise FinerCAMError(f"{len(photos)} pictures for an explanation of {count}; give one for each")
    return photos


def shown_picture(picture: Any, preprocess: Any = None) -> np.ndarray:
    """The part of one picture that the model sees, uint8 `(H, W, 3)`, at the picture's own resolution.

    `picture` is a PIL image, a path, an array `(H, W, 3)`, or the model's input as a tensor `(C, H, W)`. `preprocess`
    is a `finercam.images.Preprocess`, whose crop is shown, or a transform such as torchvision's, whose output is
    shown. None means that the photo is already cropped. A model's input that is not in [0, 1] is rescaled from its
    lowest to its highest value if there is no `preprocess`.

    Raises FinerCAMError for values that are no picture, and for other types of `preprocess`.
    """
    exact = cast(Display, preprocess) if hasattr(preprocess, "inverse") and hasattr(preprocess, "crop_box") else None
    if preprocess is not None and exact is None and not callable(preprocess):
        raise FinerCAMError(
            f"preprocess={type(preprocess).__name__}: expected a finercam.images.Preprocess, or a transform that takes "
            "a PIL image and gives a tensor (3, H, W)"
        )
    if isinstance(picture, Tensor) and picture.ndim == 3 and picture.shape[0] in (1, 3):
        tensor = picture.detach().float().cpu()
        return pixels(exact.inverse(tensor)) if exact is not None and len(tensor) == 3 else _unit(tensor, preprocess)
    photo = _opened(picture)
    if preprocess is None:
        return photo
    if exact is not None:
        x0, y0, x1, y1 = (round(side) for side in exact.crop_box((photo.shape[1], photo.shape[0])))
        # Pillow pads with black where the box extends beyond the photo, as the preprocessing does.
        return np.asarray(Image.fromarray(photo).crop((x0, y0, max(x1, x0 + 1), max(y1, y0 + 1))))
    tensor = preprocess(Image.fromarray(photo))
    if not (isinstance(tensor, Tensor) and tensor.ndim == 3 and tensor.shape[0] in (1, 3)):
        raise FinerCAMError(
            f"preprocess gave {getattr(tensor, 'shape', type(tensor).__name__)} for a photo: expected a tensor (3, H, W)"
        )
    return _unit(tensor.detach().float().cpu(), preprocess)


def _opened(picture: Any) -> np.ndarray:
    if isinstance(picture, (str, os.PathLike)):
        from finercam.images import read_image

        return pixels(read_image(picture))
    if not isinstance(picture, (Image.Image, np.ndarray, Tensor)):
        raise FinerCAMError(
            f"a {type(picture).__name__} given as a picture: expected a PIL image, an array or a path"
        )
    return pixels(picture)


def _unit(tensor: Tensor, transform: Any) -> np.ndarray:
    """A model's input `(C, H, W)` for display; a normalisation in the transform is undone."""
    for step in (transform, *getattr(transform, "transforms", ())):
        if hasattr(step, "mean") and hasattr(step, "std"):
            mean, std = (torch.as_tensor(values).float().reshape(-1, 1, 1) for values in (step.mean, step.std))
            tensor = (tensor * std + mean).clamp(0, 1)
    low, high = tensor.min(), tensor.max()
    unit = (tensor - low) / (high - low).clamp(min=1e-9) if low < 0 or high > 1 else tensor
    return pixels(unit.expand(3, -1, -1).movedim(0, -1).numpy())


def _sized(photo: np.ndarray) -> np.ndarray:
    longer = max(photo.shape[:2])
    factor = AT_LEAST / longer if longer < AT_LEAST else min(1.0, AT_MOST / longer)
    if factor == 1.0:
        return photo
    size = (max(1, round(photo.shape[1] * factor)), max(1, round(photo.shape[0] * factor)))
    # Tiny pictures keep their square pixels; others are smoothed.
    how = Image.Resampling.NEAREST if longer <= 64 else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(photo).resize(size, how))
