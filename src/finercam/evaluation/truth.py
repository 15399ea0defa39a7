"""What is known about a batch of pictures: where the object is, and which pixels tell two classes apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finercam import metrics
from finercam.annotation import Annotation
from finercam.data.sample import ImageDataset
from finercam.images import Preprocess
from finercam.io import one_line

__all__ = ["Truth", "read_notes", "read_truth"]


@dataclass(frozen=True)
class Truth:
    """`objects (N, H, W)` from masks, or else from boxes; `boxes (N, H, W)` from boxes alone; `discriminative (N, H, W)` for
    each picture's rival; None where unknown of the whole batch.

    A picture without its own annotation has an empty mask, which every measure answers with NaN.
    """

    objects: Tensor | None
    boxes: Tensor | None
    discriminative: Tensor | None


def read_notes(dataset: ImageDataset, indices: Sequence[int]) -> tuple[dict[int, Annotation], dict[int, str]]:
    """The annotations of some pictures, and for those that have a broken one the reason."""
    notes: dict[int, Annotation] = {}
    broken: dict[int, str] = {}
    for index in indices:
        try:
            notes[index] = dataset[index].annotation
        except Exception as error:  # a dataset may be anybody's code; one bad mask must not end a long run
            broken[index] = one_line(error)
    return notes, broken


def read_truth(
    dataset: ImageDataset,
    notes: dict[int, Annotation],
    pictures: Sequence[tuple[int, int]],
    rivals: Sequence[int],
    prepare: Preprocess,
    size: tuple[int, int],
    with_telling: bool = True,
) -> Truth:
    """What is known of the pictures of `notes`, `(width, height)` each, in pixels of their tensors `size` (H, W)."""
    contrast_mask = getattr(dataset, "contrast_mask", None) if with_telling else None
    objects, boxes, discriminative = [], [], []
    for (index, note), picture, rival in zip(notes.items(), pictures, rivals, strict=True):
        masks = {"object": note.masks["object"]} if "object" in note.masks else {}
        if contrast_mask is not None and rival >= 0:
            masks["discriminative"] = np.asarray(contrast_mask(index, rival), dtype=bool)
        placed = prepare.annotation(Annotation(box=note.box, masks=masks), picture)
        boxes.append(_box(placed, size))
        objects.append(placed.masks.get("object", boxes[-1]))
        discriminative.append(placed.masks.get("discriminative"))
    return Truth(
        objects=_stack(objects, size) if any(o is not None for o in objects) else None,
        boxes=_stack(boxes, size) if any(b is not None for b in boxes) else None,
        discriminative=None if contrast_mask is None else _stack(discriminative, size),
    )


def _box(note: Annotation, size: tuple[int, int]) -> np.ndarray | None:
    return None if note.box is None else metrics.box_masks(torch.tensor([note.box]), size)[0].numpy()


def _stack(masks: Sequence[np.ndarray | None], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack([np.zeros(size, bool) if mask is None else mask for mask in masks]))
