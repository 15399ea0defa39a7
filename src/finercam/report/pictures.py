"""Photos as the model saw them, encoded for a page."""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from finercam.beside import pictures_of_class
from finercam.images import Preprocess
from finercam.view.shown import shown_picture

__all__ = ["THUMBNAIL", "data_uri", "example_of", "example_picture", "seen_by_model"]

LARGEST, THUMBNAIL = 640, 112
"""Longer side in pixels of a page's photo, unless the model's input is larger, and of a small picture."""


def seen_by_model(picture: Any, size: tuple[int, ...], preprocess: Preprocess | None) -> Image.Image | None:
    """The part of a picture that the model sees, at least at the model's `size` (H, W); None for None.

    `picture` is as in `finercam.view.shown.shown_picture`. If it is larger than the model's input, it is shown with up
    to LARGEST pixels.
    """
    if picture is None:
        return None
    photo = Image.fromarray(shown_picture(picture, preprocess))
    factor = max(1.0, min(max(photo.size), LARGEST) / max(size))
    return photo.resize((round(size[1] * factor), round(size[0] * factor)), Image.Resampling.BICUBIC)


def data_uri(picture: Image.Image, side: int | None = None, quality: int = 88) -> str:
    """A picture as a JPEG in a `data:` address, with a longer side of at most `side` pixels."""
    if side is not None and max(picture.size) > side:
        picture = picture.copy()
        picture.thumbnail((side, side))
    written = BytesIO()
    picture.save(written, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(written.getvalue()).decode("ascii")


def example_of(name: str, class_id: int, examples: Mapping[Any, Any] | str | os.PathLike[str] | None) -> str | None:
    """A small example picture of a class as a `data:` address, see `example_picture`."""
    example = example_picture(name, class_id, examples)
    return None if example is None else data_uri(ImageOps.fit(example, (THUMBNAIL, THUMBNAIL)), quality=82)


def example_picture(
    name: str, class_id: int, examples: Mapping[Any, Any] | str | os.PathLike[str] | None
) -> Image.Image | None:
    """An example picture of a class, from a mapping of names or ids to pictures or from a folder.

    In a folder it is the first of `finercam.beside.pictures_of_class`.
    """
    if examples is None:
        return None
    if isinstance(examples, Mapping):
        example = examples.get(name, examples.get(class_id))
    else:
        example = next(iter(pictures_of_class(Path(examples), name, class_id)), None)
    return None if example is None else Image.fromarray(shown_picture(example))
