"""Metrics of how concentrated a map is. A finer map is sparser whether or not it is right, so do not use them alone."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.metrics.checks import as_maps, finite_maps, void_where

__all__ = ["complexity", "mean_intensity", "sparseness"]


def sparseness(maps: Tensor) -> Tensor:
    """Gini index of |S|, `(N,)` in [0, 1 − 1/P]: 0 for the uniform map, near 1 if all mass is on one pixel.

    `Σ_i (2i − P − 1) |S|_(i) / (P Σ|S|)` with |S| in ascending order. NaN for a map of zeros. Source: Chalasani et al.,
    ICML 2020.

    >>> sparseness(torch.tensor([[[0.0, 0.0, 0.0, 1.0]]])).item()
    0.75
    """
    mass = _mass(maps)
    ordered = mass.sort(1).values
    pixels = mass.shape[1]
    weight = 2 * torch.arange(1, pixels + 1, device=mass.device, dtype=mass.dtype) - pixels - 1
    return void_where(~finite_maps(maps), (ordered * (weight / pixels)).sum(1) / ordered.sum(1))


def complexity(maps: Tensor) -> Tensor:
    """Entropy of |S| / Σ|S| in nats, `(N,)` in [0, ln P], lower is simpler; ln P for the uniform map.

    NaN for a map of zeros. Source: Bhatt et al., IJCAI 2020. ADCC defines complexity differently, see `mean_intensity`.

    >>> complexity(torch.ones(1, 1, 4)).exp().item()
    4.0
    """
    mass = _mass(maps)
    return void_where(~finite_maps(maps), torch.special.entr(mass / mass.sum(1, keepdim=True)).sum(1))


def mean_intensity(maps: Tensor) -> Tensor:
    """ADCC's complexity, mean |S| over the pixels, `(N,)` in [0, 1] for maps in [0, 1], lower is better.

    Source: Poppi et al., CVPR-W 2021. It depends on the scale of the maps; scale them to a peak of 1.

    >>> mean_intensity(torch.tensor([[[1.0, 0.0]]])).item()
    0.5
    """
    return as_maps(maps).abs().flatten(1).mean(1)


def _mass(maps: Tensor) -> Tensor:
    """|S| `(N, P)` divided by its peak, which keeps sums in range; NaN for a map of zeros."""
    mass = as_maps(maps).abs().flatten(1)
    return mass / mass.amax(1, keepdim=True)
