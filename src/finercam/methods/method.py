"""A method: a way to gather evidence and a rule that makes the map; it describes itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.errors import FinerCAMError, suggest
from finercam.methods import gather, rules
from finercam.methods.source import Source

__all__ = ["Method", "get", "names", "register"]

Rule = Callable[[Tensor, Tensor], Tensor]
Gather = Callable[[Source, Contrast, Tensor], Evidence]


@dataclass(frozen=True)
class Method:
    """`rule(activations, gradients)` gives the signed map `(N, h, w)`; `gather` collects the evidence it reads.

    `label` is the name to show. `evidence` is what is gathered: "gradients" (one run of the tail backwards for each
    direction), "channels" (a score for each channel, many forward runs), "text" (patches in the space of the text
    prompts, for zero-shot classifiers only) or "activations" (no class at all, so that a contrast does not apply).
    `adds_layers`: the maps of its layers are added as they are, whatever the fusion. `broadcasts`: the rule takes gradients `(N, C, 1, 1)` where they are the
    same at all places. `declared_linear`: whether the signed map is linear in the gradients; None tests it on random numbers.
    """

    name: str
    rule: Rule
    gather: Gather = gather.gradients
    summary: str = ""
    label: str = ""
    evidence: Literal["gradients", "channels", "text", "activations"] = "gradients"
    broadcasts: bool = False
    adds_layers: bool = False
    declared_linear: bool | None = None

    @cached_property
    def linear(self) -> bool:
        """Whether the signed map is linear in the gradients, so that two maps answer for every gamma.

        >>> [get(name).linear for name in ("gradcam", "xgradcam", "scorecam", "layercam", "eigengradcam")]
        [True, True, True, False, False]
        """
        return self.is_linear_by_trial() if self.declared_linear is None else self.declared_linear

    def is_linear_by_trial(self) -> bool:
        """Whether the rule is linear on random activations and gradients."""
        random = torch.Generator().manual_seed(0)
        activations = torch.rand(1, 6, 5, 4, generator=random, dtype=torch.float64)
        shape = (1, 6, 5, 4) if self.evidence == "gradients" else (1, 6, 1, 1)
        one, other = (torch.randn(shape, generator=random, dtype=torch.float64) for _ in range(2))
        try:
            of_sum = self.rule(activations, one - 0.7 * other)
            sum_of = self.rule(activations, one) - 0.7 * self.rule(activations, other)
        except (RuntimeError, ValueError, IndexError):  # a rule made for one model's channels
            return False
        return torch.allclose(of_sum, sum_of, rtol=1e-6, atol=1e-9)

    @property
    def relevance(self) -> bool:
        """Whether the model runs by the relevance rules for it."""
        return self.gather is gather.relevance

    @property
    def needs_text(self) -> bool:
        """Whether it explains zero-shot classifiers only, whose classes are text prompts."""
        return self.evidence == "text"

    def fits(self, by_words: bool) -> bool:
        """Whether it can contrast the classes of a classifier, or those of texts."""
        return not self.class_free and (by_words or not self.needs_text)

    @property
    def class_free(self) -> bool:
        """Whether its map shows no class: the same for every target, and without a contrast."""
        return self.evidence == "activations"

    def check_contrast(self, asked: bool) -> None:
        """Raise FinerCAMError for a contrast if this method's map shows no class."""
        if asked and self.class_free:
            raise FinerCAMError(
                f"method {self.name!r} reads activations only: its map is the same for every class, so that no contrast "
                "applies; give gamma=0 and no rival classes, or take 'gradcam'"
            )

    def fused_by(self, fusion: str) -> str:
        """How the maps of its layers are joined: as it prescribes, else by this fusion."""
        return "sum" if self.adds_layers else fusion

    def shares_evidence(self, other: Method) -> bool:
        """Whether the two read the same evidence, so that one run of the model serves both."""
        return self.gather is other.gather


_REGISTRY: dict[str, Method] = {}


