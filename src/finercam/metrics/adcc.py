"""ADCC: one number from coherency, complexity and average drop (Poppi et al., CVPR-W 2021)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam.metrics.checks import as_classes, as_maps
from finercam.metrics.confidence import kept_confidence
from finercam.metrics.fill import Fill, as_fill
from finercam.metrics.perturb import Scores
from finercam.metrics.shape import mean_intensity

__all__ = ["Adcc", "adcc", "coherency"]


@dataclass(frozen=True)
class Adcc:
    """The three parts, each `(N,)` in [0, 1]."""

    coherency: Tensor
    complexity: Tensor
    drop: Tensor
    fill: str

    @property
    def value(self) -> Tensor:
        """`3 / (1/coherency + 1/(1 − complexity) + 1/(1 − drop))`, `(N,)` in [0, 1], higher is better.

        This is the harmonic mean, which is 0 if one of the parts has its worst value.
        """
        return 3 / (1 / self.coherency + 1 / (1 - self.complexity) + 1 / (1 - self.drop))


def coherency(maps: Tensor, again: Tensor) -> Tensor:
    """`(ρ + 1) / 2`, `(N,)` in [0, 1], higher is better; ρ is Pearson's correlation of the two maps of a picture.

    `maps` are of the pictures, and `again` of the pictures masked with `maps`. NaN where either map is constant.

    >>> coherency(torch.tensor([[[0.0, 1.0]]]), torch.tensor([[[5.0, 3.0]]])).item()
    0.0
    """
    a, b = (as_maps(x).flatten(1) for x in (maps, again.to(maps.device)))
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    spread = a.norm(dim=1) * b.norm(dim=1)
    rho = (a * b).sum(1) / spread
    return ((rho + 1) / 2).clamp(0, 1).masked_fill(spread == 0, torch.nan)


def adcc(
    scores: Scores,
    explain: Callable[[Tensor, Tensor], Tensor],
    images: Tensor,
    maps: Tensor,
    target: int | Tensor | list[int],
    *,
    fill: str | Fill = "zero",
    batch_size: int = 64,
) -> Adcc:
    """Average drop, coherency and complexity combined: `.value` `(N,)` in [0, 1], higher is better.

    `maps` in [0, 1] are the maps S of `images`. `explain(images, target) -> maps (N, H, W)` with class ids
    `target (N,)` explains the masked pictures `x·S + fill·(1 − S)`. Costs two model calls and one explanation per image.

    >>> scores = lambda x: torch.stack((x.mean((1, 2, 3)), -x.mean((1, 2, 3))), 1)
    >>> explain = lambda x, target: x.mean(1)
    >>> image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> 0 < adcc(scores, explain, image, explain(image, 0), 0).value.item() < 1
    True
    """
    chosen, ids = as_fill(fill), as_classes(target, images)
    kept = kept_confidence(scores, images, maps, ids, fill=chosen, batch_size=batch_size)
    again = []
    for x, weight, one in zip(images.split(batch_size), maps.split(batch_size), ids.split(batch_size), strict=True):
        veil = weight[:, None].to(x)
        again.append(explain(x * veil + chosen.backdrop(x) * (1 - veil), one))
    return Adcc(coherency(maps, torch.cat(again)), mean_intensity(maps), kept.drop, chosen.name)
