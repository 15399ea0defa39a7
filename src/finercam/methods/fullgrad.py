"""FullGrad: what the input and every bias of the model contribute to the logits, at all resolutions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from finercam.core.capture import INPUT, capture, guest, run_model
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.core.maps import peak
from finercam.errors import FinerCAMError
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["bias_gradients", "fullgrad", "implicit_bias"]

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)


def bias_gradients(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """The images and every convolution's and batch normalisation's bias `(N, C, 1, 1)`, with their gradients.

    The target layer of the explainer is not used: `gradients (N, M, C, h, w)` are those at the input and at all
    layers with a bias, so that the graph begins at the input and needs its memory. Raises FinerCAMError for a model
    without such layers, and for one with layer normalisations (a transformer), whose biases are not all.
    """
    biased = _with_bias(source)
    if not biased or any(isinstance(module, nn.LayerNorm) for module in source.model.modules()):
        raise FinerCAMError(
            "fullgrad adds up the biases of convolutions and batch normalisations, which explain the logits of "
            f"convolutional networks, and {type(source.model).__name__} normalises its layers otherwise or has no "
            "biases; take 'relevance' or 'gradcam'"
        )
    layers = [(INPUT, source.model), *((name, module) for name, module, _ in biased)]
    run = capture(source.model, layers, source.images, source.readout)
    gradients = tuple(torch.stack(of_layer, 1) for of_layer in zip(*run.gradients(directions), strict=True))
    places = (1,) * (source.images.ndim - 2)
    shared = (bias.view(1, -1, *places).expand(len(source.images), -1, *places) for _, _, bias in biased)
    return Evidence(source.logits.cpu().double(), directions, (source.images, *shared), gradients)


def _with_bias(source: Source) -> list[tuple[str, nn.Module, Tensor]]:
    """The layers with a bias that run, in their order."""
    found: dict[str, tuple[str, nn.Module, Tensor]] = {}
    handles = []
    for name, module in source.model.named_modules():
        bias = implicit_bias(module)
        if bias is not None:
            entry = (name, module, bias)
            handles.append(module.register_forward_hook(lambda *_, entry=entry: found.update({entry[0]: entry})))
    try:
        with guest(source.model):
            run_model(source.model, source.images[:1], source.readout.repeated(0, 1))
    finally:
        for handle in handles:
            handle.remove()
    return list(found.values())


def implicit_bias(module: nn.Module) -> Tensor | None:
    """The bias `(C,)` that a layer adds in eval mode, or None for a layer of another kind or without one."""
    if isinstance(module, CONVOLUTIONS):
        return None if module.bias is None else module.bias.detach()
    if isinstance(module, NORMS) and module.running_mean is not None and module.running_var is not None:
        scale = (module.running_var + module.eps).rsqrt()
        scale = scale if module.weight is None else scale * module.weight.detach()
        return (0 if module.bias is None else module.bias.detach()) - module.running_mean * scale
    return None


def fullgrad(activations: Tensor, gradients: Tensor) -> Tensor:
    """Magnitudes of bias times gradient, each channel scaled to [0, 1], summed (Srinivas & Fleuret, NeurIPS 2019).

    The maps of all layers are added; the contrast comes before the magnitude.
    """
    size = (activations * gradients).abs()
    size = size - size.amin(dim=tuple(range(2, size.ndim)), keepdim=True)
    flat = size.flatten(2)
    return (flat / peak(flat.flatten(0, 1)).unflatten(0, flat.shape[:2])).sum(1).unflatten(1, size.shape[2:])


register("fullgrad", fullgrad, gather=bias_gradients, label="FullGrad", adds_layers=True, declared_linear=False)
