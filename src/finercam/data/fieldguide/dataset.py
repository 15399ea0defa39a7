"""Fieldguide as a dataset: pictures with labels, part masks, and the pixels in which any two species differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any

import numpy as np

from finercam.annotation import Annotation
from finercam.data.sample import Sample
from finercam.errors import FinerCAMError

from . import species
from .render import Picture, paint
from .scene import draw_scene, label_of
from .species import PARTS, SPECIES

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["CHANGED", "Fieldguide", "stack"]

CHANGED = 8
"""A pixel counts as changed if one of its channels differs by more than this many of 255 levels.

All other pixels are equal to the last bit, because the noise is the same. The threshold only removes the faint outer
fringe of anti-aliased edges, which is not visible.
"""


class Fieldguide:
    """`count` pictures of invented birds with full ground truth; picture `i` depends only on `(seed, i, size)`.

    Implements `finercam.data.ImageDataset`, and adds `contrast_mask` and `discriminative_parts`. The idea is from
    FunnyBirds (Hesse et al., ICCV 2023). Raises FinerCAMError for a count, seed or size out of range.

    >>> birds = Fieldguide(4, seed=1)
    >>> sample = birds[2]
    >>> sample.open().size, birds.classes[sample.label]
    ((128, 128), 'White-rumped Mavin')
    >>> birds.batch([0, 1, 2]).shape
    (3, 128, 128, 3)
    """

    name = "fieldguide"

    def __init__(self, count: int, seed: int = 0, size: int = 128) -> None:
        for what, value, least in (("count", count, 1), ("seed", seed, 0), ("size", size, 16)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
                raise FinerCAMError(f"{what}={value!r}: expected an integer of at least {least}")
        self.count, self.seed, self.size = int(count), int(seed), int(size)
        self.classes = [one.name for one in SPECIES]

    def __repr__(self) -> str:
        return f"Fieldguide({self.count}, seed={self.seed}, size={self.size})"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        index = self._index(index)
        return Sample(
            id=f"fieldguide-{self.seed}-{self.size}/{index:06d}",
            label=label_of(self.seed, index),
            load=partial(self.image, index),
            annotate=partial(self.annotation, index),
        )

    # -- one picture ---------------------------------------------------------------------------------------------

    def label(self, index: int) -> int:
        return label_of(self.seed, self._index(index))

    def picture(self, index: int, label: int | None = None) -> Picture:
        """Pixels `(H, W, 3)` uint8 and part numbers `(H, W)` uint8; `label` paints another species into the scene."""
        scene = draw_scene(self.seed, self._index(index))
        return paint(scene, self.size, None if label is None else self._class(label))

    def image(self, index: int) -> Image.Image:
        from PIL import Image

        return Image.fromarray(self.picture(index).image)

    def annotation(self, index: int) -> Annotation:
        """Masks of the visible parts and of the `"object"`, its box, and the centre of every visible part."""
        parts = self.picture(index).parts
        masks = {"object": parts > 0}
        keypoints = {}
        for number, part in enumerate(PARTS, 1):
            mask = parts == number
            if mask.any():
                rows, columns = np.nonzero(mask)
                masks[part] = mask
                keypoints[part] = (float(columns.mean()) + 0.5, float(rows.mean()) + 0.5)
        rows, columns = np.nonzero(masks["object"])
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        x0, y0, x1, y1 = (float(edge) for edge in box)
        return Annotation((x0, y0, x1, y1), masks, keypoints)

    def caption(self, index: int) -> str:
        return species.caption(self.label(index))

    # -- two species ---------------------------------------------------------------------------------------------

    def counterfactual(self, index: int, rival: int | str) -> Image.Image:
        """The same scene with species `rival` in it."""
        from PIL import Image

        return Image.fromarray(self.picture(index, self._class(rival)).image)

    def contrast_mask(self, index: int, rival: int | str) -> np.ndarray:
        """`(H, W)` bool: the pixels in which the picture's species differs from `rival`.

        These pixels change by more than `CHANGED` levels in some channel if the scene is painted with the rival. The
        mask is empty if the rival is the species of the picture.
        """
        return _changed(self.picture(index).image, self.picture(index, self._class(rival)).image)

    def discriminative_parts(self, c: int | str, d: int | str) -> tuple[str, ...]:
        """The parts in which two species differ: one or two within a genus."""
        return species.discriminative_parts(self._class(c), self._class(d))

    def siblings(self, c: int | str) -> tuple[int, ...]:
        """The other species of the genus."""
        return species.siblings(self._class(c))

    def nearest_sibling(self, c: int | str) -> int:
        """The sibling with the fewest discriminative parts; of equal ones, the next in the order of the genus."""
        return species.nearest_sibling(self._class(c))

    # -- many pictures -------------------------------------------------------------------------------------------

    def labels(self, indices: Iterable[int]) -> np.ndarray:
        """`(N,)` int64."""
        return np.array([self.label(index) for index in indices], np.int64)

    def batch(self, indices: Iterable[int], workers: int = 1) -> np.ndarray:
        """Pixels `(N, H, W, 3)` uint8; `workers` is the number of processes, which does not change the result."""
        one = partial(_image, self.seed, self.size)
        return stack(one, [self._index(index) for index in indices], workers, (self.size, self.size, 3), np.uint8)

    def contrast_masks(self, indices: Iterable[int], rivals: Iterable[int | str], workers: int = 1) -> np.ndarray:
        """`(N, H, W)` bool: `contrast_mask` of each picture against its rival."""
        pairs = [(self._index(i), self._class(d)) for i, d in zip(indices, rivals, strict=True)]
        one = partial(_contrast, self.seed, self.size)
        return stack(one, pairs, workers, (self.size, self.size), np.bool_)

    # -- checks of arguments ---------------------------------------------------------------------------------------

    def _index(self, index: int) -> int:
        if not 0 <= index < self.count:
            # Iteration over a sequence ends with an IndexError.
            raise IndexError(f"picture {index}: expected 0 to {self.count - 1}")
        return int(index)

    def _class(self, which: int | str) -> int:
        if isinstance(which, str):
            if which not in self.classes:
                raise FinerCAMError(
                    f"species {which!r}: not in the Fieldguide; `Fieldguide.classes` lists its {len(self.classes)}"
                )
            return self.classes.index(which)
        if not 0 <= which < len(self.classes):
            raise FinerCAMError(f"species {which}: expected 0 to {len(self.classes) - 1}, or a name")
        return int(which)


def _image(seed: int, size: int, index: int) -> np.ndarray:
    return paint(draw_scene(seed, index), size).image


def _changed(image: np.ndarray, other: np.ndarray) -> np.ndarray:
    return (np.maximum(image, other) - np.minimum(image, other)).max(-1) > CHANGED


def _contrast(seed: int, size: int, pair: tuple[int, int]) -> np.ndarray:
    scene = draw_scene(seed, pair[0])
    return _changed(paint(scene, size).image, paint(scene, size, pair[1]).image)


def stack(
    one: Callable[[Any], np.ndarray], items: Sequence[Any], workers: int, shape: tuple[int, ...], dtype: type
) -> np.ndarray:
    """The results of `one(item)` for all items, `(N, *shape)`, computed in `workers` processes."""
    out = np.empty((len(items), *shape), dtype)
    if workers <= 1 or len(items) < 64:
        for place, item in enumerate(items):
            out[place] = one(item)
        return out
    # Processes are spawned, because threads of the caller (PyTorch's) do not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        for place, picture in enumerate(pool.map(one, items, chunksize=64)):
            out[place] = picture
    return out
