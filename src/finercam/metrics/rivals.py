"""Rival classes for confidence drops. RD is too favourable if a map was made with the same rival."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.metrics.checks import as_classes

__all__ = ["held_out_rival", "strongest_rival"]


def strongest_rival(logits: Tensor, target: int | Tensor | list[int]) -> Tensor:
    """The class with the highest score besides the target, `(N,)`; −1 if there is no other.

    >>> strongest_rival(torch.tensor([[3.0, 1.0, 2.0]]), 0).tolist()
    [2]
    """
    return _best_unused(logits, as_classes(target, logits)[:, None])


def held_out_rival(closeness: Tensor, target: int | Tensor | list[int], references: Tensor) -> Tensor:
    """The closest class that is neither the target nor a reference of the map, `(N,)`; −1 if there is none.

    `closeness` `(N, K)` ranks the classes: their logits, or the rows of the classifier's similarity matrix.
    `references` `(N, T)` are the reference classes of the map, −1 for none.

    >>> held_out_rival(torch.tensor([[3.0, 1.0, 2.0]]), 0, torch.tensor([[2]])).tolist()
    [1]
    """
    used = as_classes(references, closeness, what="references")
    used = used[:, None] if used.ndim == 1 else used
    return _best_unused(closeness, torch.cat((as_classes(target, closeness)[:, None], used), 1))


def _best_unused(closeness: Tensor, used: Tensor) -> Tensor:
    if closeness.ndim != 2 or (used.numel() and int(used.max()) >= closeness.shape[1]):
        raise FinerCAMError(
            f"closeness has shape {tuple(closeness.shape)} and class ids reach {int(used.max())}: expected (N, K) "
            "and ids below K."
        )
    # An empty slot (−1) marks an extra column, which is then dropped.
    taken = torch.zeros(len(closeness), closeness.shape[1] + 1, dtype=torch.bool, device=closeness.device)
    taken.scatter_(1, torch.where(used < 0, closeness.shape[1], used), True)
    taken = taken[:, :-1]
    best = closeness.masked_fill(taken, -torch.inf).argmax(1)
    return torch.where(taken.all(1), -1, best)
