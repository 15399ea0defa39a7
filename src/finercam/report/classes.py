"""The classes that the page of an image offers: those whose separate evidence is stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from finercam.core.evidence import Evidence
from finercam.core.references import NONE, References, similarity
from finercam.core.views import View
from finercam.explanation import Explanation

__all__ = ["Apart", "similarities", "with_rivals"]

Layers = tuple[tuple[Tensor, Tensor], ...]


@dataclass(frozen=True)
class Apart:
    """The separate evidence of R classes for one image; the target is the first class.

    `views` has activations `(1, C, h, w)` and gradients `(R, C, h, w)` (or `(R, C, 1, 1)`) for each view and layer.
    `baseline (R,)` is what a score method subtracts from the channel scores of each target. `fixed` means that the
    evidence is valid for one target only.
    """

    classes: list[int]
    views: tuple[tuple[View, Layers], ...]
    baseline: Tensor | None
    fixed: bool

    @classmethod
    def of(cls, answer: Explanation, rivals: int) -> Apart:
        """The evidence in an explanation of one image: the target, its references, then the most probable classes.

        There are at most `rivals` classes besides the target. Classes without separate evidence are left out.
        """
        kept = [_kept(evidence, 0) for _, evidence in answer.seen]
        classes = [k for k in _wanted(answer, 0, rivals) if all(k in of_view for of_view in kept)]
        views = tuple(
            (view, _layers(evidence, [of_view[k] for k in classes]))
            for (view, evidence), of_view in zip(answer.seen, kept, strict=True)
        )
        first = answer.seen[0][1]
        baseline = None if first.baseline is None else first.baseline[0].double().cpu()[classes]
        return cls(classes, views, baseline, first.target is not None)

    def limited(self, count: int) -> Apart:
        """The first classes only."""
        layers = tuple((view, tuple((a, g[:count]) for a, g in of_view)) for view, of_view in self.views)
        baseline = None if self.baseline is None else self.baseline[:count]
        return replace(self, classes=self.classes[:count], views=layers, baseline=baseline)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Resolution of each layer."""
        return [(a.shape[2], a.shape[3]) for a, _ in self.views[0][1]]


def with_rivals(answer: Explanation, rivals: int) -> Explanation:
    """The same images with the evidence of `rivals` classes besides the target.

    The model runs once more if the evidence is missing. This happens only for gradient methods, where it costs about
    as much as a prediction, and only if the images are stored; otherwise the explanation is returned unchanged.
    References beyond `rivals` are left out of the result.
    """
    if all(
        set(_wanted(answer, sample, rivals)) <= set(_kept(answer.seen[0][1], sample)) for sample in range(len(answer))
    ):
        return answer
    backend, images = answer.backend, answer.images
    if backend is None or images is None or answer.question.method.evidence != "gradients":
        return answer
    # Only the first references get separate evidence, because a hundred backward passes would take minutes.
    ids, cosine = answer.references[:, :rivals], answer.similarity[:, :rivals]
    contrast = replace(answer.contrast, references=ids)
    again = backend.with_settings(keep=rivals + 1)
    return again.answer(images, answer.question, contrast, References(ids, cosine, answer.strategy))


def similarities(answer: Explanation, classes: list[int]) -> list[list[float | None]] | None:
    """Cosines between the head's rows of the classes, `(R, R)`; without a head only those of target and references."""
    backend = answer.backend
    head = None if backend is None else backend.head_rows(answer.logits.shape[1])
    if head is not None:
        rows = similarity(head.cpu()[classes], torch.arange(len(classes)))
        return [[_rounded(value) for value in row] for row in rows.tolist()]
    known = dict(zip(answer.references[0].tolist(), answer.similarity[0].tolist(), strict=True))
    row = [_rounded(known[d]) if d in known else None for d in classes]
    if all(value is None for value in row):
        return None
    return [row, *([value, *[None] * (len(classes) - 1)] for value in row[1:])]


def _wanted(answer: Explanation, sample: int, rivals: int) -> list[int]:
    target = int(answer.target[sample])
    references = [d for d in answer.references[sample].tolist() if d != NONE]
    likely = answer.logits[sample].argsort(descending=True, stable=True)[: rivals + 1].tolist()
    return list(dict.fromkeys([target, *references, *likely]))[: rivals + 1]


def _kept(evidence: Evidence, sample: int) -> dict[int, tuple[int, float]]:
    """The classes that have a separate direction, with its index and length."""
    kept: dict[int, tuple[int, float]] = {}
    for place, direction in enumerate(evidence.directions[sample]):
        ids = direction.nonzero().flatten().tolist()
        if len(ids) == 1:
            kept.setdefault(ids[0], (place, float(direction[ids[0]])))
    return kept


def _layers(evidence: Evidence, places: list[tuple[int, float]]) -> Layers:
    lengths = torch.tensor([length for _, length in places])[:, None, None, None]
    chosen = [place for place, _ in places]
    return tuple(
        (activation[:1].float().cpu(), gradient[0, chosen].float().cpu() / lengths)
        for activation, gradient in zip(evidence.activations, evidence.gradients, strict=True)
    )


def _rounded(value: float) -> float | None:
    return round(value, 3) if value == value else None
