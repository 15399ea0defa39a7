"""The linear head: multinomial logistic regression on frozen features, and the choice of its weight decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from finercam.errors import FinerCAMError

__all__ = ["DECAYS", "Head", "Sweep", "accuracy", "fit", "stratified", "sweep"]

DECAYS = {"lbfgs": (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6), "adamw": (1e-1, 1e-2, 1e-3, 0.0)}
"""The weight decays that `sweep` tries, from strong to weak, so that each fit starts from a smoother one."""

EPOCHS, BATCH, RATE = 100, 256, 1e-2  # of AdamW


@dataclass(frozen=True)
class Head:
    """A linear classifier of features: logits = `features @ weight.T + bias`, weight `(C, D)`, bias `(C,)`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        return F.linear(features.to(self.weight), self.weight, self.bias)


@dataclass(frozen=True)
class Sweep:
    """The best head, its weight decay, and `(decay, top-1, loss)` on the validation data for each decay tried."""

    head: Head
    weight_decay: float
    tried: tuple[tuple[float, float, float], ...] = ()

    @property
    def validation(self) -> tuple[float, float]:
        """Top-1 and loss of the chosen decay on the validation data; NaN if there was no choice."""
        return next(
            ((top1, loss) for decay, top1, loss in self.tried if decay == self.weight_decay), (math.nan, math.nan)
        )


def fit(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    weight_decay: float,
    *,
    method: str = "lbfgs",
    start: Head | None = None,
    seed: int = 0,
    max_iterations: int = 500,
) -> Head:
    """Train a linear head on features `(N, D)` with labels `(N,)`, in the precision of the features.

    "lbfgs" minimises mean cross-entropy + `weight_decay`/2 · ‖W‖² on the full batch, without decay of the bias.
    "adamw" uses mini-batches in seeded order and decoupled decay. Features are first centred and divided by a common
    scale (their root mean square), so that a decay has the same meaning for every backbone. The returned head reads
    the original features. Raises FinerCAMError for features that are not finite or labels outside `num_classes`.

    >>> x = torch.tensor([[-2.0], [-1.0], [1.0], [2.0]])
    >>> fit(x, torch.tensor([0, 0, 1, 1]), 2, 1e-2)(x).argmax(1)
    tensor([0, 0, 1, 1])
    """
    if method not in DECAYS:
        raise FinerCAMError(f"method={method!r} is not one of {', '.join(DECAYS)}")
    if features.ndim != 2 or len(features) != len(labels) or not len(features):
        raise FinerCAMError(
            f"features {tuple(features.shape)} and labels {tuple(labels.shape)}; expected (N, D) and (N,)"
        )
    if not bool(features.isfinite().all()):
        bad = (~features.isfinite().all(1)).nonzero().flatten().tolist()
        raise FinerCAMError(f"features {bad[:5]} are not finite; run the backbone in float32, or leave those out")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise FinerCAMError(
            f"labels from {int(labels.min())} to {int(labels.max())} do not fit {num_classes} classes"
        )
    if not weight_decay >= 0:
        raise FinerCAMError(f"weight_decay={weight_decay} must be at least 0")
    mean = features.mean(0)
    scale = (features - mean).pow(2).mean().sqrt().clamp_min(torch.finfo(features.dtype).tiny ** 0.5)
    x = (features - mean) / scale
    weight, bias = x.new_zeros(num_classes, x.shape[1]), x.new_zeros(num_classes)
    if start is not None:
        weight, bias = start.weight.to(x) * scale, start.bias.to(x) + F.linear(mean, start.weight.to(x))
    weight, bias = weight.clone().requires_grad_(), bias.clone().requires_grad_()
    with torch.enable_grad(), torch.inference_mode(False):
        if method == "lbfgs":
            _lbfgs(x, labels, weight, bias, weight_decay, max_iterations)
        else:
            _adamw(x, labels, weight, bias, weight_decay, seed)
    weight = weight.detach() / scale
    return Head(weight, bias.detach() - F.linear(mean, weight))


