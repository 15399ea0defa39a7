"""What the page computes with: one signed map a class where a method is linear, else maps at steps of gamma."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finercam.core.fuse import fuse
from finercam.core.views import average
from finercam.explanation import Explanation
from finercam.methods import Method
from finercam.report.classes import Apart
from finercam.report.pack import pack, packed_length

__all__ = ["ASKED", "GAMMAS", "Question", "grid", "linear", "linear_length"]

GAMMAS = tuple(round(step / 10, 1) for step in range(21))
"""Strengths at which a method that is not linear is computed beforehand."""

ASKED = "asked"
DEFAULT_BATCH_SIZE = 1 << 20
"""Numbers that a rule is given at once; more would not stay in a processor's cache."""


@dataclass(frozen=True)
class Question:
    """Places of target and rival among a page's classes; rival "asked" is the explanation's own question."""

    target: int
    against: int | str


def linear(apart: Apart, method: Method, bits: int, asked: Explanation | None) -> dict[str, Any]:
    """A linear method's maps of each class on its own, of each layer: the page combines them under any contrast.

    For methods that subtract the target's score of the empty input (Score-CAM) also what is subtracted, as
    `rest (h, w)` times `baseline` of the target. An explanation whose contrast cannot be made of the classes' own
    maps is given as `asked`, and the page gets its map at gamma 0 and the change to gamma 1. `gram` are the inner
    products of the classes' channel weights, from which "orthogonal" is solved.
    """
    maps = _layer_maps(apart, method)
    pair = None if asked is None else _asked_pair(asked, method)
    layers = []
    for layer, (activation, gradient) in enumerate(apart.views[0][1]):
        entry: dict[str, Any] = {"maps": pack(maps[layer], bits)}
        if apart.baseline is not None:
            rest = method.rule(activation, torch.ones_like(gradient[:1]))
            entry["rest"] = pack(rest.double().numpy(), 16)
        if pair is not None:
            entry["asked"] = pack(pair[layer], 16)
        if len(apart.views) == 1 and activation.shape[1] > 1:  # a finished run keeps maps, and no channels
            alphas = gradient.mean(dim=(2, 3), dtype=torch.float64)
            entry["gram"] = (alphas @ alphas.T).tolist()
        layers.append(entry)
    baseline = None if apart.baseline is None else apart.baseline.tolist()
    return {"kind": "linear", "layers": layers, "baseline": baseline, "fixed": apart.fixed}


def linear_length(count: int, shapes: list[tuple[int, int]], bits: int) -> int:
    """About how many characters `linear` becomes."""
    return sum(packed_length(count + 3, shape, bits) for shape in shapes) + 22 * count * count * len(shapes)


def grid(
    answer: Explanation, apart: Apart, method: Method, questions: list[Question], gammas: list[float], bits: int
) -> dict[str, Any]:
    """A method's signed maps at each gamma for each question, computed here since the page cannot."""
    asked = [evidence.contrasted(replace(answer.contrast, gamma=_one(0.0))) for _, evidence in answer.seen]
    full = [evidence.contrasted(replace(answer.contrast, gamma=_one(1.0))) for _, evidence in answer.seen]
    found = []
    for question in questions:
        of_views = []
        for at, (_, layers) in enumerate(apart.views):
            if isinstance(question.against, str):
                zero, one = asked[at], full[at]
                pairs = [(a.cpu(), p.cpu(), (p - q).cpu()) for (a, p), (_, q) in zip(zero, one, strict=True)]
            else:
                pairs = [(a, *_sides(apart, g, question.target, question.against)) for a, g in layers]
            maps = fuse([_at_gammas(method, *pair, gammas) for pair in pairs], answer.question.fusion)
            of_views.append(maps)
        views = [view for view, _ in apart.views]
        found.append(average(of_views, views, fused=len(apart.shapes) > 1).double().numpy())
    listed = [{"target": q.target, "against": q.against if q.against == ASKED else [q.against]} for q in questions]
    return {
        "kind": "grid",
        "gammas": gammas,
        "questions": listed,
        "maps": pack(np.concatenate(found), bits),
        "fixed": apart.fixed,
    }


def _layer_maps(apart: Apart, method: Method) -> list[np.ndarray]:
    """A linear method's maps of each layer `(R, h, w)`, the mean over the views of the image."""
    taken = 0.0 if apart.baseline is None else apart.baseline.float()[:, None, None, None]
    of_views = []
    for view, layers in apart.views:
        maps = [method.rule(a.expand(len(g), -1, -1, -1), g - taken) for a, g in layers]
        of_views.append([view.undo(m, size) for m, size in zip(maps, apart.shapes, strict=True)])
    return [torch.stack(of_layer).mean(0).double().numpy() for of_layer in zip(*of_views, strict=True)]


def _asked_pair(answer: Explanation, method: Method) -> list[np.ndarray]:
    """For each layer the asked question's map at gamma 0 and its change to gamma 1: `(2, h, w)`."""
    shapes = [(a.shape[2], a.shape[3]) for a in answer.seen[0][1].activations]
    of_views = []
    for view, evidence in answer.seen:
        plain, full = (evidence.contrasted(replace(answer.contrast, gamma=_one(gamma))) for gamma in (0.0, 1.0))
        maps = [
            torch.cat([method.rule(a, p), method.rule(a, p) - method.rule(a, q)])
            for (a, p), (_, q) in zip(plain, full, strict=True)
        ]
        of_views.append([view.undo(m, size) for m, size in zip(maps, shapes, strict=True)])
    return [torch.stack(of_layer).mean(0).double().cpu().numpy() for of_layer in zip(*of_views, strict=True)]


def _sides(apart: Apart, gradients: Tensor, target: int, rival: int) -> tuple[Tensor, Tensor]:
    """Gradients for the target and against it, `(1, C, h, w)` each."""
    taken = 0.0 if apart.baseline is None else apart.baseline.float()[target]
    return gradients[target : target + 1] - taken, gradients[rival : rival + 1]


def _at_gammas(method: Method, activation: Tensor, plain: Tensor, against: Tensor, gammas: list[float]) -> Tensor:
    """Signed maps `(G, h, w)`: gradients are linear in gamma whatever the weights."""
    strengths = torch.tensor(gammas, dtype=plain.dtype)[:, None, None, None]
    some = max(1, DEFAULT_BATCH_SIZE // activation.numel())
    return torch.cat(
        [
            method.rule(activation.expand(len(gamma), -1, -1, -1), plain - gamma * against)
            for gamma in strengths.split(some)
        ]
    )


def _one(gamma: float) -> Tensor:
    return torch.tensor([gamma], dtype=torch.float64)
