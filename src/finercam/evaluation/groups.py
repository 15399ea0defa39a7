"""Groups of metrics: what each needs of the data, and its columns for a batch of maps, rank-based ones first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam import metrics
from finercam.errors import FinerCAMError, suggest
from finercam.evaluation.truth import Truth

__all__ = ["DIRECTION", "GROUPS", "HEADLINE", "PAPER", "RANKED", "Batch", "Columns", "Group", "find_groups"]

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What the metrics need besides a map: the model as a function, pictures, classes, truth and settings."""

    scores: Callable[[Tensor], Tensor]
    images: Tensor
    target: Tensor
    rivals: dict[str, Tensor]
    truth: Truth
    fill: metrics.Fill
    steps: int
    tolerance: int


@dataclass(frozen=True)
class Group:
    """Columns computed together from signed maps `(N, H, W)`.

    `needs` says in words what annotation the data must have, and `ability` which method of the dataset gives it (none:
    boxes or masks). `passes(steps)` is the number of model calls for a picture and map; `removes` says whether the
    group removes pixels in the map's order.
    """

    columns: Callable[[Batch, Tensor], Columns]
    needs: str = ""
    ability: str = ""
    chance: Callable[[Batch], Columns] | None = None
    passes: Callable[[int], int] = lambda steps: 0
    removes: bool = False


def _relative_drop(batch: Batch, maps: Tensor) -> Columns:
    names = list(batch.rivals)
    rivals = torch.stack([batch.rivals[name] for name in names], 1)
    found = metrics.relative_drop(batch.scores, batch.images, maps, batch.target, rivals, fill=batch.fill)
    columns: Columns = {}
    for s, share in enumerate(found.shares):
        columns[f"drop@{share:.0%}"] = found.drop[:, s]
        for r, name in enumerate(names):
            columns[f"rd@{share:.0%} {name}"] = found.rd[:, r, s]
            columns[f"rd log@{share:.0%} {name}"] = found.rd_log[:, r, s]
    return columns


def _deletion(batch: Batch, maps: Tensor) -> Columns:
    curves = metrics.deletion(batch.scores, batch.images, maps, batch.target, steps=batch.steps, fill=batch.fill)
    return {"deletion": curves.auc}


def _insertion(batch: Batch, maps: Tensor) -> Columns:
    return {"insertion": metrics.insertion(batch.scores, batch.images, maps, batch.target, steps=batch.steps).auc}


def _kept(batch: Batch, maps: Tensor) -> Columns:
    scaled = maps.clamp(min=0) / maps.amax((1, 2), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)
    found = metrics.kept_confidence(batch.scores, batch.images, scaled, batch.target, fill=batch.fill)
    return {"average drop": found.drop, "increase": found.increase}


def _road(batch: Batch, maps: Tensor) -> Columns:
    return {"road": metrics.road(batch.scores, batch.images, maps, batch.target).combined}


def _localisation(batch: Batch, maps: Tensor) -> Columns:
    objects = _known(batch.truth.objects, batch.images)
    iou = metrics.mask_iou(maps, objects, (0.25, 0.5))
    return {
        "ap": metrics.average_precision(maps, objects),
        "pointing": metrics.pointing(maps, objects, tolerance=batch.tolerance),
        "energy@object": metrics.equal_area_energy(maps, objects, None)[:, 0],
        "energy": metrics.energy(maps, objects),
        "energy in box": metrics.energy(maps, _known(batch.truth.boxes, batch.images)),
        "iou@25%": iou[:, 0],
        "iou@50%": iou[:, 1],
    }


def _localisation_chance(batch: Batch) -> Columns:
    objects, boxes = (_known(masks, batch.images) for masks in (batch.truth.objects, batch.truth.boxes))
    share, boxed = (metrics.mask_share(m).where(m.flatten(1).any(1), torch.nan) for m in (objects, boxes))
    return {
        "ap": metrics.average_precision_chance(objects),
        "pointing": metrics.pointing_chance(objects, tolerance=batch.tolerance),
        "energy@object": share,
        "energy": share,
        "energy in box": boxed,
        "iou@25%": share,
        "iou@50%": share,
    }