def sweep(
    train: tuple[Tensor, Tensor],
    val: tuple[Tensor, Tensor],
    num_classes: int,
    decays: Sequence[float] = (),
    *,
    method: str = "lbfgs",
    seed: int = 0,
) -> Sweep:
    """Fit a head on `train` (features, labels) for every decay and keep the one with the lowest loss on `val`.

    The loss is cross-entropy, which depends less on single pictures than top-1. Of equal losses the stronger decay is
    kept. Raises FinerCAMError if there is no decay to try.
    """
    head: Head | None = None
    best: tuple[float, Head, float] | None = None
    tried = []
    for decay in sorted(decays or DECAYS.get(method, ()), reverse=True):
        head = fit(*train, num_classes, decay, method=method, start=head if method == "lbfgs" else None, seed=seed)
        logits = head(val[0])
        loss = float(F.cross_entropy(logits, val[1].to(logits.device)))
        tried.append((decay, accuracy(logits, val[1])["top1"], loss))
        if best is None or loss < best[0]:
            best = loss, head, decay
    if best is None:
        raise FinerCAMError("no weight decay to try; give at least one")
    return Sweep(best[1], best[2], tuple(tried))


def accuracy(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Share of samples whose label has the highest logit ("top1") or one of the five highest ("top5"), in [0, 1].

    Ties count against the label, so that a head with constant logits scores 0.

    >>> accuracy(torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]]), torch.tensor([1, 0]))
    {'top1': 0.5, 'top5': 1.0}
    """
    labels = labels.to(logits.device)
    own = logits.gather(1, labels[:, None])
    others = torch.ones_like(logits, dtype=torch.bool).scatter_(1, labels[:, None], False)
    ahead = ((logits >= own) & others).sum(1)
    top = min(5, logits.shape[1])
    return {"top1": float((ahead < 1).double().mean()), "top5": float((ahead < top).double().mean())}


def stratified(labels: Tensor, share: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Split positions into (rest, held out) with `share` of each class held out; both are in ascending order.

    At least one sample of each class stays in the rest. At least one is held out if a class has two or more.

    >>> rest, held = stratified(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2]), 0.25)
    >>> len(rest), len(held)
    (7, 2)
    """
    if not 0 < share < 1:
        raise FinerCAMError(f"the share held out is {share}; expected a number between 0 and 1")
    generator = torch.Generator().manual_seed(seed)
    held = torch.zeros(len(labels), dtype=torch.bool)
    labels = labels.cpu()
    for label in labels.unique():
        places = (labels == label).nonzero().flatten()
        places = places[torch.randperm(len(places), generator=generator)]
        count = min(len(places) - 1, max(1, round(share * len(places))))
        held[places[:count]] = True
    return (~held).nonzero().flatten(), held.nonzero().flatten()


def _loss(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.cross_entropy(F.linear(x, weight, bias), labels)


def _lbfgs(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, decay: float, max_iterations: int) -> None:
    labels = labels.to(x.device)
    precise = x.dtype == torch.float64
    optimiser = torch.optim.LBFGS(
        [weight, bias],
        max_iter=max_iterations,
        history_size=20,
        tolerance_grad=1e-9 if precise else 1e-6,
        tolerance_change=1e-14 if precise else 1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = _loss(x, labels, weight, bias) + decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)  # pyright: ignore[reportArgumentType]


def _adamw(x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, decay: float, seed: int) -> None:
    groups = [{"params": [weight], "weight_decay": decay}, {"params": [bias], "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, EPOCHS * math.ceil(len(x) / BATCH))
    generator = torch.Generator().manual_seed(seed)
    labels = labels.to(x.device)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).to(x.device).split(BATCH):
            optimiser.zero_grad()
            _loss(x[rows], labels[rows], weight, bias).backward()
            optimiser.step()
            schedule.step()
