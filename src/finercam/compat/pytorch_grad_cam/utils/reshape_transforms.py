"""How tokens become maps, under pytorch-grad-cam's names; finercam finds this itself where no transform is given."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["fasterrcnn_reshape_transform", "swinT_reshape_transform", "vit_reshape_transform"]


def vit_reshape_transform(tensor: Tensor, height: int = 14, width: int = 14) -> Tensor:
    """Tokens `(N, 1 + h·w, C)`, the class token first, as maps `(N, C, h, w)`."""
    return swinT_reshape_transform(tensor[:, 1:], height, width)


def swinT_reshape_transform(tensor: Tensor, height: int = 7, width: int = 7) -> Tensor:
    """Tokens `(N, h·w, C)` as maps `(N, C, h, w)`."""
    return tensor.reshape(len(tensor), height, width, tensor.shape[2]).permute(0, 3, 1, 2)


def fasterrcnn_reshape_transform(x: dict[str, Tensor]) -> Tensor:
    """Magnitudes of a feature pyramid's levels, each enlarged to the size of "pool", as channels of one map."""
    size = x["pool"].shape[-2:]
    return torch.cat([F.interpolate(level.abs(), size, mode="bilinear") for level in x.values()], dim=1)
