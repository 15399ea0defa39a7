"""Methods that read activations alone: their maps show where a layer is busy, whatever the class."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.errors import FinerCAMError
from finercam.methods import rules
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["eigencam", "fem", "kernel_principal", "kpca_cam", "no_gradients"]

MOST_PLACES = 64 * 64
"""A kernel compares every place with every other: a finer layer would need gigabytes."""


def no_gradients(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Activations, with zeros in place of gradients, for rules that read none."""
    shape = (*directions.shape[:2], *(1 for _ in source.activations[0].shape[1:]))
    nothing = tuple(activation.new_zeros(shape) for activation in source.activations)
    return Evidence(source.logits.cpu().double(), directions, source.activations, nothing)


def eigencam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First principal component of the activations (Muhammad & Yeasin, IJCNN 2020), whatever the class.

    The channels are centred, as in pytorch-grad-cam. The sign agrees with the sum of the channels.
    """
    return rules.oriented(rules.principal(activations), activations)


def kpca_cam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First component of kernel PCA on the activations, with a sigmoid kernel (Karmani et al., 2024), whatever the class."""
    return rules.oriented(kernel_principal(activations), activations)


def kernel_principal(features: Tensor, gamma: float | None = None) -> Tensor:
    """Score of each place on the first kernel principal component: `(N, C, h, w)` to `(N, h, w)`, of arbitrary sign.

    The kernel is `tanh(gamma x · y + 1)` of centred features, gamma 1/C by default, that of scikit-learn's `KernelPCA(kernel="sigmoid")`.
    Raises FinerCAMError for a grid of more than 64 × 64 places.
    """
    flat = features.flatten(2).mT
    if flat.shape[1] > MOST_PLACES:
        raise FinerCAMError(
            f"kernel PCA compares all places with each other, and this layer has {flat.shape[1]}; choose a later one, "
            f"with at most {MOST_PLACES}"
        )
    centred = (flat - flat.mean(dim=1, keepdim=True)).double()
    kernel = torch.tanh((1 / centred.shape[2] if gamma is None else gamma) * (centred @ centred.mT) + 1)
    rows = kernel.mean(dim=2, keepdim=True)
    kernel = kernel - rows - rows.mT + rows.mean(dim=1, keepdim=True)
    values, vectors = torch.linalg.eigh(kernel)
    component = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    return component.to(features).unflatten(1, features.shape[2:])


def fem(activations: Tensor, gradients: Tensor, k: float = 2.0) -> Tensor:
    """Channels weighted by how many places exceed mean + k·σ (FEM, Fuad et al., IPTA 2020), whatever the class."""
    flat = activations.flatten(2)
    high = flat.mean(dim=2) + k * flat.std(dim=2, correction=0)
    share = (flat > high[..., None]).to(flat).mean(dim=2)
    return torch.einsum("nc,ncp->np", share, flat).unflatten(1, activations.shape[2:])


for _name, _rule, _label in (
    ("eigencam", eigencam, "Eigen-CAM"),
    ("kpcacam", kpca_cam, "KPCA-CAM"),
    ("fem", fem, "FEM"),
):
    register(_name, _rule, gather=no_gradients, label=_label, evidence="activations", declared_linear=False)
