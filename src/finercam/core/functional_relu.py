"""A ReLU that a model applies as a function to a layer's output, such as torchvision's DenseNet to its features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["RELUS", "Watched", "after_relu", "plain_for_modules", "watched"]

RELUS = (F.relu, torch.relu, Tensor.relu)


class Watched(Tensor):
    """A tensor that notes which functions it is passed to; their results are plain tensors."""

    uses: list[Tensor | None]
    """For each use the result where it is a ReLU, else None."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        first = args[0] if args else None
        relu = func in RELUS and isinstance(first, Watched)
        if relu and kwargs.get("inplace"):
            kwargs["inplace"] = False  # the layer's own output stays as it was
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
            if first is not None and relu:
                first.uses.append(result)
                return result.clone()  # what follows may write in place
        if _holds_tensor(result):
            for one in _watched_in((args, kwargs)):
                one.uses.append(None)
        return result


def watched(activation: Tensor) -> Watched:
    """A copy of an activation that notes its uses."""
    copy: Any = activation.clone().as_subclass(Watched)
    copy.uses = []
    return copy


def after_relu(copy: Watched | None) -> Tensor | None:
    """The result of the ReLU if that is the one use of a watched copy, else None.

    >>> x = watched(torch.tensor([-1.0, 2.0]))
    >>> _ = F.relu(x, inplace=True).sum()
    >>> after_relu(x)
    tensor([0., 2.])
    """
    return copy.uses[0] if copy is not None and len(copy.uses) == 1 else None


@contextmanager
def plain_for_modules(model: nn.Module) -> Iterator[None]:
    """Pass plain tensors to ReLU modules, which are layers themselves, instead of watched ones."""

    def before(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        for one in _watched_in(inputs):
            one.uses.append(None)
        return tuple(one.as_subclass(Tensor) if isinstance(one, Watched) else one for one in inputs)

    handles = [m.register_forward_pre_hook(before) for m in model.modules() if isinstance(m, nn.ReLU)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watched_in(value: Any) -> Iterator[Watched]:
    if isinstance(value, Watched):
        yield value
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _watched_in(one)
    elif isinstance(value, dict):
        yield from _watched_in(tuple(value.values()))


def _holds_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or (isinstance(value, (tuple, list)) and any(map(_holds_tensor, value)))
