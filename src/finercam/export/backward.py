"""Backward operations written as forward ones, which a graph for deployment can hold: ONNX cannot differentiate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from finercam.errors import FinerCAMError

__all__ = ["decompositions"]

aten: Any = torch.ops.aten
Sizes = Sequence[int]


def decompositions() -> dict[Any, Callable[..., Any]]:
    """What replaces each backward operation in a trace: PyTorch's own decompositions, and those it lacks.

    >>> table = decompositions()
    >>> all(op in table for op in (aten.gelu_backward.default, aten.convolution_backward.default))
    True
    """
    from torch._decomp import core_aten_decompositions

    table = {op: rule for op, rule in core_aten_decompositions().items() if "backward" in str(op)}
    own = {
        aten.convolution_backward.default: _convolution,
        aten.max_pool2d_with_indices_backward.default: _max_pool,
        aten.avg_pool2d_backward.default: _mean_pool,
        aten._adaptive_avg_pool2d.default: _adaptive_mean,
        aten._adaptive_avg_pool2d_backward.default: _adaptive_mean_backward,
        aten.select_backward.default: _select,
        aten.slice_backward.default: _slice,
    }
    return {**table, **own}


def _convolution(
    gradient: Tensor, x: Tensor, weight: Tensor, _bias: Any, *how: Any
) -> tuple[Tensor | None, None, None]:
    """The gradient of the input; those of the weights are never wanted, because parameters are frozen.

    `how` is stride, padding, dilation, transposed, output padding, groups, and which gradients are wanted.
    """
    stride, padding, dilation, transposed, _, groups, wanted = how
    if any(wanted[1:]):
        raise FinerCAMError("the tail differentiates its own weights, which a graph for deployment cannot do")
    if not wanted[0]:
        return None, None, None
    none = [0] * len(stride)
    if transposed:
        return aten.convolution(gradient, weight, None, stride, padding, dilation, False, none, groups), None, None
    extra = [
        x.shape[2 + i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (side - 1) + 1)
        for i, side in enumerate(weight.shape[2:])
    ]
    return aten.convolution(gradient, weight, None, stride, padding, dilation, True, extra, groups), None, None


def _max_pool(gradient: Tensor, x: Tensor, *more: Any) -> Tensor:
    """Each output's gradient is added at the place of its maximum; `more` ends with the indices."""
    flat = torch.zeros_like(x).flatten(2)
    return flat.scatter_add(2, more[-1].flatten(2), gradient.flatten(2)).view_as(x)


def _mean_pool(
    gradient: Tensor, x: Tensor, kernel: Sizes, stride: Sizes, padding: Sizes, ceil: bool, count_padding: bool,
    divisor: int | None,
) -> Tensor:  # fmt: skip
    """Each output's gradient is spread evenly over its window."""
    if ceil or (any(padding) and not count_padding):
        raise FinerCAMError("an average pooling with ceil_mode or with uncounted padding cannot be exported")
    stride = stride or kernel
    channels, cells = x.shape[1], divisor or kernel[0] * kernel[1]
    weight = torch.full((channels, 1, *kernel), 1 / cells, dtype=gradient.dtype)
    extra = [
        x.shape[2 + i] - ((gradient.shape[2 + i] - 1) * stride[i] - 2 * padding[i] + kernel[i]) for i in range(2)
    ]
    return aten.convolution(gradient, weight, None, stride, padding, [1, 1], True, extra, channels)


def _adaptive_mean(x: Tensor, size: Sizes) -> Tensor:
    rows, columns = _windows(x.shape[-2], size[0], x.dtype), _windows(x.shape[-1], size[1], x.dtype)
    return rows @ x @ columns.T


def _adaptive_mean_backward(gradient: Tensor, x: Tensor) -> Tensor:
    rows = _windows(x.shape[-2], gradient.shape[-2], x.dtype)
    columns = _windows(x.shape[-1], gradient.shape[-1], x.dtype)
    return rows.T @ gradient @ columns


def _windows(size: int, count: int, dtype: torch.dtype) -> Tensor:
    """The matrix `(count, size)` that averages windows as adaptive pooling cuts them."""
    starts = [i * size // count for i in range(count)]
    ends = [-(-(i + 1) * size // count) for i in range(count)]
    rows = [
        [(start <= i < end) / (end - start) for i in range(size)] for start, end in zip(starts, ends, strict=True)
    ]
    return torch.tensor(rows, dtype=dtype)


def _select(gradient: Tensor, sizes: Sizes, dim: int, index: int) -> Tensor:
    index = index % sizes[dim]
    return _slice(gradient.unsqueeze(dim), sizes, dim, index, index + 1, 1)


def _slice(gradient: Tensor, sizes: Sizes, dim: int, start: int, end: int, step: int) -> Tensor:
    """Zeros around the gradient: one operation that every runtime has."""
    if step != 1:
        raise FinerCAMError(f"a slice with step {step} after the layer cannot be exported")
    dim, count = dim % len(sizes), sizes[dim]
    first = min(max(start + count if start < 0 else start, 0), count)
    around = [first, count - first - gradient.shape[dim]]
    return aten.constant_pad_nd(gradient, [0, 0] * (len(sizes) - 1 - dim) + around, 0.0)
