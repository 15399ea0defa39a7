"""Seg-Eigen-CAM: the principal component of activations weighted by the size of their gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.methods import rules
from finercam.methods.method import register

__all__ = ["larger_end_positive", "segeigencam"]


def segeigencam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First principal component of |gradient| times activation, its larger end positive (Seg-Eigen-CAM).

    Chung & Ying, Appl. Sci. 2025, 15(13), 7562, Eq. 10-13; the contrast comes before the magnitude, which forgets
    whether a place speaks for or against the target.
    """
    return larger_end_positive(rules.principal(gradients.abs() * activations))


def larger_end_positive(component: Tensor) -> Tensor:
    """The component `(N, h, w)`, turned where its lowest value is larger in magnitude than its highest."""
    places = component.flatten(1)
    flip = places.amin(dim=1).abs() > places.amax(dim=1).abs()
    return torch.where(flip.view(-1, *[1] * (component.ndim - 1)), -component, component)


register("segeigencam", segeigencam, label="Seg-Eigen-CAM", declared_linear=False)
