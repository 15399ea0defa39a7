"""Explanations from rows: kept maps take the place of evidence, so that questions need no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, Keep, NotKept
from finercam.core.references import NONE, References
from finercam.core.views import IDENTITY
from finercam.errors import FinerCAMError
from finercam.explanation import Explanation
from finercam.methods import Method, get
from finercam.question import BoundQuestion, Question
from finercam.run.settings import Settings

__all__ = ["ClassMaps", "StrengthMaps", "answers"]


@dataclass(frozen=True)
class ClassMaps(Evidence):
    """Maps of single classes as evidence of one channel: activation 1, gradients `(N, M, 1, h, w)` the maps.

    A linear method's map under a contrast is the same combination of its maps of the classes. Logits that the run
    does not know are minus infinity.
    """

    def contrasted(self, contrast: Contrast) -> list[tuple[Tensor, Tensor]]:
        if contrast.groups.members:  # its direction needs the logits of all its classes
            raise NotKept("a run answers questions about single classes, not groups of them: explain again")
        if contrast.weights == "orthogonal":
            raise NotKept("weights='orthogonal' needs the channels, and a run keeps a map a class: explain again")
        if contrast.weights == "released" and bool(self.logits.isinf().any()):
            raise NotKept("weights='released' needs every logit, and the run lacks some: explain again")
        rivals = self.logits.gather(1, contrast.references.clamp(min=0)).masked_fill(contrast.references == NONE, 0)
        if contrast.weights == "probability" and bool((rivals.isinf().any(dim=1) & (contrast.gamma > 0)).any()):
            raise NotKept("the run does not know the probability of every rival class: explain again, or take others")
        return super().contrasted(contrast)

    def sliced(self, at: slice) -> Evidence:
        return ClassMaps(**vars(super().sliced(at)))


@dataclass(frozen=True)
class StrengthMaps(Evidence):
    """Maps of one question at some strengths, `strengths (N, G, 1, h, w)`: what a method that is not linear keeps.

    There are no gradients, so that nothing takes these maps for something that can be combined.
    """

    question: Contrast | None = None
    gammas: tuple[float, ...] = ()
    strengths: Tensor | None = None

    def contrasted(self, contrast: Contrast) -> list[tuple[Tensor, Tensor]]:
        question, maps = self.question, self.strengths
        assert question is not None and maps is not None
        plain = bool((contrast.gamma == 0).all())
        same = torch.equal(contrast.target, question.target) and (
            plain or (torch.equal(contrast.references, question.references) and contrast.weights == question.weights)
        )
        places = [self.gammas.index(g) if g in self.gammas else NONE for g in contrast.gamma.tolist()]
        if not same or NONE in places:
            kept = ", ".join(f"{gamma:g}" for gamma in self.gammas)
            raise NotKept(
                f"this method is not linear, and the run kept the map of its question at gamma {kept} only: "
                "explain again, or run with --gammas for others"
            )
        chosen = maps[torch.arange(len(places)), torch.tensor(places, dtype=torch.long)]
        return [(torch.ones_like(chosen), chosen)]

    def sliced(self, at: slice) -> Evidence:
        own, maps = self.question, self.strengths
        assert own is not None and maps is not None
        return StrengthMaps(**vars(super().sliced(at)), question=own[at], gammas=self.gammas, strengths=maps[at])


@dataclass(frozen=True, eq=False)
class StoredQuestion(Question):
    """A question that a run answers from its rows; `top` of an image's logits are known to be the highest ones."""

    top: int = 0

    def bind(self, count: int, num_classes: int | None, class_names: Sequence[str] | None = None) -> BoundQuestion:
        return _StoredBinding(**vars(super().bind(count, num_classes, class_names)))


