"""What is known about a batch of pictures: where the object is, and which pixels or parts tell two classes apart."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from finercam import metrics
from finercam.annotation import Annotation
from finercam.data.attributes import KEYPOINT_PARTS
from finercam.data.sample import ImageDataset
from finercam.images import Preprocess
from finercam.io import one_line

__all__ = ["Truth", "read_notes", "read_truth"]

REACH = 0.12
"""A pixel belongs to its nearest keypoint if that lies within this share of the square root of the box's area."""


@dataclass(frozen=True)
class Truth:
    """Masks `(N, H, W)`; None where unknown of the whole batch.

    `objects` are masks, or else boxes; `boxes` are boxes alone; `discriminative` the pixels that differ from each
    picture's rival; `regions` the number of the part of each pixel (−1: none), and `differences (N, P)` how far target
    and rival differ in each part (NaN: not visible or not known). A picture without its own annotation has an empty
    mask, for which every metric is NaN.
    """

    objects: Tensor | None
    boxes: Tensor | None
    discriminative: Tensor | None
    regions: Tensor | None = None
    differences: Tensor | None = None


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
    pairs: Sequence[tuple[int | None, int | None]],
    prepare: Preprocess,
    size: tuple[int, int],
    groups: Collection[str],
) -> Truth:
    """What is known of the pictures of `notes`, `(width, height)` each, in pixels of their tensors `size` (H, W).

    `pairs` are target and rival as labels of the dataset, None where it lacks the class; `groups` the names of the
    metrics, so that nothing is read for those that are not measured.
    """
    contrast_mask = getattr(dataset, "contrast_mask", None) if "contrastive" in groups else None
    placed: list[Annotation] = []
    for (index, note), picture, (_, rival) in zip(notes.items(), pictures, pairs, strict=True):
        masks = {"object": note.masks["object"]} if "object" in note.masks else {}
        if contrast_mask is not None and rival is not None:
            masks["discriminative"] = np.asarray(contrast_mask(index, rival), dtype=bool)
        placed.append(prepare.annotation(Annotation(note.box, masks, note.keypoints), picture))
    boxes = [_box(note, size) for note in placed]
    objects = [note.masks.get("object", box) for note, box in zip(placed, boxes, strict=True)]
    regions, differences = _parts(dataset, placed, pairs, size) if "parts" in groups else (None, None)
    return Truth(
        objects=_stack(objects, size) if any(o is not None for o in objects) else None,
        boxes=_stack(boxes, size) if any(b is not None for b in boxes) else None,
        discriminative=None
        if contrast_mask is None
        else _stack([note.masks.get("discriminative") for note in placed], size),
        regions=regions,
        differences=differences,
    )


def _parts(
    dataset: ImageDataset,
    placed: Sequence[Annotation],
    pairs: Sequence[tuple[int | None, int | None]],
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """The part of every pixel `(N, H, W)`, and how far target and rival differ in each `(N, P)`."""
    difference = getattr(dataset, "attribute_difference", None)
    assert difference is not None
    known: list[Mapping[str, float]] = [{} if None in (c, d) else difference(c, d) for c, d in pairs]
    names = sorted({name for note in placed for name in note.keypoints})
    of_keypoint = {name: KEYPOINT_PARTS.get(name, name) for name in names}
    parts = sorted(set(of_keypoint.values())) or ["none"]
    points = torch.full((len(placed), len(names), 2), torch.nan)
    differences = torch.full((len(placed), len(parts)), torch.nan)
    radius = torch.full((len(placed),), torch.nan)
    for n, (note, of_pair) in enumerate(zip(placed, known, strict=True)):
        for name, point in note.keypoints.items():
            points[n, names.index(name)] = torch.tensor(point)
            differences[n, parts.index(of_keypoint[name])] = of_pair.get(of_keypoint[name], torch.nan)
        if note.box is not None:
            x0, y0, x1, y1 = note.box
            radius[n] = REACH * ((x1 - x0) * (y1 - y0)) ** 0.5
    nearest = metrics.keypoint_regions(points, radius, size)
    number = torch.tensor([*(parts.index(of_keypoint[name]) for name in names), -1])  # the last is for "no keypoint"
    return number[nearest], differences


def _box(note: Annotation, size: tuple[int, int]) -> np.ndarray | None:
    return None if note.box is None else metrics.box_masks(torch.tensor([note.box]), size)[0].numpy()


def _stack(masks: Sequence[np.ndarray | None], size: tuple[int, int]) -> Tensor:
    return torch.from_numpy(np.stack([np.zeros(size, bool) if mask is None else mask for mask in masks]))
