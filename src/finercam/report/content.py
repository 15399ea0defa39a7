"""The data of one image in the page: classes, numbers, photo, and the maps of each method that fits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from finercam.core.references import NONE
from finercam.explanation import Explanation
from finercam.methods import Method
from finercam.methods import get as get_method
from finercam.report.classes import Apart, similarities
from finercam.report.classmaps import ASKED, GAMMAS, Question, grid, linear, linear_length
from finercam.report.pack import packed_length, unpack

__all__ = ["BUDGET", "page_of"]

BUDGET = 140_000
"""Largest number of characters of the maps and numbers of one image, without its photo."""

FREE = ("gradcam", "hirescam", "xgradcam", "layercam")
"""Methods that are offered besides the explanation's method if they can use the same evidence."""


def page_of(
    answer: Explanation, apart: Apart, rivals_from: Explanation, methods: Sequence[str] | None
) -> dict[str, Any]:
    """The page's data of one image, from its explanation and the separate evidence `apart` of its classes.

    The caller fills in the class names: "askedNames" has class ids, and an entry of "classes" has an "id".

    To stay within BUDGET, other methods are left out first, then precision is reduced, then rivals are left out. The
    target, the references and the method of the explanation are always included.
    """
    asked = [d for d in answer.references[0].tolist() if d != NONE]
    apart = _affordable(apart, asked)
    classes = apart.classes
    composable = (
        answer.contrast.weights != "released"
        and set(asked) <= set(classes)
        and (answer.contrast.weights != "orthogonal" or len(apart.views) == 1)
    )
    logits = answer.logits[0].double().cpu()
    return {
        "size": list(answer.image_size),
        "classes": [{"id": k} for k in classes],
        "logits": logits[classes].tolist(),
        "probabilities": answer.probabilities[0].double().cpu()[classes].tolist(),
        "link": answer.link,
        "similarity": similarities(rivals_from, classes),
        "asked": [classes.index(d) for d in asked] if composable else ASKED,
        "askedNames": asked[:12],
        "askedCount": len(asked),
        "gamma": round(float(answer.gamma[0]), 6),
        "weights": answer.contrast.weights,
        "fusion": answer.question.fusion,
        "layers": list(answer.layers),
        "views": len(answer.seen),
        "methods": _shown(answer, apart, _offered(answer, methods), composable),
    }


def _shown(answer: Explanation, apart: Apart, offered: list[Method], composable: bool) -> list[dict[str, Any]]:
    """The maps of the methods that fit; a method that equals an earlier one only names it."""
    shown: list[dict[str, Any]] = []
    left = BUDGET
    for method in offered:
        entry = _method(answer, apart, method, composable, left, first=not shown)
        if entry is None:
            continue
        twin = next((other["name"] for other in shown if _same(other, entry)), None)
        entry = entry if twin is None else {"kind": "same", "as": twin}
        left -= len(json.dumps(entry))
        shown.append({"name": method.name, "label": method.label} | entry)
    return shown


def _offered(answer: Explanation, methods: Sequence[str] | None) -> list[Method]:
    """The method of the explanation, then the others that use the same evidence."""
    first = answer.question.method
    others = [get_method(name) for name in (FREE if methods is None else methods) if name != first.name]
    return [first, *(method for method in others if method.shares_evidence(first))]


def _affordable(apart: Apart, asked: list[int]) -> Apart:
    """As many classes as fit with 8 bits, and at least the target and its references."""
    least = 1 + len(set(asked) & set(apart.classes))
    while len(apart.classes) > least and linear_length(len(apart.classes), apart.shapes, 8) > BUDGET:
        apart = apart.limited(len(apart.classes) - 1)
    return apart


def _method(
    answer: Explanation, apart: Apart, method: Method, composable: bool, left: int, first: bool
) -> dict[str, Any] | None:
    """The maps of one method, or None if they do not fit and the method is not the first one."""
    # Fusing layers divides by their peaks, so that the mean over views of a fusion is not linear.
    if not method.linear or (len(apart.views) > 1 and len(apart.shapes) > 1):
        return _grid(answer, apart, method, left, first)
    count = len(apart.classes)
    bits = 16 if linear_length(count, apart.shapes, 16) <= left else 8
    if linear_length(count, apart.shapes, bits) > left and not first:
        return None
    return linear(apart, method, bits, None if composable else answer)


def _grid(answer: Explanation, apart: Apart, method: Method, left: int, first: bool) -> dict[str, Any] | None:
    """As many questions as fit: the explanation's question, then single rivals, then these in reverse."""
    gammas = sorted({*GAMMAS, round(float(answer.gamma[0]), 6)})
    asked = Question(0, ASKED)
    rivals = range(1, len(apart.classes))
    forwards = [Question(0, d) for d in rivals]
    backwards = [] if apart.fixed else [Question(d, 0) for d in rivals]
    named = sum(d in apart.classes for d in answer.references[0].tolist())
    choices = [
        [asked, *forwards, *backwards],
        [asked, *forwards, *backwards[:named]],
        [asked, *forwards[:named], *backwards[:named]],
        [asked],
    ]
    shape = (answer.signed.shape[1], answer.signed.shape[2])
    for questions in choices:
        for bits in (16, 8):
            if packed_length(len(questions) * len(gammas), shape, bits) + 60 * len(questions) <= left:
                return grid(answer, apart, method, questions, gammas, bits)
    if not first:
        return None
    return grid(answer, apart, method, [asked], sorted({0.0, 1.0, 2.0, gammas[-1], float(answer.gamma[0])}), 8)


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two methods have the same maps, as Grad-CAM and HiResCAM have before a pooled linear head."""
    if one["kind"] != "linear" or other["kind"] != "linear":
        return False
    pairs = zip(one["layers"], other["layers"], strict=True)
    return all(_close(unpack(a["maps"]), unpack(b["maps"])) for a, b in pairs)


def _close(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max(initial=0) <= 1e-4 * np.abs(one).max(initial=0))
