"""One explained photo as other tools need it: its file, its size, and the map in the photo's own pixels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from finercam.errors import FinerCAMError
from finercam.images import read_image

if TYPE_CHECKING:
    from finercam.explanation import Explanation

__all__ = ["Lit", "Record", "lit", "on_photo", "records"]

LEVEL = 0.5
"""A pixel is lit where the drawn map is at least this high. The peak of a map that is not weak is near 1."""
LEAST = 0.0005
"""Lit regions smaller than this share of the photo are left out."""


@dataclass(frozen=True, eq=False)
class Record:
    """An explanation of one image, with the `file` and the `size` (width, height) of its photo.

    `map (H, W)` float32 in [0, 1] covers the whole photo and is zero where the model did not see it. It is the map as
    it is drawn, so a weak one is low everywhere. `open` gives the photo (RGB).
    """

    file: str
    size: tuple[int, int]
    answer: Explanation
    map: np.ndarray
    open: Callable[[], Image.Image]

    @classmethod
    def of(
        cls, answer: Explanation, file: str, size: tuple[int, int], open: Callable[[], Image.Image], preprocess: Any
    ) -> Record:
        """The record of an explanation of one image; `preprocess` says which part of the photo the model saw."""
        from finercam.view.drawn import drawn

        box = (0.0, 0.0, float(size[0]), float(size[1])) if preprocess is None else preprocess.crop_box(size)
        return cls(file, size, answer, on_photo(drawn(answer).numpy(), size, box), open)


def records(answer: Explanation, photos: Any, preprocess: Any = None) -> Iterator[Record]:
    """A record for each image of an explanation.

    `photos` are paths or PIL images, one for each image; `preprocess` is the model's `finercam.images.Preprocess`.
    None means that the model saw the whole photo. Raises FinerCAMError for another number or kind of photos.
    """
    from finercam.view.shown import one_each

    if preprocess is not None and not hasattr(preprocess, "crop_box"):
        raise FinerCAMError(
            f"preprocess={type(preprocess).__name__}: expected a finercam.images.Preprocess, which knows which part "
            "of a photo the model saw; or None if it saw the whole photo"
        )
    for sample, (one, photo) in enumerate(zip(answer, one_each(photos, len(answer)), strict=True)):
        if not isinstance(photo, (Image.Image, str, os.PathLike)):
            raise FinerCAMError(f"a {type(photo).__name__} given as a photo: expected a path or a PIL image")
        named = not isinstance(photo, Image.Image)
        image = read_image(photo) if named else photo.convert("RGB")
        file = Path(photo).as_posix() if named else f"image-{sample:04d}.png"
        yield Record.of(one, file, image.size, lambda image=image: image, preprocess)


def on_photo(shown: np.ndarray, size: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
    """A map `(h, w)` of the part `box` (x0, y0, x1, y1) of a photo, as a map `(H, W)` of the photo of `size` (W, H).

    >>> on_photo(np.ones((2, 2), np.float32), (4, 2), (1, 0, 3, 2))
    array([[0., 1., 1., 0.],
           [0., 1., 1., 0.]], dtype=float32)
    """
    x0, y0, x1, y1 = box
    height, width = shown.shape
    across, down = width / (x1 - x0), height / (y1 - y0)
    padded = np.pad(shown.astype(np.float32), 1, mode="edge")  # the edge pixels have no neighbour to be mixed with
    whole = Image.fromarray(padded).transform(
        size,
        Image.Transform.AFFINE,
        (across, 0.0, 1 - x0 * across, 0.0, down, 1 - y0 * down),
        resample=Image.Resampling.BILINEAR,
    )
    columns, rows = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    inside = ((rows > y0) & (rows < y1))[:, None] & ((columns > x0) & (columns < x1))
    return np.where(inside, np.asarray(whole), np.float32(0))


@dataclass(frozen=True, eq=False)
class Lit:
    """A connected lit region of a photo: `mask (H, W)` bool, `box` (x, y, width, height), and its share of the map."""

    mask: np.ndarray
    box: tuple[int, int, int, int]
    share: float

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.mask.sum())

    def outline(self) -> np.ndarray:
        """The outer outline as `(n, 2)` points x, y in pixels; the corners of pixel (0, 0) are at 0 and 1."""
        from contourpy import contour_generator

        x, y, width, height = self.box
        padded = np.pad(self.mask[y : y + height, x : x + width].astype(float), 1)
        lines: Any = contour_generator(z=padded).lines(0.5)
        longest = max(lines, key=len)
        return longest - 0.5 + np.array([x, y])


def lit(record: Record, level: float = LEVEL) -> list[Lit]:
    """The connected regions in which the map is at least `level`, those with the largest share first.

    Raises FinerCAMError for a level outside (0, 1], and without scipy.
    """
    try:
        from scipy import ndimage
    except ImportError:
        raise FinerCAMError("lit regions need scipy: pip install 'finercam[export]'") from None
    if not 0 < level <= 1:
        raise FinerCAMError(f"level={level!r}: expected a share of the full brightness in (0, 1], such as 0.5")
    labelled: Any = ndimage.label(record.map >= level)
    labels, count = labelled
    total, found = float(record.map.sum()), []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels, count), 1):
        mask = labels == number
        if mask.sum() >= LEAST * mask.size:
            box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
            found.append(Lit(mask, box, float(record.map[mask].sum()) / total))
    return sorted(found, key=lambda region: -region.share)
