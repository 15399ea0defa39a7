"""What each class sees: activations with the gradients of a few kept directions in logit space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from finercam.core.contrast import Contrast, contrast_terms
from finercam.core.maps import aligned, places
from finercam.core.references import NONE
from finercam.errors import FinerCAMError
from finercam.names import plain

__all__ = ["Evidence", "Keep", "NotKept", "checked_keep", "directions", "joined_evidence"]

Keep = str | int | Sequence[int]
KEPT = ("question", "contrast", "closest", "references")
SPAN_TOLERANCE = 1e-6
"""Largest share of a direction outside the span of the kept ones."""


class NotKept(FinerCAMError):
    """The question needs a class that was not kept. A new run of the model can answer it."""


@dataclass(frozen=True)
class Evidence:
    """Activations and, for each kept direction in logit space, their gradients: enough for later questions.

    For each layer: `activations (N, C, h, w)` and `gradients (N, M, C, h, w)`, or `(N, M, C, 1, 1)` where a method
    scores whole channels. `directions (N, M, K)` say what each gradient is of; `logits (N, K)`. `baseline (N, K)`
    is what a score method subtracts from the target's channel scores (paper, Eq. 9). `target (N,)` is set where the
    evidence was gathered for one target only.

    Everything is linear in the direction. A linear combination of the kept directions therefore answers any question
    in their span; a question outside it raises NotKept.
    """

    logits: Tensor
    directions: Tensor
    activations: tuple[Tensor, ...]
    gradients: tuple[Tensor, ...]
    baseline: Tensor | None = None
    target: Tensor | None = None
    has_channels: bool = True
    """Whether channels are kept; without, activations are ones `(N, 1, h, w)` and gradients are maps of one class."""

    def contrasted(self, contrast: Contrast) -> list[tuple[Tensor, Tensor]]:
        """For each layer `(activations, gradients)` under the question, `(N, C, h, w)` each, float32 or better."""
        if self.target is not None and not torch.equal(self.target, contrast.target):
            raise NotKept(
                f"the evidence is for targets {self.target.tolist()} only, and the question is about targets "
                f"{contrast.target.tolist()}: explain again with these targets, or with keep_images=True"
            )
        if contrast.weights == "orthogonal" and not self.has_channels:
            raise NotKept("weights='orthogonal' compare channels, and only maps were kept: use method='hirescam'")
        if contrast.weights == "orthogonal":
            coefficients = [self._orthogonal(contrast, layer) for layer in range(len(self.gradients))]
        else:
            speaks_for, against = contrast_terms(self.logits, contrast)
            direction = speaks_for - contrast.gamma.to(speaks_for)[:, None] * against
            coefficients = [self.coefficients(direction)] * len(self.gradients)
        combined = [_combine(c, gradient) for c, gradient in zip(coefficients, self.gradients, strict=True)]
        if self.baseline is not None:
            unit = contrast.groups.direction(contrast.target, self.logits).to(self.baseline)
            offset = (unit * self.baseline).sum(1, keepdim=True)
            combined = [gradient - aligned(_wide(offset), gradient) for gradient in combined]
        return [
            (_wide(activation), gradient) for activation, gradient in zip(self.activations, combined, strict=True)
        ]

    def sliced(self, at: slice) -> Evidence:
        """The evidence of some of the samples."""
        return Evidence(
            self.logits[at],
            self.directions[at],
            tuple(activation[at] for activation in self.activations),
            tuple(gradient[at] for gradient in self.gradients),
            None if self.baseline is None else self.baseline[at],
            None if self.target is None else self.target[at],
            self.has_channels,
        )

    def coefficients(self, direction: Tensor) -> Tensor:
        """How a direction `(N, K)` is combined from the kept ones: `(N, M)`; raises NotKept outside their span."""
        direction = direction.to(self.directions)
        # A kept direction is used as it is, so that gamma 0 equals the plain method to the last bit.
        same = (self.directions == direction[:, None]).all(dim=2)
        first = same & (same.cumsum(dim=1) == 1)
        if bool(same.any(dim=1).all()):
            return first.to(direction)
        kept, length, inverse = self._solver
        found = inverse @ direction[..., None]
        lacking = (direction - (found.mT @ kept).squeeze(1)).masked_fill(same.any(dim=1, keepdim=True), 0.0)
        tolerance = SPAN_TOLERANCE * torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        outside = torch.linalg.vector_norm(lacking, dim=1, keepdim=True)
        if (outside > tolerance).any():
            sample = int((outside - tolerance).argmax())
            classes = (lacking[sample].abs() > tolerance[sample] / 10).nonzero().flatten().tolist()
            raise NotKept(
                f"classes {classes[:5]} of sample {sample} were not kept: explain again, with keep='references' or "
                "keep=[ids] for questions to come, or with keep_images=True to let ask() run the model"
            )
        # Nearly parallel directions ("released") span others only by large differences, full of rounding errors.
        largest = max(10.0, 1e-4 / torch.finfo(self.gradients[0].dtype).eps) * torch.linalg.vector_norm(
            direction, dim=1
        )
        amplified = (torch.linalg.vector_norm(found.squeeze(2), dim=1) > largest) & ~same.any(dim=1)
        if amplified.any():
            raise NotKept(
                f"the question about sample {int(amplified.nonzero()[0])} follows from what was kept only up to large "
                "rounding errors: explain again, or with keep_images=True to let ask() run the model"
            )
        return torch.where(same.any(dim=1, keepdim=True), first.to(kept), (found / length).squeeze(2))

    @cached_property
    def _solver(self) -> tuple[Tensor, Tensor, Tensor]:
        """Unit directions `(N, M, K)`, their lengths `(N, M, 1)`, and their pseudo-inverse `(N, M, K)`."""
        # Lengths differ by the size of the logits ("released"), and some directions are nearly parallel: unit vectors,
        # and an inverse by QR, since a Gram matrix would square how badly they are conditioned.
        length = torch.linalg.vector_norm(self.directions, dim=2, keepdim=True)
        length = torch.where(length == 0, 1.0, length)
        kept = self.directions / length
        q, r = torch.linalg.qr(kept.mT)
        return kept, length, torch.linalg.pinv(r, rtol=1e-12) @ q.mT

    def _orthogonal(self, contrast: Contrast, layer: int) -> Tensor:
        """Coefficients that take from the target's channel weights their projection on the references' span."""
        activation, gradient = self.activations[layer], self.gradients[layer]
        if gradient.shape[2] == 1 or (gradient.shape[3:] != activation.shape[2:] and gradient[0, 0, 0].numel() > 1):
            raise FinerCAMError(
                "weights='orthogonal' projects the weights of several channels, which this method or layer does not "
                "have; take weights='mean'"
            )
        unit = contrast.groups.direction
        target = self.coefficients(unit(contrast.target, self.logits))
        if contrast.references.shape[1] == 0:
            return target
        rivals = torch.stack([self.coefficients(unit(d, self.logits)) for d in contrast.references.unbind(1)], 1)
        alpha = _wide(gradient).mean(dim=places(gradient, 3)).to(target)
        alpha_d = rivals @ alpha
        gram = alpha_d @ alpha_d.mT
        beta = torch.linalg.pinv(gram, hermitian=True, rtol=1e-10) @ (alpha_d @ (target[:, None] @ alpha).mT)
        return target - contrast.gamma.to(target)[:, None] * (beta.mT @ rivals).squeeze(1)


def joined_evidence(parts: Sequence[Evidence]) -> Evidence:
    """The evidence of several batches as that of one; missing directions are filled with zeros."""
    count = max(part.directions.shape[1] for part in parts)
    whole = range(len(parts[0].gradients))
    target, baseline = ([getattr(part, name) for part in parts] for name in ("target", "baseline"))
    return Evidence(
        torch.cat([part.logits for part in parts]),
        torch.cat([_filled(part.directions, count) for part in parts]),
        tuple(torch.cat([part.activations[layer] for part in parts]) for layer in whole),
        tuple(_joined_gradients([part.gradients[layer] for part in parts], count) for layer in whole),
        None if baseline[0] is None else torch.cat(baseline),
        None if target[0] is None else torch.cat(target),
        parts[0].has_channels,
    )


def _joined_gradients(parts: Sequence[Tensor], count: int) -> Tensor:
    size = parts[0].shape[3:]
    if all(_one_place(part) for part in parts):  # stays an expanded view
        corners = torch.cat([_filled(_corner(part), count) for part in parts])
        return corners.expand(-1, -1, -1, *size)
    return torch.cat([_filled(part, count) for part in parts])


def _filled(kept: Tensor, count: int) -> Tensor:
    missing = count - kept.shape[1]
    return torch.cat([kept, kept.new_zeros(len(kept), missing, *kept.shape[2:])], 1) if missing else kept


def directions(logits: Tensor, contrast: Contrast, keep: Keep) -> Tensor:
    """The directions `(N, M, K)` to keep for a question and those that may follow it.

    `keep` is "question" (one direction: this gamma of this question only), "contrast" (two directions: every gamma of
    this question, the plain map, and with one reference the reverse question), "closest" (a third: the first
    reference alone), "references" (each reference alone), a number of top classes, or class ids; the classes are kept
    besides the references.

    >>> contrast = Contrast(torch.tensor([0]), torch.tensor([[1, 2]]), torch.tensor([0.6]))
    >>> directions(torch.zeros(1, 5), contrast, "contrast").shape, directions(torch.zeros(1, 5), contrast, 4).shape
    (torch.Size([1, 2, 5]), torch.Size([1, 4, 5]))
    """
    if keep == "question" and contrast.weights != "orthogonal":
        speaks_for, against = contrast_terms(logits, contrast)
        return (speaks_for - contrast.gamma.to(speaks_for)[:, None] * against)[:, None]
    if keep in ("contrast", "closest") and contrast.weights in ("mean", "probability"):
        terms = contrast_terms(logits, contrast)
        if keep == "closest" and contrast.references.shape[1] > 1:
            terms = (*terms, contrast.groups.direction(contrast.references[:, 0], logits))
        return torch.stack(terms, 1)
    ids = torch.cat([contrast.target[:, None], contrast.references], 1)
    columns = _with_extra(ids, logits, keep).unbind(1)
    kept = torch.stack([contrast.groups.direction(column, logits) for column in columns], 1)
    if contrast.weights == "released":  # its gradient reaches all classes through the softmax
        kept = torch.cat([kept, torch.stack(contrast_terms(logits, contrast), 1)], 1)
    return kept


def checked_keep(keep: Any) -> Keep:
    """What to keep, as `directions` takes it; raises FinerCAMError for anything else."""
    keep = plain(keep)
    if (isinstance(keep, str) and keep in KEPT) or (type(keep) is int and keep >= 0):
        return keep
    if isinstance(keep, (list, tuple, range)) and all(type(k) is int and k >= 0 for k in keep):
        return tuple(dict.fromkeys(keep))
    names = ", ".join(repr(name) for name in KEPT)
    raise FinerCAMError(f"keep={keep!r}: expected {names}, a number of classes or class ids")


def _with_extra(ids: Tensor, logits: Tensor, keep: Keep) -> Tensor:
    """Add the wanted classes that a sample does not have yet, and -1 where it has them."""
    if isinstance(keep, str):
        return ids
    if isinstance(keep, int):
        wanted = logits.sort(dim=1, descending=True, stable=True).indices[:, :keep]
    else:
        wanted = torch.tensor(list(keep), dtype=torch.long).expand(len(ids), -1)
        if wanted.numel() and int(wanted.max()) >= logits.shape[1]:
            raise FinerCAMError(f"keep={list(keep)}: expected class ids in 0…{logits.shape[1] - 1}")
    have = (wanted[:, :, None] == ids[:, None, :]).any(2)
    extra = wanted.masked_fill(have, NONE)
    return torch.cat([ids, extra[:, (extra != NONE).any(0)]], 1)


def _combine(coefficients: Tensor, gradients: Tensor) -> Tensor:
    """`sum_m x_m G_m` for each sample: `(N, M)` and `(N, M, C, h, w)` to `(N, C, h, w)`."""
    wide = _wide(_corner(gradients) if _one_place(gradients) else gradients)
    combined = torch.einsum("nm,nmc...->nc...", coefficients.to(wide), wide)
    return combined.expand(-1, -1, *gradients.shape[3:])


def _one_place(gradients: Tensor) -> bool:
    """Whether the gradients are an expanded view, equal at all places."""
    return not any(gradients.stride()[3:])


def _corner(gradients: Tensor) -> Tensor:
    """The gradients `(N, M, C, …)` at the first place alone."""
    return gradients[(..., *(slice(1),) * (gradients.ndim - 3))]


def _wide(x: Tensor) -> Tensor:
    """Float32 instead of half precision, which would overflow in the sums that follow."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
