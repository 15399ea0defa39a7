"""The maps in a page: one signed map for each class if a method is linear, otherwise maps at steps of gamma."""

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
"""Values of gamma for which the maps of a method that is not linear are computed in advance."""

ASKED = "asked"
"""Stands for the rivals of the explanation's own question, in the place of class indices."""

BATCH_NUMBERS = 1 << 20
"""How many numbers a rule processes at once; more would not fit into the cache of a processor."""


@dataclass(frozen=True)
class Question:
    """Indices of target and rival among the classes of a page; the rival `ASKED` means the explanation's question."""

    target: int
    against: int | str


def linear(apart: Apart, method: Method, bits: int, asked: Explanation | None) -> dict[str, Any]:
    """The maps of each class and layer for a linear method; the page combines them for any contrast.

    Some methods (Score-CAM) subtract the target's score of the empty input. The page then gets the subtracted map as
    `rest (h, w)` times the `baseline` of the target. If the contrast of an explanation is no combination of these maps,
    it is given as `asked`, and the page gets its map at gamma 0 and the change to gamma 1. `gram` are the inner
    products of the classes' channel weights, from which the page solves for "orthogonal" weights.
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
        if len(apart.views) == 1 and activation.shape[1] > 1:  # a finished run stores maps without channels
            alphas = gradient.mean(dim=(2, 3), dtype=torch.float64)
            entry["gram"] = (alphas @ alphas.T).tolist()
        layers.append(entry)
    baseline = None if apart.baseline is None else apart.baseline.tolist()
    return {"kind": "linear", "layers": layers, "baseline": baseline, "fixed": apart.fixed}


def linear_length(count: int, shapes: list[tuple[int, int]], bits: int) -> int:
    """The approximate number of characters of `linear` in the page."""
    return sum(packed_length(count + 3, shape, bits) for shape in shapes) + 22 * count * count * len(shapes)


def grid(
    answer: Explanation, apart: Apart, method: Method, questions: list[Question], gammas: list[float], bits: int
) -> dict[str, Any]:
    """A method's signed maps at each gamma for each question, for methods that the page cannot compute itself."""
    plain = [evidence.contrasted(replace(answer.contrast, gamma=_one(0.0))) for _, evidence in answer.seen]
    full = [evidence.contrasted(replace(answer.contrast, gamma=_one(1.0))) for _, evidence in answer.seen]
    stacked = []
    for question in questions:
        of_views = []
        for at, (_, layers) in enumerate(apart.views):
            if isinstance(question.against, str):
                steps = zip(plain[at], full[at], strict=True)
                pairs = [(a.cpu(), p.cpu(), (p - q).cpu()) for (a, p), (_, q) in steps]
            else:
                pairs = [(a, *_sides(apart, g, question.target, question.against)) for a, g in layers]
            maps = fuse([_at_gammas(method, *pair, gammas) for pair in pairs], answer.question.fusion)
            of_views.append(maps)
        views = [view for view, _ in apart.views]
        stacked.append(average(of_views, views, fused=len(apart.shapes) > 1).double().numpy())
    listed = [{"target": q.target, "against": q.against if q.against == ASKED else [q.against]} for q in questions]
    return {
        "kind": "grid",
        "gammas": gammas,
        "questions": listed,
        "maps": pack(np.concatenate(stacked), bits),
        "fixed": apart.fixed,
    }


def _layer_maps(apart: Apart, method: Method) -> list[np.ndarray]:
    """The maps `(R, h, w)` of a linear method for each layer, averaged over the views of the image."""
    taken = 0.0 if apart.baseline is None else apart.baseline.float()[:, None, None, None]
    of_views = []
    for view, layers in apart.views:
        maps = [method.rule(a.expand(len(g), -1, -1, -1), g - taken) for a, g in layers]
        of_views.append([view.undo(m, size) for m, size in zip(maps, apart.shapes, strict=True)])
    return [torch.stack(of_layer).mean(0).double().numpy() for of_layer in zip(*of_views, strict=True)]


def _asked_pair(answer: Explanation, method: Method) -> list[np.ndarray]:
    """For each layer the map of the explanation's question at gamma 0 and its change to gamma 1: `(2, h, w)`."""
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
    """The gradients of the target and of the rival, `(1, C, h, w)` each."""
    taken = 0.0 if apart.baseline is None else apart.baseline.float()[target]
    return gradients[target : target + 1] - taken, gradients[rival : rival + 1]


def _at_gammas(method: Method, activation: Tensor, plain: Tensor, against: Tensor, gammas: list[float]) -> Tensor:
    """Signed maps `(G, h, w)`; gradients are linear in gamma for any weights."""
    strengths = torch.tensor(gammas, dtype=plain.dtype)[:, None, None, None]
    some = max(1, BATCH_NUMBERS // activation.numel())
    return torch.cat(
        [
            method.rule(activation.expand(len(gamma), -1, -1, -1), plain - gamma * against)
            for gamma in strengths.split(some)
        ]
    )


def _one(gamma: float) -> Tensor:
    return torch.tensor([gamma], dtype=torch.float64)
