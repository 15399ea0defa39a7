"""ShapleyCAM: Grad-CAM whose gradients count what a channel adds to any set of the others, to second order."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from finercam.core.capture import capture
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.methods import rules
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["curved_gradients"]


class _WrittenAttention(TorchFunctionMode):
    """Attention written out, in this thread only; PyTorch's own setting would change the runs of other threads."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            out, weights = function(*args, **{**kwargs, "need_weights": True})
            return out, weights if kwargs.get("need_weights", True) else None
        return (
            _attention(*args, **kwargs) if function is F.scaled_dot_product_attention else function(*args, **kwargs)
        )


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill(~attn_mask, -torch.inf)
    written = torch.ops.aten._scaled_dot_product_attention_math
    return written(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)[0]


def curved_gradients(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """`G − ½ H A` of each kept direction: gradient less half the Hessian times the activations (arXiv 2501.06261).

    Linear in the direction. The model runs once more, since fused attention cannot be differentiated twice.
    """
    with _WrittenAttention():
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
