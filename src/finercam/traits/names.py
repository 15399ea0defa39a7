"""Names for traits: from part masks, from keypoints, or from words that an image–text model finds in the photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from finercam.annotation import Annotation
from finercam.core.maps import upsample

__all__ = ["Namer"]

REACH = 0.12
"""A region belongs to its nearest keypoint if that lies within this share of the square root of the box's area."""
WHOLE = "object"
"""The mask of the whole object names no part."""

WordMaps = Callable[[Tensor], Tensor]
"""Signed maps `(T, h, w)` of all words in one photo as the model takes it, `(3, H, W)`."""


@dataclass
class Namer:
    """Says for a lit region how well each name fits; it looks at one photo after another.

    Words are used where they are given, else part masks, else keypoints. `names` grows as parts are met.
    """

    words: Sequence[str] = ()
    word_maps: WordMaps | None = None
    word_source: str = "words"
    names: list[str] = field(default_factory=list)
    source: str = ""
    _fits: Callable[[Tensor, Tensor, tuple[float, float]], dict[str, float]] | None = None

    def fresh(self) -> Namer:
        """The same namer before its first photo."""
        return replace(self, names=list(self.words), source="", _fits=None)

    def look(self, image: Tensor, note: Annotation, words: bool = True) -> None:
        """Look at the next photo `(3, H, W)` with its annotation in pixels of it; `words` costs a run of their model."""
        self._fits = None
        parts = {part: mask for part, mask in note.masks.items() if part != WHOLE}
        if self.word_maps is not None:
            if words:
                maps = upsample(self.word_maps(image).float().cpu(), (image.shape[1], image.shape[2]))
                self._fits = lambda lit, region, place: self._by_words(maps, region)
                self.source = self.word_source
        elif parts:
            masks = {part: torch.from_numpy(mask) for part, mask in parts.items()}
            self._fits = lambda lit, region, place: _by_masks(masks, lit, region)
            self.source = "the part masks of the dataset"
        elif note.keypoints:
            self._fits = lambda lit, region, place: _by_keypoints(note, region, place)
            self.source = "the keypoints of the dataset"

    def scores(self, lit: Tensor, region: Tensor, place: tuple[float, float]) -> Tensor:
        """How well each of `names` fits a region, `(P,)`: its pixels `(H, W)`, their evidence `lit`, its peak."""
        found = {} if self._fits is None else self._fits(lit, region, place)
        self.names += [name for name in found if name not in self.names]
        return torch.tensor([found.get(name, 0.0) for name in self.names])

    def _by_words(self, maps: Tensor, region: Tensor) -> dict[str, float]:
        """How far the map of each word stands out in the region, in its own standard deviations."""
        spread = maps.flatten(1).std(1).clamp(min=1e-12)
        values = (maps[:, region].mean(1) - maps.flatten(1).mean(1)) / spread
        return {word: max(0.0, float(value)) for word, value in zip(self.words, values, strict=True)}


def _by_masks(masks: dict[str, Tensor], lit: Tensor, region: Tensor) -> dict[str, float]:
    """The share of the region's evidence on each part, times the share of the part that lies in the region.

    The first factor alone would name the large part around a small one.
    """
    total = float(lit.sum()) or 1.0
    fits = {
        part: float(lit[mask].sum()) / total * float((mask & region).sum()) / float(mask.sum())
        for part, mask in masks.items()
    }
    return {part: value for part, value in fits.items() if value > 0}


def _by_keypoints(note: Annotation, region: Tensor, place: tuple[float, float]) -> dict[str, float]:
    height, width = region.shape
    x, y = place[0] * width, place[1] * height
    distance = {part: ((x - px) ** 2 + (y - py) ** 2) ** 0.5 for part, (px, py) in note.keypoints.items()}
    nearest = min(distance, key=lambda part: distance[part])
    box = note.box or (0, 0, width, height)
    reach = REACH * ((box[2] - box[0]) * (box[3] - box[1])) ** 0.5
    return {nearest: 1.0} if distance[nearest] <= reach else {}
