"""A backbone and the linear head that a probe trained on it: one classifier like any other."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finercam.errors import FinerCAMError
from finercam.models.architectures import Probed
from finercam.models.backbone import Backbone
from finercam.models.directory import save_directory

__all__ = ["Probed", "probed", "save_probed"]


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
    class_names: Sequence[str],
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
        class_names=class_names,
        preprocess=backbone.preprocess,
        provenance={**backbone.provenance, **(provenance or {})},
    )
