"""The items of a dataset: one picture with its label and its annotation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from finercam.annotation import Annotation

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Annotation", "ImageDataset", "Sample"]


@dataclass(frozen=True)
class Sample:
    """One picture of a dataset: `id` (unique, stable, a relative path where there is a file), label and annotation.

    `load` opens the picture (RGB); `annotate` reads its annotation. Both are lazy, and picklable, so that a
    `Sample` is cheap to list and can travel to another process.

    >>> Sample("wren/a.png", 3, load=lambda: None)
    Sample(id='wren/a.png', label=3)
    """

    id: str
    label: int | None
    load: Callable[[], Image.Image] = field(repr=False)
    annotate: Callable[[], Annotation] = field(default=Annotation, repr=False)

    def open(self) -> Image.Image:
        return self.load()

    @property
    def annotation(self) -> Annotation:
        return self.annotate()


@runtime_checkable
class ImageDataset(Protocol):
    """A dataset as `finercam evaluate`, `probe` and `run` use it.

    `classes` are the class names, their positions the labels. A dataset that knows in which pixels two classes
    differ (Fieldguide, FunnyBirds) also has `contrast_mask(index, rival) -> (H, W) bool`; one that knows which
    parts do has `discriminative_parts(c, d) -> tuple[str, ...]`; one that knows how much each part differs (CUB with
    its attributes) has `attribute_difference(c, d) -> dict[str, float]`.
    """

    name: str
    classes: list[str]

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...
