"""Photographs as the model saw them, as data a page can carry."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.images import FORMATS, Preprocess, read_image

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["data_uri", "example_of", "seen_by_model"]

THUMBNAIL = 112


def seen_by_model(picture: Any, size: tuple[int, int], preprocess: Preprocess | None) -> Image.Image | None:
    """One picture at the model's view, `size` (H, W); None where it cannot be shown (not 1 or 3 channels).

    `picture` is a normalised tensor `(C, H, W)`, or a PIL image, a path or a uint8 array `(H, W, 3)`, which go
    through `preprocess` first, or are resized where there is none. A tensor without `preprocess` that is not in
    [0, 1] is shown stretched between its own least and largest value.
    """
    from PIL import Image

    if picture is None:
        return None
    if not isinstance(picture, Tensor):
        opened = _opened(picture)
        if preprocess is None:
            return opened.resize((size[1], size[0]), Image.Resampling.BICUBIC)
        picture = preprocess(opened)
    tensor = picture.detach().float().cpu()
    if tensor.ndim != 3 or tensor.shape[0] not in (1, 3):
        return None
    if preprocess is not None and tensor.shape[0] == 3:
        return Image.fromarray(np.ascontiguousarray(preprocess.inverse(tensor)))
    low, high = float(tensor.min()), float(tensor.max())
    if low < 0 or high > 1:
        tensor = (tensor - low) / (high - low)
    pixels = (tensor * 255).round().byte().movedim(0, -1).numpy()
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3))))


def data_uri(picture: Image.Image, side: int | None = None, quality: int = 88) -> str:
    """A picture as a JPEG in a `data:` address, the longest side at most `side`."""
    if side is not None and max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side))
    written = BytesIO()
    picture.save(written, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def example_of(name: str, class_id: int, examples: Mapping[Any, Any] | str | os.PathLike[str] | None) -> str | None:
    """A small example picture of a class as a `data:` address, see `example_picture`."""
    found = example_picture(name, class_id, examples)
    return None if found is None else data_uri(_square(found), THUMBNAIL, 82)


def example_picture(
    name: str, class_id: int, examples: Mapping[Any, Any] | str | os.PathLike[str] | None
) -> Image.Image | None:
    """An example picture of a class: from a mapping of names or ids to pictures, or a folder of them.

    In a folder, a sub-folder (its first picture by name) or a picture that is called as the class or its id.
    """
    if examples is None:
        return None
    if isinstance(examples, Mapping):
        found = examples.get(name, examples.get(class_id))
    else:
        found = _in_folder(Path(examples), (name, str(class_id)))
    return None if found is None else _opened(found)


def _opened(picture: Any) -> Image.Image:
    from PIL import Image

    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    if isinstance(picture, str | os.PathLike):
        return read_image(picture)
    if isinstance(picture, np.ndarray) and picture.dtype == np.uint8 and picture.ndim == 3:
        return Image.fromarray(picture).convert("RGB")
    raise FinerCAMError(f"a {type(picture).__name__} given as a picture: expected a tensor, a PIL image or a path")


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture.crop((left, top, left + side, top + side))


def _in_folder(folder: Path, names: tuple[str, ...]) -> Path | None:
    if not folder.is_dir():
        raise FinerCAMError(f"{folder}: no folder of example pictures there; give one with a sub-folder a class")
    endings = {f".{ending.lower()}" for ending in (*FORMATS, "jpg", "tif")}
    # the folder is listed, and no path is made of a class name, which may hold anything
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name in names:
            inside = (file for file in sorted(entry.iterdir()) if file.suffix.lower() in endings)
            return next(inside, None)
        if entry.suffix.lower() in endings and entry.stem in names:
            return entry
    return None