def _known(masks: Tensor | None, images: Tensor) -> Tensor:
    """Masks on the device; empty ones, which measures answer with NaN, where a batch has none at all."""
    empty = torch.zeros(len(images), *images.shape[2:], dtype=torch.bool, device=images.device)
    return empty if masks is None else masks.to(images.device)


def _contrastive(batch: Batch, maps: Tensor) -> Columns:
    assert batch.truth.discriminative is not None
    objects = None if batch.truth.objects is None else batch.truth.objects.to(maps.device)
    discriminative = batch.truth.discriminative.to(maps.device)
    return metrics.contrastive(maps, discriminative, objects, tolerance=batch.tolerance)


def _contrastive_chance(batch: Batch) -> Columns:
    assert batch.truth.discriminative is not None
    return metrics.contrastive_chance(batch.truth.discriminative, batch.truth.objects, tolerance=batch.tolerance)


def _parts(batch: Batch, maps: Tensor) -> Columns:
    regions, difference = _known_parts(batch)
    return metrics.part_evidence(maps, regions, difference)


def _parts_chance(batch: Batch) -> Columns:
    return metrics.part_evidence_chance(*_known_parts(batch))


def _known_parts(batch: Batch) -> tuple[Tensor, Tensor]:
    assert batch.truth.regions is not None and batch.truth.differences is not None
    return batch.truth.regions.to(batch.images.device), batch.truth.differences.to(batch.images.device)


def _shape(_: Batch, maps: Tensor) -> Columns:
    positive = maps.clamp(min=0)
    return {"sparseness": metrics.sparseness(positive), "complexity": metrics.complexity(positive)}


GROUPS: dict[str, Group] = {
    "rd": Group(_relative_drop, passes=lambda steps: 3, removes=True),
    "deletion": Group(_deletion, passes=lambda steps: steps + 1, removes=True),
    "insertion": Group(_insertion, passes=lambda steps: steps + 1, removes=True),
    "kept": Group(_kept, passes=lambda steps: 2),
    "road": Group(_road, passes=lambda steps: 18, removes=True),
    "localisation": Group(_localisation, "boxes or object masks", chance=_localisation_chance),
    "contrastive": Group(
        _contrastive, "pixels that tell two classes apart", "contrast_mask", chance=_contrastive_chance
    ),
    "parts": Group(_parts, "keypoints, and attributes of the classes", "attribute_difference", chance=_parts_chance),
    "shape": Group(_shape),
}

DIRECTION = {
    "drop": "up", "rd": "up", "deletion": "down", "insertion": "up", "average drop": "down", "increase": "up",
    "road": "up", "ap": "up", "energy": "up", "pointing": "up", "iou": "up", "discriminative": "up", "part": "up",
    "shared": "down", "background": "down", "sparseness": "", "complexity": "",
}  # fmt: skip
"""Which way is better, by the first word of a column's name; none for the two that only describe."""

RANKED = (
    "ap", "pointing", "energy@", "discriminative_ap", "discriminative_pointing", "discriminative_energy@",
    "part_pointing", "part_correlation", "rd", "deletion", "insertion", "road",
)  # fmt: skip
"""First letters of the columns that depend on the order of a map's values and not on how it is sharpened."""

HEADLINE = (
    "discriminative_ap", "discriminative_pointing", "discriminative_energy@5%", "discriminative_energy",
    "part_pointing", "part_correlation", "part_share", "part_energy",
    "ap", "pointing", "energy@object", "energy", "rd@5% held-out", "rd@5% strongest", "deletion", "insertion", "road",
    "average drop", "sparseness", "complexity",
)  # fmt: skip
"""The columns that a terminal shows, as many as there is room for; the files hold all."""


PAPER = ("deletion", "rd", "localisation")
"""The groups of the paper's table, which the name "paper" stands for."""


def find_groups(names: list[str]) -> dict[str, Group]:
    """The groups by their names, "paper" for those of the paper's table; raises FinerCAMError for an unknown name."""
    known = ("paper", *GROUPS)
    for name in names:
        if name not in known:
            raise FinerCAMError(f"metric {name!r}: expected one of {', '.join(known)}.{suggest(name, known)}")
    every = [one for name in names for one in (PAPER if name == "paper" else (name,))]
    return {name: GROUPS[name] for name in every}
