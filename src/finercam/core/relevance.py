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
        rule, kwargs = _RULES.get(function), dict(kwargs or {})
        # Without a graph the rules change nothing, and the model's own kernels are faster.
        if rule is None or not torch.is_grad_enabled() or not _has_graph((*args, *kwargs.values())):
            return function(*args, **kwargs)
        # Rules take the names that PyTorch gives its arguments, but for the first one.
        first = () if args else tuple(kwargs.pop(name) for name in ("input", "self") if name in kwargs)
        return rule(function, *first, *args, **kwargs)


def _has_graph(values: Any) -> bool:
    return any(isinstance(x, Tensor) and x.requires_grad for x in values)


def _attention(function: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Only the values carry relevance; queries and keys are constant."""
    query, key, scale = query.detach(), key.detach(), kwargs.get("scale")
    plain = not args and not any(option for name, option in kwargs.items() if name != "scale" and option is not None)
    plain = plain and query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
    if plain and function is F.scaled_dot_product_attention and _by_hand(value):
        return _Attention.apply(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale)
    return function(query, key, value, *args, **kwargs)


def _by_hand(x: Tensor, *constants: Tensor | None) -> bool:
    """Whether the gradients written here are right, which leave out constants, and faster, which they are on processors."""
    return (
        x.requires_grad and x.device.type == "cpu" and not any(c is not None and c.requires_grad for c in constants)
    )


class _Attention(torch.autograd.Function):
    """Attention whose gradient computes the weights again, only for those queries that carry a gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(query, key)
        ctx.scale = scale
        return F.scaled_dot_product_attention(query, key, value, scale=scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key = ctx.saved_tensors
        used = gradient.abs().amax(-1).flatten(0, -2).amax(0).nonzero().flatten()
        if 2 * len(used) < query.shape[-2]:
            query, gradient = query[..., used, :], gradient[..., used, :]
        weights = ((query * ctx.scale) @ key.mT).softmax(-1)
        return None, None, weights.mT @ gradient, None


def _patches(
    function: Any,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    window = tuple(weight.shape[2:])
    tiles = (stride, padding, dilation, groups) == (window, (0, 0), (1, 1), 1) and window != (1, 1) and x.ndim == 4
    if tiles and _by_hand(x, weight, bias) and not any(map(int.__mod__, x.shape[2:], window)):
        return _Patches.apply(x, weight, bias)
    return function(x, weight, bias, stride, padding, dilation, groups)


class _Patches(torch.autograd.Function):
    """The embedding of patches, a convolution whose windows tile the image: its gradient is one matrix product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.shape = x.shape
        return F.conv2d(x, weight, bias, stride=tuple(weight.shape[2:]))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        tiles = torch.einsum("nkhw,kcij->nchiwj", gradient, weight.to(gradient.dtype))
        return tiles.reshape(ctx.shape), None, None


def _constant(function: Any, *args: Any, **kwargs: Any) -> Tensor:
    return function(*args, **kwargs).detach()


def _weights(function: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attention weights and gates of tokens and maps are constant; probabilities of classes are left alone."""
    weights = function(x, *args, **kwargs)
    return weights.detach() if x.ndim >= 3 else weights


def _linear(function: Any, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    usual = x.ndim < 2 or weight.ndim != 2 or not _by_hand(x, weight, bias)
    return function(x, weight, bias) if usual else _Linear.apply(x, weight, bias)


class _Linear(torch.autograd.Function):
    """A linear layer whose gradient leaves out what is zero, since the rules leave much at zero.

    Queries and keys carry no gradient, and after the last attention only the tokens that the head reads do.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        rows = gradient.flatten(0, -2)
        size = rows.abs()
        used = size.amax(0).nonzero().flatten()
        first, end = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
        rows, weight = rows[:, first:end], weight[first:end].to(gradient.dtype)
        tokens = size.amax(1).nonzero().flatten()
        if 2 * len(tokens) > len(rows):
            found = rows @ weight
        else:
            found = rows.new_zeros(len(rows), weight.shape[1]).index_copy_(0, tokens, rows[tokens] @ weight)
        return found.unflatten(0, gradient.shape[:-1]), None, None


def _gelu(function: Any, x: Tensor, approximate: str = "none") -> Tensor:
    return _Gelu.apply(x, function, approximate)


class _Gelu(torch.autograd.Function):
    """`x · gate(x)` with the gate constant; the gate is computed when it is needed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, function: Any, approximate: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.function, ctx.approximate = function, approximate
        return function(x, approximate=approximate)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        gate = ctx.function(x, approximate=ctx.approximate).div_(x).nan_to_num_(0.5)  # the gate is 1/2 at 0
        return gate.mul_(gradient), None, None


def _silu(function: Any, x: Tensor, inplace: bool = False) -> Tensor:
    return x * torch.sigmoid(x.detach())


def _layer_norm(
    function: Any,
    x: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_: Any,
) -> Tensor:
    return _LayerNorm.apply(x, tuple(normalized_shape), weight, bias, eps)


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


def _rms_norm(
    function: Any, x: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    wide = x.detach().float() if x.dtype in (torch.float16, torch.bfloat16) else x.detach()
    mean = wide.square().mean(tuple(range(-len(normalized_shape), 0)), keepdim=True)
    scale = (mean + (torch.finfo(wide.dtype).eps if eps is None else eps)).rsqrt().to(x.dtype)
    return _affine(x * scale, weight, None)


def _group_norm(
    function: Any,
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    grouped = x.unflatten(1, (num_groups, -1)).flatten(2)
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
    F.linear: _linear,
    F.conv2d: _patches,
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