class _StoredBinding(BoundQuestion):
    def resolve(self, logits: Tensor, rows: Tensor | None, first: int = 0) -> tuple[Contrast, References]:
        """As for any question; raises NotKept where the strategy would need a logit or the head that a run lacks."""
        question: Any = self.question
        if self.against is not None:
            return super().resolve(logits, rows, first)
        strategy = question.references
        if strategy not in ("predicted", "nearest"):
            raise NotKept(
                f"a run has no model to pick {strategy} rival classes for another target: name them (against=)"
            )
        contrast, references = super().resolve(logits, rows, first)
        # An unknown logit is at most as high as the least of the highest ones that are known.
        bound = logits.topk(question.top, dim=1).values[:, -1]
        own = logits.gather(1, contrast.target[:, None])
        picked = logits.gather(1, references.ids.clamp(min=0))
        if strategy == "predicted":
            sure = picked.amin(dim=1) >= bound
        else:
            sure = own[:, 0] - bound >= (picked - own).abs().amax(dim=1)
        if bool((logits.isinf().any(dim=1) & ~(sure & bound.isfinite())).any()):
            raise NotKept(f"the run lacks logits that decide the {strategy} rival classes: name them (against=)")
        return contrast, references


class StoredBackend:
    """What a finished run can do for its explanations: it has neither model nor head."""

    def head_rows(self, num_classes: int) -> None:
        return None

    def answer(
        self,
        images: Tensor,
        question: Question,
        contrast: Contrast,
        references: References,
        samples: Sequence[int] | None = None,
    ) -> Explanation:
        raise NotKept("a run has no model to ask; explain the images again")

    def logits(self, images: Tensor, samples: Sequence[int] | None = None) -> Tensor:
        raise NotKept("a run has no model to run; explain the images again")

    def features(self, images: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        raise NotKept("a run has no model to run; explain the images again")

    def with_settings(self, *, keep: Keep | None = None, **question: Any) -> StoredBackend:
        return self


def answers(table: Any, settings: Settings) -> Iterator[tuple[Any, Explanation]]:
    """Explanations of the rows of a table that have one, with the rows, a part for each size, grid and number kept.

    Their logits are exact for the kept classes and, but for rounding, for the most probable ones. The others share the
    rest of the probability evenly, so that the probability of every known class is right.
    """
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported, unseen by type checkers
    table = table.filter(pc.is_valid(table.column("evidence"))).combine_chunks()
    if not len(table):
        return
    lengths = [pc.list_value_length(table.column(name)).to_pylist() for name in ("kept_ids", "reference_ids", "grid")]
    sizes = [table.column(name).to_pylist() for name in ("input_height", "input_width")]
    groups: dict[tuple[Any, ...], list[int]] = {}
    grids = table.column("grid").to_pylist()
    for at, key in enumerate(zip(*sizes, *lengths, map(tuple, grids), strict=True)):
        groups.setdefault(key, []).append(at)
    for places in groups.values():
        some = table if len(places) == len(table) else table.take(places)
        yield some.drop_columns(["evidence"]), _answer(some, settings)


def _answer(table: Any, settings: Settings) -> Explanation:
    count = len(table)
    kept, kept_logits = _matrix(table, "kept_ids", count).long(), _matrix(table, "kept_logits", count).double()
    target = torch.tensor(table.column("target_id").to_pylist(), dtype=torch.long)
    references, similarity = _matrix(table, "reference_ids", count).long(), _matrix(table, "similarity", count)
    maps = _maps(table, kept.shape[1] if settings.linear else len(settings.gammas))
    logits, filled = _logits(table, kept, kept_logits, settings.num_classes)
    gamma = torch.full((count,), settings.gamma, dtype=torch.float64)
    contrast = Contrast(target, references, gamma, settings.weights)
    ones = tuple(torch.ones(count, 1, *of_layer.shape[3:]) for of_layer in maps)
    method = get(settings.method)
    rule = _sum if settings.linear else _as_kept
    kind = "activations" if method.class_free else "gradients"
    stored = Method(
        method.name, rule, _from_rows, method.summary, method.label, kind, declared_linear=settings.linear
    )
    directions = torch.zeros(count, kept.shape[1], settings.num_classes, dtype=torch.float64)
    directions.scatter_(2, kept[:, :, None], 1.0)
    if settings.linear:
        # Score methods subtract the score of the empty input from the target's map alone: they answer for no other target.
        fixed = None if method.evidence == "gradients" else target
        evidence: Evidence = ClassMaps(logits, directions, ones, tuple(maps), None, fixed)
    else:
        evidence = StrengthMaps(
            logits, directions[:, :0], ones, (), question=contrast, gammas=settings.gammas, strengths=maps[0]
        )
    return Explanation.of(
        contrast,
        References(references, similarity, "explicit" if settings.against else settings.references),
        replace(StoredQuestion.make(stored, **settings.question_values), top=settings.top),
        ((IDENTITY, evidence),),
        logits=filled.float(),
        layers=settings.layers,
        image_size=(table.column("input_height")[0].as_py(), table.column("input_width")[0].as_py()),
        class_names=settings.class_names,
        backend=StoredBackend(),
    )


def _maps(table: Any, slots: int) -> list[Tensor]:
    """The kept maps of each layer, `(N, slots, 1, h, w)`."""
    count, grid = len(table), table.column("grid")[0].as_py()
    shapes = list(zip(grid[::2], grid[1::2], strict=True))
    flat, scale = _matrix(table, "evidence", count), _matrix(table, "scale", count)
    sizes = [slots * h * w for h, w in shapes]
    if flat.shape[1] != sum(sizes):
        raise FinerCAMError(f"evidence of {flat.shape[1]} numbers for {slots} maps of {shapes}; the run is damaged")
    return [
        part.float().mul_(scale[:, layer, None]).view(count, slots, 1, *shapes[layer])
        for layer, part in enumerate(flat.split(sizes, dim=1))
    ]


def _logits(table: Any, kept: Tensor, kept_logits: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """The known logits `(N, K)`, of the most probable and the kept classes, and the same with the others filled in."""
    count = len(table)
    top, probabilities = _matrix(table, "top_ids", count).long(), _matrix(table, "top_probabilities", count).double()
    total = torch.tensor(table.column("log_total").to_pylist(), dtype=torch.float64)
    logits = torch.full((count, classes), -torch.inf, dtype=torch.float64)
    logits.scatter_(1, top, probabilities.log() + total[:, None])
    logits.scatter_(1, kept, kept_logits)
    known = logits.isfinite()
    unknown = classes - known.sum(1)
    # the rest of the probability, but never more than the least of the most probable ones: rounding could make it so
    left = (1 - (logits - total[:, None]).exp().sum(1)).clamp(min=1e-12) / unknown.clamp(min=1)
    filler = torch.minimum(left.log() + total, logits.gather(1, top).amin(1))
    filler = torch.where(filler.isfinite(), filler, total - 30)
    return logits, torch.where(known, logits, filler[:, None])


def _matrix(table: Any, name: str, count: int) -> Tensor:
    """A list column whose lists have one length, as `(N, length)`, without a Python object for every number."""
    column = table.column(name).combine_chunks()
    column = column.chunk(0) if hasattr(column, "chunk") else column
    values = np.array(column.flatten().to_numpy(zero_copy_only=False))
    if count == 0 or values.size % count:
        raise FinerCAMError(f"column {name!r} has {values.size} numbers in {count} rows; the run is damaged")
    return torch.from_numpy(values.reshape(count, -1))


def _sum(activations: Tensor, gradients: Tensor) -> Tensor:
    """Maps that a run kept, combined under the contrast."""
    return (gradients * activations).sum(dim=1)


def _as_kept(activations: Tensor, gradients: Tensor) -> Tensor:
    """A map that a run kept, as it is."""
    if gradients.shape[1] != 1:
        raise ValueError("kept maps are not combined")
    return gradients[:, 0]


def _from_rows(source: Any, contrast: Contrast, directions: Tensor) -> Evidence:
    raise NotKept("a run has no model to gather from; explain the images again")
