"""A limit on what building a stranger's architecture may allocate, before a single weight has been read."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finercam.errors import FinerCAMError

__all__ = ["Budget"]

FLOOR = 1 << 25
"""Elements that any architecture may take: buffers, position tables and what initialisation needs for a while."""

TENSORS = 200_000


class Budget(TorchDispatchMode):
    """Counts what is allocated under it, and raises FinerCAMError where a model would outgrow its weights' file.

    A configuration is a few bytes; `"num_classes": 10**9` in it would fill the memory before the weights, which are of
    another shape, were looked at. Sizes are checked before they are allocated.

    >>> with Budget(0):
    ...     torch.nn.Linear(1000, 10**9)
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: the architecture asks for more than 1,000,000,000,000 numbers, too many for its weights
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.limit, self.taken, self.tensors = FLOOR + elements, 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch would import its compiler, seconds of it, to keep it away from what follows

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._check(_asked(func, args))
        result = func(*args, **kwargs)
        if not func._schema.is_mutable and not func.is_view and isinstance(result, Tensor):
            self.taken += result.numel()
            self.tensors += 1
            self._check(0)
        return result

    def _check(self, more: float) -> None:
        if self.taken + more > self.limit:
            wants = f"{int(max(more, self.limit)):,}" if math.isfinite(more) else "countless"
            raise FinerCAMError(f"the architecture asks for more than {wants} numbers, too many for its weights")
        if self.tensors > TENSORS:
            raise FinerCAMError(f"the architecture asks for more than {TENSORS:,} tensors")


def _asked(func: Any, args: Any) -> float:
    """Elements that a factory is about to allocate: its first argument is a size, or the end of a range."""
    if not args:
        return 0
    first = args[0]
    if isinstance(first, list | tuple) and all(isinstance(side, int) for side in first):
        return math.prod(first)
    if isinstance(first, int | float) and func.overloadpacket is torch.ops.aten.arange:
        ends = [value for value in args[:3] if isinstance(value, int | float)]
        low, high, step = (0, *ends, 1) if len(ends) == 1 else (*ends, 1)[:3]
        return abs((high - low) / (step or 1))
    if func.overloadpacket is torch.ops.aten.linspace and len(args) > 2 and isinstance(args[2], int):
        return args[2]
    return 0
