"""A method: a way to gather evidence and a rule that makes the map, under a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.errors import FinerCAMError, suggest
from finercam.methods import gather, rules
from finercam.methods.source import Source

__all__ = ["Method", "get", "is_linear", "names", "register"]

Rule = Callable[[Tensor, Tensor], Tensor]
Gather = Callable[[Source, Contrast, Tensor], Evidence]


@dataclass(frozen=True)
class Method:
    """`rule(activations, gradients)` gives the signed map `(N, h, w)`; `gather` says where the evidence is from."""

    name: str
    rule: Rule
    gather: Gather = gather.gradients
    summary: str = ""


_REGISTRY: dict[str, Method] = {}


def register(
    name: str, rule: Rule | None = None, *, gather: Gather = gather.gradients, summary: str = ""
) -> Callable[[Rule], Rule]:
    """Put a rule under a name, as a decorator or by a call; it then works wherever a method's name does.

    A rule is a function of `activations (N, C, h, w)` and `gradients (N, C, h, w)`, which hold the contrast
    already, and gives the signed map `(N, h, w)`.

    >>> @register("positive-hirescam")
    ... def rule(activations, gradients):
    ...     return (activations.relu() * gradients).sum(1)
    >>> get("positive-hirescam").name
    'positive-hirescam'
    >>> _ = _REGISTRY.pop("positive-hirescam")
    """

    def put(rule: Rule) -> Rule:
        doc = (rule.__doc__ or "").strip().splitlines()
        _REGISTRY[name] = Method(name, rule, gather, summary or (doc[0] if doc else ""))
        return rule

    if rule is not None:
        put(rule)
    return put


def get(method: str | Method) -> Method:
    """The method of that name; raises FinerCAMError naming the nearest ones."""
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in _REGISTRY:
        known = ", ".join(_REGISTRY)
        raise FinerCAMError(f"method {method!r}: expected one of {known}.{suggest(str(method), _REGISTRY)}")
    return _REGISTRY[method]


@cache
def is_linear(method: Method) -> bool:
    """Whether a method's signed map is linear in the gradients; by trial, so that registered methods get their due.

    >>> [is_linear(get(name)) for name in ("gradcam", "xgradcam", "scorecam", "layercam", "eigengradcam")]
    [True, True, True, False, False]
    """
    random = torch.Generator().manual_seed(0)
    activations = torch.rand(1, 6, 5, 4, generator=random, dtype=torch.float64)
    whole = (1, 6, 5, 4) if method.gather is gather.gradients else (1, 6, 1, 1)
    one, other = (torch.randn(whole, generator=random, dtype=torch.float64) for _ in range(2))
    try:
        summed = method.rule(activations, one - 0.7 * other)
        apart = method.rule(activations, one) - 0.7 * method.rule(activations, other)
    except (RuntimeError, ValueError, IndexError):  # a rule made for one model's channels
        return False
    return torch.allclose(summed, apart, rtol=1e-6, atol=1e-9)


def names() -> list[str]:
    """Names of all registered methods, the built-in ones first."""
    return list(_REGISTRY)


register("gradcam", rules.gradcam)
register("gradcam++", rules.gradcam_plusplus)
register("xgradcam", rules.xgradcam)
register("hirescam", rules.hirescam)
register("layercam", rules.layercam)
register("gradcam-elementwise", rules.elementwise)
register("eigengradcam", rules.eigengradcam)
register(
    "scorecam",
    rules.gradcam,
    gather=gather.channel_scores,
    summary="Channels weighted by the logits of the image seen through them (Score-CAM; Finer-CAM, Eq. 9).",
)
register("scorecam-softmax", rules.softmax_weighted, gather=gather.channel_scores)
register(
    "gscorecam",
    rules.gradcam,
    gather=gather.top_channel_scores,
    summary="Score-CAM on the 300 channels with the largest gradient of the target (gScoreCAM).",
)
register(
    "ablationcam",
    rules.gradcam,
    gather=gather.ablations,
    summary="Channels weighted by how far the logits fall without them (Ablation-CAM).",
)
