"""Limits on what the configuration of a model may request, before a single weight has been read."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from finercam.errors import FinerCAMError, suggest

__all__ = ["MAX_INTEGER", "Budget", "check_settings", "is_plain", "reaches_out"]

FLOOR = 1 << 25
"""Elements that any architecture may take: buffers, position tables and what initialisation needs for a while."""

TENSORS = 200_000

MAX_INTEGER = 1 << 20
"""The largest integer in a configuration: libraries make Python lists and tables of such lengths, which no tensor
limit sees. A million classes still fit."""

# Words in the names of options that would make a library fetch or open something other than the weights beside
# the configuration.
_FORBIDDEN = ("pretrained", "checkpoint", "weights", "cache", "auto_map", "trust", "token", "file", "url")

_PLAIN_TEXT = re.compile(r"[\w.+\- ]{0,100}")
"""Names of activations, poolings and the like; a path, an address or a repository has a slash or a colon."""


class Budget(TorchDispatchMode):
    """Counts what is allocated under it, and raises FinerCAMError where a model would outgrow its weights' file.

    A configuration is a few bytes; `"num_classes": 10**9` in it would fill the memory before the weights, which are of
    another shape, were looked at. Sizes are checked before they are allocated.

    >>> with Budget(0):
    ...     torch.nn.Linear(1000, 10**9)
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: the architecture needs more than 1,000,000,000,000 numbers, too many for its weights
    """

    def __init__(self, elements: int) -> None:
        super().__init__()
        self.limit, self.taken, self.tensors = FLOOR + elements, 0, 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise PyTorch imports its compiler, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._check(_requested(func, args))
        result = func(*args, **kwargs)
        if not func._schema.is_mutable and not func.is_view and isinstance(result, Tensor):
            self.taken += result.numel()
            self.tensors += 1
            self._check(0)
        return result

    def _check(self, more: float) -> None:
        if self.taken + more > self.limit:
            needs = f"{int(max(more, self.limit)):,}" if math.isfinite(more) else "countless"
            raise FinerCAMError(f"the architecture needs more than {needs} numbers, too many for its weights")
        if self.tensors > TENSORS:
            raise FinerCAMError(f"the architecture needs more than {TENSORS:,} tensors")


def _requested(func: Any, args: Any) -> float:
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


def check_settings(settings: Mapping[Any, Any], known: Collection[str] | None = None) -> None:
    """Refuse options of an architecture that are not known, or whose values are more than plain small ones.

    Values are numbers, switches, short names without a slash or a colon, and lists of them. `known` None allows every
    name without one of the words that stand for files and addresses. Raises FinerCAMError naming the option.

    >>> check_settings({"hidden_act": "org/repo"}, {"hidden_act"})
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: the architecture option hidden_act='org/repo' is not allowed; expected a plain value
    """
    for key, value in settings.items():
        if not isinstance(key, str) or ((known is None or key not in known) and reaches_out(key)):
            raise FinerCAMError(f"the architecture option {key!r:.80} is not allowed; weights lie in the folder")
        if known is not None and key not in known:
            raise FinerCAMError(f"the architecture has no option {key!r:.80} that is allowed.{suggest(key, known)}")
        if any(isinstance(one, int) and abs(one) > MAX_INTEGER for one in _flat(value)):
            raise FinerCAMError(f"the architecture option {key}={value!r:.40} is too many for its weights")
        if not is_plain(value):
            raise FinerCAMError(f"the architecture option {key}={value!r:.80} is not allowed; expected a plain value")


def reaches_out(name: str) -> bool:
    """Whether an option's name has a word that stands for files, addresses or foreign code.

    >>> reaches_out("checkpoint_path"), reaches_out("num_classes")
    (True, False)
    """
    return any(word in name.lower() for word in _FORBIDDEN)


def is_plain(value: Any) -> bool:
    """Whether a value of a configuration is a number, a switch, None, a short name, or a list of such."""
    return all(
        one is None or isinstance(one, int | float) or (isinstance(one, str) and bool(_PLAIN_TEXT.fullmatch(one)))
        for one in _flat(value)
    )


def _flat(value: Any) -> Iterator[Any]:
    waiting = [value]
    while waiting:  # not recursive: a configuration can be nested a thousand deep
        one = waiting.pop()
        if isinstance(one, list | tuple):
            waiting.extend(one)
        else:
            yield one
