"""Ranks of values, and Spearman's correlation of them."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.metrics.checks import as_maps, finite_maps, void_where

__all__ = ["mean_ranks", "spearman"]


def spearman(a: Tensor, b: Tensor) -> Tensor:
    """Spearman's rank correlation of maps, `(N,)` in [−1, 1]; equal values share their mean rank.

    NaN if either map is constant. Raises `FinerCAMError` if the shapes differ.

    >>> round(spearman(torch.tensor([[[1.0, 2.0, 9.0]]]), torch.tensor([[[0.1, 0.3, 0.2]]])).item(), 6)
    0.5
    """
    x, y = (mean_ranks(as_maps(maps).flatten(1)) for maps in (a, b.to(a.device)))
    if x.shape != y.shape:
        raise FinerCAMError(
            f"maps of shapes {tuple(a.shape)} and {tuple(b.shape)} cannot be compared: expected equal."
        )
    x, y = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    spread = x.norm(dim=1) * y.norm(dim=1)
    rho = ((x * y).sum(1) / spread).clamp(-1, 1)
    return void_where((spread == 0) | ~finite_maps(a) | ~finite_maps(b).to(a.device), rho)


def mean_ranks(values: Tensor) -> Tensor:
    """Ranks from 0 along the last axis of `(..., P)`; equal values share their mean rank. Float64, except on MPS.

    >>> mean_ranks(torch.tensor([[5.0, 1.0, 5.0]])).tolist()
    [[1.5, 0.0, 1.5]]
    """
    values = values.contiguous()
    ordered = values.sort(-1).values
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to - 1).to(torch.float32 if values.device.type == "mps" else torch.float64) / 2
