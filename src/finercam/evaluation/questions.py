"""The contrasts of a batch: which classes each one's references are, and the rivals that drops are measured against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam import metrics
from finercam.core.contrast import Contrast
from finercam.core.head import linear_head
from finercam.core.references import predicted, similarity
from finercam.evaluation.ask import Ask
from finercam.explainer import FinerCAM
from finercam.question import BoundQuestion, checked_gammas

__all__ = ["NamedContrast", "Questions", "resolve_questions"]


@dataclass(frozen=True)
class NamedContrast:
    """A contrast by its name in the tables, with the classes that it means for one batch."""

    name: str
    contrast: Contrast


@dataclass(frozen=True)
class Questions:
    """All contrasts of a batch, and by name the rival classes `(N,)` that confidence drops are measured against."""

    contrasts: list[NamedContrast]
    rivals: dict[str, Tensor]

    @property
    def target(self) -> Tensor:
        return self.contrasts[0].contrast.target


def resolve_questions(
    explain: FinerCAM,
    logits: Tensor,
    target: Tensor,
    asks: Sequence[Ask],
    siblings: Sequence[Sequence[int]] | None,
    seeds: Sequence[int],
) -> Questions:
    """Pick the references of each contrast for `target (N,)`.

    The rival of a picture is the likeliest of its class's `siblings`, or of all other classes where it has none.
    """
    logits = logits.cpu().double()
    head = linear_head(explain.model, logits.shape[1])
    rows = None if head is None else head[0].cpu()
    strongest = metrics.strongest_rival(logits, target)
    rival = strongest if siblings is None else _likeliest(logits, siblings, strongest)
    named = []
    for ask in asks:
        against = rival[:, None] if ask.pick == "rival" else None
        if ask.pick == "random":
            against = _random_classes(logits.shape[1], target, ask.question.num_references, seeds)
        question = ask.question
        if rows is None and bool((question.gamma == 0).all()):  # then the references do not count
            question = question.changed(references="predicted")
        bound = BoundQuestion(question, checked_gammas(question.gamma, len(target)), target, against)
        named.append(NamedContrast(ask.name, bound.resolve(logits, rows)[0]))
    closest = logits if rows is None else similarity(rows, target).double()
    own = [
        each.contrast.references
        for each, ask in zip(named, asks, strict=True)
        if ask.pick != "random" and ask.question.references != "all"
    ]
    taken = torch.cat([*own, rival[:, None], strongest[:, None]], 1)
    rivals = {"rival": rival, "similar": metrics.strongest_rival(closest, target), "strongest": strongest}
    return Questions(named, rivals | {"held-out": metrics.held_out_rival(closest, target, taken)})


def _random_classes(num_classes: int, target: Tensor, count: int, seeds: Sequence[int]) -> Tensor:
    noise = [torch.rand(num_classes, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    return predicted(torch.stack(noise), target, count)


def _likeliest(logits: Tensor, siblings: Sequence[Sequence[int]], otherwise: Tensor) -> Tensor:
    chosen = [
        max(of_class, key=lambda d, row=row: (float(row[d]), -d)) if of_class else int(fallback)
        for row, of_class, fallback in zip(logits, siblings, otherwise, strict=True)
    ]
    return torch.tensor(chosen)
