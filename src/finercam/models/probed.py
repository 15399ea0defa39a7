"""A backbone and the linear head that a probe trained on it: one classifier like any other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finercam.errors import FinerCAMError
from finercam.models.backbone import Backbone, tower_without_weights
from finercam.models.directory import save_directory
from finercam.models.towers import Tower

__all__ = ["Probed", "build_probed", "probed", "save_probed"]


class Probed(nn.Module):
    """Pooled features of a tower into one linear layer: images `(N, 3, H, W)` to logits `(N, C)`.

    With patches pooled by their mean and the target layer set to the last normalisation, the weights of the
    activations are the head's rows over the number of patches: α_c ∝ W_c (Finer-CAM, Eq. 4).
    """

    def __init__(self, backbone: Tower, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))

    def get_classifier(self) -> nn.Linear:
        return self.head


def probed(backbone: Backbone, weight: Tensor, bias: Tensor | None = None) -> Probed:
    """The classifier of a backbone and a head, `weight (C, D)` and `bias (C,)`, on the backbone's device and precision.

    Raises FinerCAMError where the head does not read this backbone's features.
    """
    if weight.ndim != 2 or weight.shape[1] != backbone.dim:
        raise FinerCAMError(
            f"a head of shape {tuple(weight.shape)} does not read the {backbone.dim} features of {backbone.name} "
            f"(pool={backbone.pool}); expected (C, {backbone.dim})"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise FinerCAMError(
            f"a bias of shape {tuple(bias.shape)} for a head of shape {tuple(weight.shape)}; expected (C,)"
        )
    first = next(iter(backbone.model.parameters()))
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    head.weight = nn.Parameter(weight.detach().to(first.device, first.dtype, copy=True))
    if bias is not None:
        head.bias = nn.Parameter(bias.detach().to(first.device, first.dtype, copy=True))
    return Probed(backbone.model, head).eval()


def save_probed(
    path: str | os.PathLike[str],
    model: Probed,
    backbone: Backbone,
    classes: Sequence[str],
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Write the classifier as a model folder that `load_model` reads without the network, backbone and all."""
    architecture = {
        "library": "probed",
        "name": backbone.name,
        "kwargs": {
            "backbone": dict(backbone.architecture),
            "dim": backbone.dim,
            "num_classes": model.head.out_features,
            "bias": model.head.bias is not None,
        },
    }
    return save_directory(
        path,
        model,
        architecture=architecture,
        classes=classes,
        preprocess=backbone.preprocess,
        provenance={**backbone.provenance, **(provenance or {})},
    )


def build_probed(name: str, kwargs: Mapping[str, Any]) -> Probed:
    """The classifier that `save_probed` described, with random weights."""
    if set(kwargs) != {"backbone", "dim", "num_classes", "bias"}:
        raise FinerCAMError(
            f"a probed model needs backbone, dim, num_classes and bias, not {', '.join(map(str, kwargs))}"
        )
    head = nn.Linear(int(kwargs["dim"]), int(kwargs["num_classes"]), bias=bool(kwargs["bias"]))
    return Probed(tower_without_weights(kwargs["backbone"]), head)
