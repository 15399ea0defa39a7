"""ShapleyCAM: Grad-CAM whose gradients count what a channel adds to any set of the others, to second order."""

from __future__ import annotations

import threading

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from finercam.core.capture import capture
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.methods import rules
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["curved_gradients"]

_FUSED = threading.Lock()
"""Which attention runs is a setting of the whole process: two threads would put back each other's change."""


def curved_gradients(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """`G − ½ H A` of each kept direction: gradient less half the Hessian times the activations (arXiv 2501.06261).

    Linear in the direction. The model runs once more, since fused attention cannot be differentiated twice.
    """
    with _FUSED, sdpa_kernel(SDPBackend.MATH):
        run = capture(source.model, source.layers, source.images, source.readout, through_relu=source.through_relu)
    found = []
    for vector in directions.to(run.logits).unbind(1):
        with torch.inference_mode(False), torch.enable_grad():
            margin = (vector.clone() * run.logits).sum()
            first = torch.autograd.grad(margin, run.activations, create_graph=True)
            pairs = zip(run.activations, first, strict=True)
            found.append(source.to_maps(tuple(gradient.detach() - _half_curve(a, gradient) for a, gradient in pairs)))
    gradients = tuple(torch.stack(of_layer, 1) for of_layer in zip(*found, strict=True))
    return Evidence(source.logits.cpu().double(), directions, source.activations, gradients)


def _half_curve(activation: Tensor, gradient: Tensor) -> Tensor:
    if not gradient.requires_grad:  # the tail is linear
        return torch.zeros_like(gradient)
    along = (gradient * activation.detach()).sum()
    (curve,) = torch.autograd.grad(along, activation, retain_graph=True, allow_unused=True)
    return torch.zeros_like(gradient) if curve is None else curve / 2


register(
    "shapleycam",
    rules.gradcam,
    gather=curved_gradients,
    label="ShapleyCAM",
    declared_linear=True,
    summary="Channels weighted by their Shapley value to second order (ShapleyCAM).",
)
