"""Relevance rules: a run whose gradients treat attention weights, gates and normalisation scales as constants.

Gradient × activation is wrong inside a transformer: a normalisation makes what follows it independent of the length of
a token, so the product of a token and its gradient is nearly zero, and the softmax of attention saturates. If these
factors are held constant, the model is piecewise linear, and gradient × activation distributes the logits: conservative
propagation (Ali et al., ICML 2022), the attention rule of AttnLRP (Achtibat et al., ICML 2024) without its gradient
through the softmax. The logits do not change, and the result is linear in the classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

__all__ = ["RelevanceRules"]


class RelevanceRules(TorchFunctionMode):
    """A context in which a model runs with relevance rules, without changes to the model.

    It acts on the functions that the model calls, in any library: `scaled_dot_product_attention`, softmax over
    four-dimensional scores, `nn.MultiheadAttention`, layer, group and root-mean-square normalisation, GELU, SiLU,
    sigmoid gates and the length of an embedding.

    >>> x = torch.tensor([[1.0, -2.0, 4.0]], requires_grad=True)
    >>> with RelevanceRules():
    ...     y = F.layer_norm(x, (3,))
    >>> (gradient,) = torch.autograd.grad(y[0, 2], x)
    >>> torch.allclose((gradient * x).sum(), y[0, 2])  # without the rules the sum is 0
    True
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = _RULES.get(function)
        # Without a graph the rules change nothing, and the model's own kernels are faster.
        if rule is None or not torch.is_grad_enabled() or not _has_graph(args):
            return function(*args, **(kwargs or {}))
        return rule(function, *args, **(kwargs or {}))


def _has_graph(args: Any) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in args)


def _attention(function: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Only the values carry relevance; queries and keys are constant."""
    return function(query.detach(), key.detach(), value, *args, **kwargs)


def _constant(function: Any, *args: Any, **kwargs: Any) -> Tensor:
    return function(*args, **kwargs).detach()


def _weights(function: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention weights and gates of tokens and maps are constant; probabilities of classes are left alone."""
    weights = function(x, *args, **kwargs)
    return weights.detach() if x.ndim >= 3 else weights


def _gelu(function: Any, x: Tensor, approximate: str = "none") -> Tensor:
    """`x · gate(x)` with the gate constant."""
    constant = x.detach()
    return x * (function(constant, approximate=approximate) / constant).nan_to_num_(0.5)  # the gate is 1/2 at 0


def _silu(function: Any, x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.sigmoid(x.detach())


def _layer_norm(
    function: Any, x: Tensor, shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    return _LayerNorm.apply(x, tuple(shape), weight, bias, eps)


class _LayerNorm(torch.autograd.Function):
    """Layer normalisation whose gradient takes the scale as constant: centring and weights alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
        y, _, scale = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.axes = tuple(range(-len(shape), 0))
        ctx.save_for_backward(scale, weight)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        scale, weight = ctx.saved_tensors
        gradient = gradient if weight is None else gradient * weight
        gradient = gradient - gradient.mean(ctx.axes, keepdim=True)
        return gradient * scale.to(gradient.dtype), None, None, None, None


def _rms_norm(function: Any, x: Tensor, shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    wide = x.detach().float() if x.dtype in (torch.float16, torch.bfloat16) else x.detach()
    mean = wide.square().mean(tuple(range(-len(shape), 0)), keepdim=True)
    scale = (mean + (torch.finfo(wide.dtype).eps if eps is None else eps)).rsqrt().to(x.dtype)
    return _affine(x * scale, weight, None)


def _group_norm(
    function: Any, x: Tensor, groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    grouped = x.unflatten(1, (groups, -1)).flatten(2)
    wide = grouped.detach().float() if x.dtype in (torch.float16, torch.bfloat16) else grouped.detach()
    scale = (wide.var(2, unbiased=False, keepdim=True) + eps).rsqrt().to(x.dtype)
    centred = ((grouped - grouped.mean(2, keepdim=True)) * scale).view_as(x)
    shape = (1, -1, *[1] * (x.ndim - 2))
    return _affine(centred, *(None if p is None else p.view(shape) for p in (weight, bias)))


def _affine(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    if weight is not None:
        x = x * weight
    return x if bias is None else x + bias


def _unit_length(
    function: Any, x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Any = None
) -> Tensor:
    return x / torch.linalg.vector_norm(x.detach(), p, dim, keepdim=True).clamp(min=eps)


_RULES: dict[Any, Callable[..., Any]] = {
    F.scaled_dot_product_attention: _attention,
    F.multi_head_attention_forward: _attention,
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), _weights),
    F.layer_norm: _layer_norm,
    torch.layer_norm: _layer_norm,
    F.group_norm: _group_norm,
    F.gelu: _gelu,
    F.silu: _silu,
    **dict.fromkeys((F.sigmoid, torch.sigmoid, Tensor.sigmoid), _weights),
    F.normalize: _unit_length,
    **dict.fromkeys((Tensor.norm, torch.norm, torch.linalg.norm, torch.linalg.vector_norm), _constant),
}
if hasattr(F, "rms_norm"):  # torch >= 2.4
    _RULES |= {F.rms_norm: _rms_norm, torch.rms_norm: _rms_norm}
