"""Linear heads trained elsewhere, such as those of the Finer-CAM authors; files are read without unpickling."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from finercam.data.files import read_lines
from finercam.errors import FinerCAMError
from finercam.models.directory import read_weights

if TYPE_CHECKING:
    from finercam.models.backbone import Backbone
    from finercam.models.probed import Probed

__all__ = ["import_head", "read_classes", "read_head"]


def read_head(path: str | os.PathLike[str], dim: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Weight `(C, D)` and bias `(C,)` (None without one) of the linear layer in a file of tensors.

    The file is a state dict written by `torch.save`, or safetensors. The layer may have any name (`weight`,
    `linear.weight`, `head.0.weight`). Of several matrices, the one that reads `dim` features and has a bias is used.
    Raises FinerCAMError for a pickle of other objects than tensors, and if no layer or more than one fits.
    """
    state = read_weights(path)
    layers = _layers(state)
    fitting = [name for name in layers if dim is None or layers[name][0].shape[1] == dim]
    biased = [name for name in fitting if layers[name][1] is not None]
    wanted = biased if len(biased) == 1 else fitting
    if len(wanted) != 1:
        held = ", ".join(f"{name} {tuple(weight.shape)}" for name, (weight, _) in list(layers.items())[:4]) or "none"
        reads = "" if dim is None else f" that reads {dim} features"
        what = "no linear layer" if not wanted else f"{len(wanted)} linear layers"
        raise FinerCAMError(f"{path} has {what}{reads}; its matrices: {held}")
    weight, bias = layers[wanted[0]]
    if not bool(weight.isfinite().all()) or (bias is not None and not bool(bias.isfinite().all())):
        raise FinerCAMError(f"{path}: the head holds values that are not finite")
    return weight.float(), None if bias is None else bias.float()


def read_classes(path: str | os.PathLike[str]) -> list[str]:
    """Class names, one per line, in the order of the head's rows. Raises FinerCAMError for a repeated name."""
    names = [line.strip() for line in read_lines(Path(path))]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise FinerCAMError(f"{path} names the class {twice!r} twice; each row of the head needs a different name")
    return names


def import_head(
    head: str | os.PathLike[str],
    classes: str | os.PathLike[str],
    backbone: Backbone,
    out: str | os.PathLike[str] | None = None,
) -> tuple[Probed, list[str]]:
    """Combine a backbone with a head from a file; returns the classifier and its class names.

    The classifier is written to `out` as a model folder if that is given. The heads of the Finer-CAM authors read
    `timm/vit_base_patch14_dinov2.lvd142m` (768 features) or `open_clip/ViT-B-16/laion400m_e32` (512 features), with
    the mean of the patches at native resolution. Raises FinerCAMError if head, backbone and class names do not fit.
    """
    from finercam.models.probed import probed, save_probed

    weight, bias = read_head(head, backbone.dim)
    names = read_classes(classes)
    if len(names) != len(weight):
        raise FinerCAMError(f"{classes} names {len(names)} classes, but the head in {head} has {len(weight)} rows")
    model = probed(backbone, weight, bias)
    if out is not None:
        save_probed(out, model, backbone, names, {"head": Path(head).name, "dataset": Path(head).stem})
    return model, names


def _layers(state: Mapping[str, Any]) -> dict[str, tuple[Tensor, Tensor | None]]:
    """The matrices named `weight`, each with its bias, if there is one."""
    layers = {}
    for name, weight in state.items():
        if weight.ndim == 2 and weight.is_floating_point() and name.rpartition(".")[2] == "weight":
            bias = state.get(f"{name.removesuffix('weight')}bias")
            layers[name] = weight, bias if bias is not None and bias.shape == weight.shape[:1] else None
    return layers
