"""The question: target class, reference classes, strength gamma, and how the references are weighted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.core.groups import NO_GROUPS, Groups
from finercam.core.references import NONE
from finercam.errors import FinerCAMError, suggest

__all__ = [
    "WEIGHTS",
    "Contrast",
    "checked_weights",
    "contrast_objective",
    "contrast_terms",
    "one_hot",
    "reference_weights",
]

WEIGHTS = ("mean", "probability", "orthogonal", "released")


@dataclass(frozen=True)
class Contrast:
    """Why `target (N,)` and not `references (N, T)`, with strength `gamma (N,)`.

    References are filled with -1 where a sample has fewer. `weights` is one of "mean" (the paper), "probability",
    "orthogonal" and "released" (the authors' code, for comparison). With gamma 0 the question is the plain one. An id
    from the number of classes on is one of `groups`.

    >>> Contrast(torch.tensor([0]), torch.tensor([[1, 2]]), torch.tensor([0.6]))
    Contrast(target=[0], references=[[1, 2]], gamma=[0.6], weights='mean')
    """

    target: Tensor
    references: Tensor
    gamma: Tensor
    weights: str = "mean"
    groups: Groups = NO_GROUPS

    def __post_init__(self) -> None:
        checked_weights(self.weights)
        if self.weights == "released" and self.groups.members:
            raise FinerCAMError("weights='released' knows no groups of classes; take weights='mean'")
        if self.references.shape[1] == 0 and bool((self.gamma > 0).any()):
            raise FinerCAMError(
                "the model has one class, so it has no rival class; use gamma=0 for the plain map, or give two "
                "logits, as scores=lambda y: torch.cat([-y, y], 1)"
            )

    def __getitem__(self, at: slice) -> Contrast:
        return replace(self, target=self.target[at], references=self.references[at], gamma=self.gamma[at])

    def __repr__(self) -> str:
        gamma = [round(value, 6) for value in self.gamma.tolist()]
        return (
            f"Contrast(target={self.target.tolist()}, references={self.references.tolist()}, "
            f"gamma={gamma}, weights={self.weights!r}{f', groups={self.groups.members}' if self.groups.members else ''})"
        )


def checked_weights(weights: Any) -> str:
    """The name of a weighting, as it was given; raises FinerCAMError for another one."""
    if not isinstance(weights, str) or weights not in WEIGHTS:
        raise FinerCAMError(
            f"weights={weights!r}: expected one of {', '.join(WEIGHTS)}.{suggest(str(weights), WEIGHTS)}"
        )
    return weights


def contrast_objective(
    logits: Tensor, target: Tensor, references: Tensor, gamma: float | Tensor, weights: str = "mean"
) -> Tensor:
    """`z = y_c - gamma * sum_t w_t y_dt` for each sample: logits `(N, K)`, references `(N, T)` to `(N,)`.

    Paper, Eq. 5-8; weights "mean" (1/T), "probability" (proportional to `p_dt`, detached) or "released" (the
    authors' code: `sum_i p_i (y_c - gamma y_i) / (sum_i p_i + 1e-9)`, `p` in the graph). Differentiable.

    >>> logits = torch.tensor([[3.0, 2.0, 1.0]])
    >>> contrast_objective(logits, torch.tensor([0]), torch.tensor([[1, 2]]), gamma=0.5)
    tensor([2.2500])
    """
    own = logits.gather(1, target[:, None]).squeeze(1)
    if weights == "released":
        present = references != NONE
        p = logits.softmax(dim=1).gather(1, references.clamp(min=0)) * present
        rivals = logits.gather(1, references.clamp(min=0))
        gamma = torch.as_tensor(gamma, dtype=logits.dtype, device=logits.device)
        terms = p * (own[:, None] - gamma.reshape(-1, 1) * rivals)
        return terms.sum(1) / (p.sum(1) + 1e-9)
    w = reference_weights(logits, references, weights)
    return own - gamma * (w * logits.gather(1, references.clamp(min=0))).sum(1)


def reference_weights(logits: Tensor, references: Tensor, weights: str) -> Tensor:
    """The weight of each reference `(N, T)`: detached, zero where there is none; each row sums to 1.

    "probability" is a softmax over the references alone, so it stays finite however small their probabilities.

    >>> reference_weights(torch.tensor([[9.0, 1.0, 1.0]]), torch.tensor([[1, 2]]), "probability")
    tensor([[0.5000, 0.5000]])
    """
    present = references != NONE
    if weights == "mean":
        return (present / present.sum(1, keepdim=True).clamp(min=1)).to(logits.dtype)
    if weights == "probability":
        rivals = logits.detach().gather(1, references.clamp(min=0))
        return rivals.masked_fill(~present, -torch.inf).softmax(dim=1).nan_to_num(0.0)
    raise FinerCAMError(f"weights={weights!r}: the weights of the references do not follow from the logits alone")


def contrast_terms(logits: Tensor, contrast: Contrast) -> tuple[Tensor, Tensor]:
    """The direction of the question in logit space, as two terms for and against the target: `(N, K)` each.

    `dz/dy = speaks_for - gamma * speaks_against`, for every weighting whose objective is known from the logits.
    Keeping the two gives every gamma from two vector-Jacobian products, however many references there are.

    >>> contrast = Contrast(torch.tensor([0]), torch.tensor([[1, 2]]), torch.tensor([0.6]))
    >>> contrast_terms(torch.zeros(1, 3), contrast)
    (tensor([[1., 0., 0.]]), tensor([[0.0000, 0.5000, 0.5000]]))
    """
    if contrast.weights == "released":
        return _released_terms(logits, contrast)
    each = contrast.groups.logits(logits)
    w = reference_weights(each, contrast.references, contrast.weights)
    against = torch.zeros_like(each).scatter_add_(1, contrast.references.clamp(min=0), w)
    return contrast.groups.direction(contrast.target, logits), contrast.groups.folded(against, logits)


def one_hot(ids: Tensor, logits: Tensor) -> Tensor:
    """Unit directions `(N, K)` of class ids `(N,)`; a row of zeros for an id of -1."""
    rows = F.one_hot(ids.clamp(min=0), logits.shape[1]).to(logits)
    return rows * (ids != NONE)[:, None].to(logits)


def _released_terms(logits: Tensor, contrast: Contrast) -> tuple[Tensor, Tensor]:
    """The two terms of z, which is linear in gamma, from its gradients at gamma = 0 and gamma = 1."""
    with torch.inference_mode(False), torch.enable_grad():
        y = logits.detach().clone().requires_grad_()
        # Copies, because autograd keeps no tensors that were made under the caller's inference mode.
        target, references = contrast.target.clone(), contrast.references.clone()
        at = [contrast_objective(y, target, references, gamma, "released").sum() for gamma in (0.0, 1.0)]
        speaks_for, both = (torch.autograd.grad(z, y, retain_graph=True)[0] for z in at)
    return speaks_for, speaks_for - both
