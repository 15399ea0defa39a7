"""SmoothGradCAM++: Grad-CAM++ with its derivatives averaged over noisy copies of the image."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.core.capture import capture
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.core.maps import aligned, places
from finercam.methods import rules
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["noisy_gradients", "smooth_gradcam_plusplus"]

COPIES = 4
"""How many noisy copies of an image are run."""
NOISE = 0.15
"""Standard deviation of the noise, as a share of the range of the image's values."""


def noisy_gradients(
    source: Source, contrast: Contrast, directions: Tensor, copies: int = COPIES, spread: float | None = None
) -> Evidence:
    """Activations and gradients of noisy copies, side by side as channels: `(N, copies · C, h, w)`.

    `spread` is the noise's standard deviation; None takes `NOISE` of each image's range. It is the same at every call.
    """
    generator = torch.Generator().manual_seed(0)
    low, high = source.images.flatten(1).aminmax(dim=1)
    size = aligned(NOISE * (high - low), source.images) if spread is None else spread
    activations, gradients = [], []
    for _ in range(copies):
        noise = torch.randn(source.images.shape[1:], generator=generator).to(source.images)
        noisy = source.images + size * noise
        run = capture(source.model, source.layers, noisy, source.readout, through_relu=source.through_relu)
        activations.append(source.to_maps(tuple(activation.detach() for activation in run.activations)))
        found = [source.to_maps(gradient) for gradient in run.gradients(directions)]
        gradients.append([torch.stack(of_layer, 1) for of_layer in zip(*found, strict=True)])
    joined = tuple(torch.cat(of_layer, 1) for of_layer in zip(*activations, strict=True))
    kept = tuple(torch.cat(of_layer, 2) for of_layer in zip(*gradients, strict=True))
    return Evidence(source.logits.cpu().double(), directions, joined, kept)


def smooth_gradcam_plusplus(activations: Tensor, gradients: Tensor, copies: int = COPIES) -> Tensor:
    """Grad-CAM++ of averaged activations and derivatives (Omeiza et al., 2019, Eq. 7).

    `D² / (2 D² + mass · D³)` is taken as `1 / (2 + mass · D³ / D²)`, as in `gradcam_plusplus`.
    """
    gradients = gradients.unflatten(1, (copies, -1))
    maps = activations.unflatten(1, (copies, -1)).mean(1)
    axes = places(maps, 2)
    scale = (
        gradients.abs().amax((1, *places(gradients, 3)), keepdim=True).clamp(min=torch.finfo(gradients.dtype).tiny)
    )
    unit = gradients / scale  # cubes of small gradients would vanish
    second, third = unit.square().mean(1), unit.pow(3).mean(1)
    ratio = torch.where(second == 0, 0.0, third / second) * scale[:, 0]
    below = 2 + maps.sum(axes, keepdim=True) * ratio
    share = torch.where(below == 0, 0.0, 1 / below)
    return rules.weighted(maps, (gradients.mean(1).relu() * share).sum(axes))


register(
    "smoothgradcam++",
    smooth_gradcam_plusplus,
    gather=noisy_gradients,
    label="SmoothGradCAM++",
    declared_linear=False,
    summary="Grad-CAM++ averaged over noisy copies of the image (SmoothGradCAM++).",
)
