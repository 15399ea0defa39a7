"""Signed maps from evidence, and their fusion over layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.core.maps import peak, places, upsample
from finercam.errors import FinerCAMError, suggest

__all__ = ["FUSIONS", "checked_fusion", "fuse", "signed_map"]

FUSIONS = ("mean", "product", "geometric", "weighted")


def signed_map(
    evidence: Evidence, contrast: Contrast, rule: Callable[[Tensor, Tensor], Tensor], fusion: str
) -> Tensor:
    """The map before the ReLU, `(N, h, w)`: the rule's own numbers for one layer, a fusion in [-1, 1] for several."""
    with torch.autocast(evidence.activations[0].device.type, enabled=False):  # half precision is for the model
        return fuse([rule(*of_layer) for of_layer in evidence.contrasted(contrast)], fusion)


def fuse(signed: Sequence[Tensor], fusion: str = "mean") -> Tensor:
    """Fuse signed maps `(N, h_l, w_l)` of several layers on the finest of their grids; one map stays as it is.

    Each holds its layer's contrast and is first divided by its largest magnitude, which leaves the sign as it is.

    - "mean" is the average.
    - "weighted" is the average in which a layer counts more the fewer places its map concentrates on: each map is
      divided by the mean of its magnitudes.
    - "product" multiplies what all layers agree speaks for the target, and subtracts the product of what they agree
      speaks against it (after RefineCAM, 2026). A place where layers disagree is zero.
    - "geometric" is the root of the product by the number of layers: the same order of places, less concentrated.
    - "sum" adds the maps as they are, without division; a method may prescribe it.

    >>> fuse([torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[0.5, 2.0]]])], "product")
    tensor([[[0.2500, 0.0000]]])
    >>> fuse([torch.tensor([[[2.0, -1.0]]]), torch.tensor([[[0.5, 2.0]]])], "geometric")
    tensor([[[0.5000, 0.0000]]])
    """
    if fusion != "sum":
        checked_fusion(fusion)
    if len(signed) == 1:
        return signed[0]
    finest = max((tuple(s.shape[1:]) for s in signed), key=math.prod)
    if fusion == "sum":
        return torch.stack([upsample(s, finest) for s in signed]).sum(0)
    scaled = torch.stack([upsample(s / peak(s.abs()), finest) for s in signed])
    if fusion == "mean":
        return scaled.mean(0)
    if fusion == "weighted":
        mean = scaled.abs().mean(dim=places(scaled, 2), keepdim=True)
        weighted = (scaled / torch.where(mean == 0, torch.ones_like(mean), mean)).mean(0)
        return weighted / peak(weighted.abs())
    product = scaled.clamp(min=0).prod(0) - (-scaled).clamp(min=0).prod(0)
    return product if fusion == "product" else product.sign() * product.abs() ** (1 / len(signed))


def checked_fusion(fusion: Any) -> str:
    """The name of a fusion, as it was given; raises FinerCAMError for another one."""
    if not isinstance(fusion, str) or fusion not in FUSIONS:
        raise FinerCAMError(
            f"fusion={fusion!r}: expected one of {', '.join(FUSIONS)}.{suggest(str(fusion), FUSIONS)}"
        )
    return fusion
