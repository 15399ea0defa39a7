"""All the maps that are compared on one batch, from one capture: methods by contrasts, and controls."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam import metrics
from finercam.core import references as pick
from finercam.core.contrast import Contrast, contrast_terms, one_hot
from finercam.core.head import linear_head
from finercam.core.maps import signed_map, upsample
from finercam.core.references import NONE
from finercam.errors import FinerCAMError
from finercam.evaluation.ask import Ask
from finercam.explainer import FinerCAM
from finercam.methods import Method
from finercam.methods.source import Source

__all__ = ["CONTROLS", "Question", "Questions", "controls", "questions", "signed_maps"]

CONTROLS = ("uniform", "gaussian", "shuffled")
WIDE = 16
"""Contrasts with more references than this are kept as two directions and not class by class."""


@dataclass(frozen=True)
class Question:
    """An asked contrast with the classes it came to for one batch."""

    ask: Ask
    contrast: Contrast


@dataclass(frozen=True)
class Questions:
    """All questions of a batch, and the rival classes `(N,)` that confidence drops are measured against."""

    asked: list[Question]
    rivals: dict[str, Tensor]


def questions(
    explain: FinerCAM,
    logits: Tensor,
    target: Tensor,
    asks: Sequence[Ask],
    siblings: Sequence[Sequence[int]] | None,
    seeds: Sequence[int],
) -> Questions:
    """Settle each ask's references for `target (N,)`.

    The rival of a picture is the likeliest of its class's siblings, or, where none are known, of all other classes.
    """
    logits = logits.cpu().double()
    head = linear_head(explain.model, logits.shape[1])
    strongest = metrics.strongest_rival(logits, target)
    rival = strongest if siblings is None else _likeliest(logits, siblings, strongest)
    asked = []
    for ask in asks:
        ids = _pick(ask, logits, target, None if head is None else head[0].cpu(), rival, seeds)
        gamma = torch.full((len(target),), ask.gamma, dtype=torch.float64)
        asked.append(Question(ask, Contrast(target, ids, gamma, ask.weights)))
    closest = logits if head is None else pick.similarity(head[0].cpu(), target).double()
    used = [q.contrast.references for q in asked if q.ask.references not in ("all", "random")]
    taken = torch.cat([*used, rival[:, None], strongest[:, None]], 1)
    similar = metrics.strongest_rival(closest, target)
    rivals = {"rival": rival, "similar": similar, "strongest": strongest}
    return Questions(asked, rivals | {"held-out": metrics.held_out_rival(closest, target, taken)})


def signed_maps(
    explain: FinerCAM, source: Source, methods: Sequence[Method], asked: Sequence[Question]
) -> Iterator[tuple[Method, Question, Tensor]]:
    """Every method under every contrast: signed maps `(N, H, W)` at the size of the images.

    Methods that gather the same evidence share it, and the first ones share the capture `source` itself.
    """
    kept = _directions(source.logits.cpu().double(), asked)
    first = True
    for gather in dict.fromkeys(method.gather for method in methods):
        looked = source if first else explain.capture(source.images)
        evidence, first = gather(looked, asked[0].contrast, kept), False
        for method in methods:
            if method.gather is gather:
                for question in asked:
                    signed = signed_map(evidence, question.contrast, method.rule, explain.question.fusion)
                    yield method, question, upsample(signed, (source.images.shape[2], source.images.shape[3]))


def controls(name: str, like: Tensor, seeds: Sequence[int]) -> tuple[Tensor, Tensor]:
    """A control map for energies, and one that says which pixels go first, `(N, H, W)` each.

    The uniform map has no order of its own: its pixels are taken away at random.
    """
    count, size = len(like), (like.shape[1], like.shape[2])
    if name == "uniform":
        return metrics.uniform_map(count, size).to(like), metrics.random_map(count, size, seed=seeds).to(like)
    if name == "gaussian":
        centred = metrics.gaussian_map(count, size).to(like)
        return centred, centred
    if name == "shuffled":
        shuffled = metrics.shuffled_map(like, seed=seeds)
        return shuffled, shuffled
    raise FinerCAMError(f"control {name!r}: expected one of {', '.join(CONTROLS)}")


def _pick(
    ask: Ask, logits: Tensor, target: Tensor, weight: Tensor | None, rival: Tensor, seeds: Sequence[int]
) -> Tensor:
    if ask.references == "rival":
        return rival[:, None]
    if ask.references == "random":
        noise = [torch.rand(logits.shape[1], generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return pick.predicted(torch.stack(noise), target, ask.count)
    if ask.references == "all":
        return pick.all_other_classes(logits.shape[1], target)
    if ask.references == "nearest":
        return pick.nearest(logits, target, ask.count)
    if ask.references == "predicted":
        return pick.predicted(logits, target, ask.count)
    if weight is None and ask.gamma == 0:  # whatever the references are, they do not count
        return pick.predicted(logits, target, ask.count)
    if weight is None:
        raise FinerCAMError(
            f"contrast {ask.name!r} compares rows of a linear head, and the model has none; ask 'predicted'"
        )
    return pick.similar(weight, target, ask.count)


def _likeliest(logits: Tensor, siblings: Sequence[Sequence[int]], otherwise: Tensor) -> Tensor:
    chosen = [
        max(of_class, key=lambda d, row=row: (float(row[d]), -d)) if of_class else int(fallback)
        for row, of_class, fallback in zip(logits, siblings, otherwise, strict=True)
    ]
    return torch.tensor(chosen)


def _directions(logits: Tensor, asked: Sequence[Question]) -> Tensor:
    """One direction for each class that any narrow question names, and two for each wide one."""
    # orthogonal weights follow from the channel weights of each class, so each has to be kept
    narrow = [
        q.contrast for q in asked if q.contrast.references.shape[1] <= WIDE or q.contrast.weights == "orthogonal"
    ]
    wide = [q.contrast for q in asked if q.contrast.references.shape[1] > WIDE and q.contrast.weights != "orthogonal"]
    target = asked[0].contrast.target
    rows = []
    for sample in range(len(target)):
        ids = dict.fromkeys(int(d) for contrast in narrow for d in contrast.references[sample] if d != NONE)
        rows.append(torch.tensor([int(target[sample]), *ids]))
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=NONE)
    kept = [one_hot(column, logits) for column in padded.unbind(1)]
    terms: dict[tuple[object, ...], None] = {}
    for contrast in (contrast for contrast in wide if contrast.weights != "released"):
        # gamma does not enter the terms: one pair serves every gamma of the same references and weights
        key = (contrast.weights, contrast.references.shape[1], contrast.references.numpy().tobytes())
        if key not in terms:
            terms[key] = None
            kept.extend(contrast_terms(logits, contrast))
    for contrast in (q.contrast for q in asked if q.contrast.weights == "released"):
        # it reaches all classes by the softmax, some so faintly that no combination would hit it: kept as it is
        speaks_for, against = contrast_terms(logits, contrast)
        kept.append(speaks_for - contrast.gamma.to(logits)[:, None] * against)
    return torch.stack(kept, 1)
