"""Pixels as a layer: the share of each pixel in a question, by its difference from a blurred image."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["BASELINE", "SMOOTHING", "detail", "gaussian", "pixel_evidence"]

BASELINE = 0.05
"""Standard deviation of the blur that pixels are compared with, as a share of the image's side."""
SMOOTHING = 0.02
"""Standard deviation of the Gaussian over the shares of single pixels, as a share of the image's side."""


def pixel_evidence(images: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient × (image − blurred image), summed over the colours and smoothed: activations of 1 and their gradients.

    `images (N, C, H, W)` and `gradients (N, M, C, H, W)` give `(N, 1, H, W)` and `(N, M, 1, H, W)`; linear in the
    gradients, so it is evidence like that of any other layer.
    """
    images = images.detach().to(torch.promote_types(images.dtype, torch.float32))
    shares = (detail(images)[:, None] * gradients.to(images)).sum(2)
    return torch.ones_like(images[:, :1]), gaussian(shares, SMOOTHING * min(images.shape[-2:]))[:, :, None]


def detail(images: Tensor) -> Tensor:
    """Images `(N, C, H, W)` minus blurred ones; exactly zero in an even area, where the blur leaves rounding errors."""
    difference = images - gaussian(images, BASELINE * min(images.shape[-2:]))
    rounding = 8 * torch.finfo(images.dtype).eps * images.abs().amax(dim=tuple(range(1, images.ndim)), keepdim=True)
    return torch.where(difference.abs() <= rounding, 0.0, difference)


def gaussian(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of the last two axes of `(N, C, H, W)`, edges repeated; of each slice of volumes `(N, C, D, H, W)`.

    >>> round(float(gaussian(torch.eye(9)[None, None], 1.0).mean()), 3) == round(1 / 9, 3)
    True
    """
    radius = max(1, round(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = x.flatten(0, -3)[:, None]
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel)
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel.transpose(2, 3))
    return flat[:, 0].unflatten(0, x.shape[:-2])
