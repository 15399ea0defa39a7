"""Groups of measures: what each asks of the data, and its columns for a batch of maps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam import metrics
from finercam.errors import FinerCAMError, suggest
from finercam.evaluation.truth import Truth

__all__ = ["DIRECTION", "GROUPS", "PAPER", "Batch", "Group", "find_groups"]

Columns = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What the measures need besides a map: the model as a function, pictures, classes, truth and settings."""

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
    """Columns computed together from maps `(N, H, W)`, ranked before the ReLU; `needs` names an annotation."""

    columns: Callable[[Batch, Tensor], Columns]
    needs: str = ""
    chance: Callable[[Batch], Columns] | None = None


def _relative_drop(batch: Batch, maps: Tensor) -> Columns:
    names = list(batch.rivals)
    rivals = torch.stack([batch.rivals[name] for name in names], 1)
    found = metrics.relative_drop(batch.scores, batch.images, maps, batch.target, rivals, fill=batch.fill)
    columns: Columns = {}
    for s, share in enumerate(found.shares):
        columns[f"drop@{share:.0%}"] = found.drop[:, s]
        for r, name in enumerate(names):
            columns[f"rd@{share:.0%} {name}"] = found.rd[:, r, s]
            columns[f"rd/p@{share:.0%} {name}"] = found.rd_relative[:, r, s]
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
        "energy": metrics.energy(maps, objects),
        "energy in box": metrics.energy(maps, _known(batch.truth.boxes, batch.images)),
        "pointing": metrics.pointing(maps, objects, tolerance=batch.tolerance),
        "iou@25%": iou[:, 0],
        "iou@50%": iou[:, 1],
    }


def _localisation_chance(batch: Batch) -> Columns:
    objects, boxes = (_known(masks, batch.images) for masks in (batch.truth.objects, batch.truth.boxes))
    share, boxed = (metrics.mask_share(m).where(m.flatten(1).any(1), torch.nan) for m in (objects, boxes))
    pointing = metrics.pointing_chance(objects, tolerance=batch.tolerance)
    return {"energy": share, "energy in box": boxed, "pointing": pointing, "iou@25%": share, "iou@50%": share}


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


def _shape(_: Batch, maps: Tensor) -> Columns:
    positive = maps.clamp(min=0)
    return {"sparseness": metrics.sparseness(positive), "complexity": metrics.complexity(positive)}


GROUPS: dict[str, Group] = {
    "rd": Group(_relative_drop),
    "deletion": Group(_deletion),
    "insertion": Group(_insertion),
    "kept": Group(_kept),
    "road": Group(_road),
    "localisation": Group(_localisation, "boxes or object masks", _localisation_chance),
    "contrastive": Group(_contrastive, "pixels that tell two classes apart", _contrastive_chance),
    "shape": Group(_shape),
}

DIRECTION = {
    "drop": "up", "rd": "up", "deletion": "down", "insertion": "up", "average drop": "down", "increase": "up",
    "road": "up", "energy": "up", "pointing": "up", "iou": "up", "discriminative": "up", "shared": "down",
    "background": "down", "sparseness": "", "complexity": "",
}  # fmt: skip
"""Which way is better, by the first word of a column's name; none for the two that only describe."""


PAPER = ("deletion", "rd", "localisation")
"""What the paper's table is made of: the group "paper"."""


def find_groups(names: list[str]) -> dict[str, Group]:
    """The groups of that name, "paper" being those of the paper's table; raises FinerCAMError naming the nearest."""
    known = ("paper", *GROUPS)
    for name in names:
        if name not in known:
            raise FinerCAMError(f"metric {name!r}: expected one of {', '.join(known)}.{suggest(name, known)}")
    every = [one for name in names for one in (PAPER if name == "paper" else (name,))]
    return {name: GROUPS[name] for name in every}