def register(name: str, rule: Rule | None = None, *, summary: str = "", **described: Any) -> Callable[[Rule], Rule]:
    """Put a rule under a name, as a decorator or by a call; it then works wherever a method's name does.

    A rule is a function of `activations (N, C, h, w)` and `gradients (N, C, h, w)`, which hold the contrast
    already, and gives the signed map `(N, h, w)`. Keywords set the other attributes, see `Method`.

    >>> @register("positive-hirescam")
    ... def rule(activations, gradients):
    ...     return (activations.relu() * gradients).sum(1)
    >>> get("positive-hirescam").label
    'positive-hirescam'
    >>> _ = _REGISTRY.pop("positive-hirescam")
    """

    def put(rule: Rule) -> Rule:
        first_line = next(iter((rule.__doc__ or "").strip().splitlines()), "")
        described.setdefault("label", name)
        _REGISTRY[name] = Method(name, rule, summary=summary or first_line, **described)
        return rule

    if rule is not None:
        put(rule)
    return put


def get(method: str | Method) -> Method:
    """The method of that name; raises FinerCAMError naming the nearest ones."""
    if isinstance(method, Method):
        return method
    if not isinstance(method, str) or method not in _REGISTRY:
        first = ", ".join(names()[:6])
        hint = f"{suggest(str(method), _REGISTRY)} (layer=… names a layer.)"
        raise FinerCAMError(f"method {method!r}: expected one of {first}, … (`finercam methods` lists all).{hint}")
    return _REGISTRY[method]


def names() -> list[str]:
    """Names of all registered methods, the built-in ones first."""
    return list(_REGISTRY)


register("gradcam", rules.gradcam, label="Grad-CAM", broadcasts=True, declared_linear=True)
register("gradcam++", rules.gradcam_plusplus, label="Grad-CAM++", broadcasts=True, declared_linear=False)
register("xgradcam", rules.xgradcam, label="XGrad-CAM", broadcasts=True, declared_linear=True)
register("hirescam", rules.hirescam, label="HiResCAM", broadcasts=True, declared_linear=True)
register("layercam", rules.layercam, label="LayerCAM", broadcasts=True, declared_linear=False)
register("gradcam-elementwise", rules.elementwise, label="Element-wise", broadcasts=True, declared_linear=False)
register("eigengradcam", rules.eigengradcam, label="Eigen-Grad-CAM", broadcasts=True, declared_linear=False)
register(
    "scorecam",
    rules.gradcam,
    gather=gather.channel_scores,
    evidence="channels",
    label="Score-CAM",
    declared_linear=True,
    summary="Channels weighted by the logits of the image seen through them (Score-CAM; Finer-CAM, Eq. 9).",
)
register(
    "scorecam-softmax",
    rules.softmax_weighted,
    gather=gather.channel_scores,
    evidence="channels",
    label="Score-CAM (softmax)",
    declared_linear=False,
)
register(
    "gscorecam",
    rules.gradcam,
    gather=gather.top_channel_scores,
    evidence="channels",
    label="gScoreCAM",
    declared_linear=True,
    summary="Score-CAM on the 300 channels with the largest gradient of the target (gScoreCAM).",
)
register(
    "ablationcam",
    rules.gradcam,
    gather=gather.ablations,
    evidence="channels",
    label="Ablation-CAM",
    declared_linear=True,
    summary="Channels weighted by how far the logits fall without them (Ablation-CAM).",
)
register(
    "relevance",
    rules.hirescam,
    gather=gather.relevance,
    label="Relevance",
    declared_linear=True,
    summary="Gradient times activation with attention, gates and scales held constant (after AttnLRP).",
)
register(
    "finecam",
    rules.hirescam,
    gather=gather.shares,
    label="Fine HiResCAM",
    broadcasts=True,
    declared_linear=True,
    summary="HiResCAM made for each class by itself and smoothed by 1.5 % of the side, for several layers at once.",
)
