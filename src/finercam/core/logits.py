"""Read the logits from a model's output, by itself or with the caller's `scores=`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from finercam.core.views import IDENTITY, View
from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["Readout", "Scores", "ending", "find_logits", "uncommon"]

Scores = Callable[..., Tensor]
"""`scores(output) -> (N, K)`, or `scores(output, samples, view)` where it uses data of each image."""

_SQUASHING: dict[Callable[..., Any], str] = {
    torch.softmax: "softmax",
    F.softmax: "softmax",
    Tensor.softmax: "softmax",
    torch.log_softmax: "log-softmax",
    F.log_softmax: "log-softmax",
    Tensor.log_softmax: "log-softmax",
    torch.sigmoid: "sigmoid",
    F.sigmoid: "sigmoid",
    Tensor.sigmoid: "sigmoid",
}
_ENDINGS = {"SoftmaxBackward0": "softmax", "LogSoftmaxBackward0": "log-softmax", "SigmoidBackward0": "sigmoid"}


def ending(logits: Tensor) -> str | None:
    """Which function made probabilities of the logits at the end of a model: "softmax", "log-softmax", "sigmoid".

    >>> ending(torch.zeros(1, 3, requires_grad=True).softmax(1))
    'softmax'
    """
    return _ENDINGS.get(type(logits.grad_fn).__name__)


@dataclass(frozen=True)
class Readout:
    """How logits are read from a model's output; `Readout.of(scores)` checks the caller's function.

    `samples` are the places of the images within the call and `view` is how they were changed; a `scores` with three
    parameters gets both. With `before_probabilities` the logits are taken before a final softmax or sigmoid.
    """

    scores: Scores | None = None
    takes_samples: bool = False
    samples: tuple[int, ...] = ()
    view: View = IDENTITY
    before_probabilities: bool = False

    @classmethod
    def of(cls, scores: Any) -> Readout:
        """Raises FinerCAMError if `scores` cannot be called with the model's output."""
        if scores is None:
            return cls()
        if not callable(scores):
            raise FinerCAMError(f"scores={scores!r}: expected a function of the model's output, as lambda output: …")
        function = cast(Scores, scores)
        return cls(function, takes_samples=_positional(function) >= 3)

    def at(self, samples: Sequence[int], view: View = IDENTITY) -> Readout:
        """The same for certain images of a call, under a view."""
        return replace(self, samples=tuple(samples), view=view)

    def repeated(self, sample: int, count: int) -> Readout:
        """The same for `count` variants of one image of the batch."""
        return replace(self, samples=(self.samples[sample],) * count) if self.samples else self

    @contextmanager
    def reading(self) -> Iterator[Callable[[Any], Tensor]]:
        """A function from a model's output to logits; the model must run inside the block."""
        if not self.before_probabilities:
            yield self.read
            return
        with _LastSquashing() as last:
            yield lambda output: last.undone(self.read(output))

    def read(self, output: Any) -> Tensor:
        """The logits `(N, K)` in one output of the model."""
        if self.scores is None:
            return find_logits(output)
        logits = self._called(output)
        if self.view.flip and not self.takes_samples:
            flipped = self._called(_flipped(output))
            if not torch.allclose(flipped, logits, rtol=1e-3, atol=1e-4 * float(logits.detach().abs().amax())):
                raise FinerCAMError(
                    "scores= picks places of the output, and smooth='flip' mirrors them; let it take the view, as "
                    "scores=lambda output, samples, view: …"
                )
        return logits

    def _called(self, output: Any) -> Tensor:
        extra = (torch.tensor(self.samples), self.view) if self.takes_samples else ()
        try:
            logits = self.scores(output, *extra) if self.scores else find_logits(output)
        except FinerCAMError:
            raise
        except Exception as error:
            raise FinerCAMError(
                f"scores= failed on the model's output, {describe(output)}: {one_line(error)}"
            ) from error
        if not _are_logits(logits):
            raise FinerCAMError(f"scores= returned {describe(logits)}; expected real logits of shape (N, K)")
        return logits


class _LastSquashing(TorchFunctionMode):
    """Records the input of the last softmax or sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.given: Tensor | None = None
        self.output: Any = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if func in _SQUASHING:
            self.given, self.output = args[0] if args else kwargs["input"], output
        return output

    def undone(self, logits: Tensor) -> Tensor:
        return self.given if self.given is not None and logits is self.output else logits


def find_logits(output: Any) -> Tensor:
    """Find the logits `(N, K)` in what a model returned: a tensor, tuple, dict or Hugging Face output.

    >>> find_logits({"logits": torch.zeros(2, 5), "hidden": torch.zeros(2, 9)}).shape
    torch.Size([2, 5])
    """
    if isinstance(output, Tensor):
        candidates: list[Any] = [output]
    elif isinstance(output, Mapping):
        named = [output.get(key) for key in ("logits", "logits_per_image")]
        candidates = [value for value in named if value is not None] or list(output.values())
        if sum(_are_logits(value) for value in candidates) > 1:
            candidates = []  # embeddings have the same shape, so the caller must choose the logits
    elif hasattr(output, "logits"):
        candidates = [output.logits]
    elif isinstance(output, (tuple, list)):
        candidates = list(output)
    else:
        candidates = []
    for value in candidates:
        if _are_logits(value):
            return value
    raise FinerCAMError(
        f"the model returned {describe(output)}; expected logits (N, K): pass scores=lambda output: …"
    )


def describe(value: Any) -> str:
    """A model's output in a few words."""
    if isinstance(value, Tensor):
        kind = uncommon(value)
        return f"a {kind}" if kind else f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with keys {list(value)}"
    if isinstance(value, (tuple, list)):
        return f"{type(value).__name__} of " + ", ".join(describe(entry) for entry in value[:4])
    return type(value).__name__


def uncommon(tensor: Tensor) -> str:
    """What kind of tensor cannot be calculated with as usual; empty for a dense tensor with values."""
    if tensor.is_nested:
        return "nested tensor"
    return "tensor without values" if tensor.is_meta else "" if tensor.layout == torch.strided else "sparse tensor"


def _flipped(output: Any) -> Any:
    """A model's output with its maps `(N, K, H, W)` mirrored."""
    if isinstance(output, Tensor):
        return output.flip(-1) if output.ndim == 4 else output
    if isinstance(output, Mapping):
        return {key: _flipped(value) for key, value in output.items()}
    if isinstance(output, (tuple, list)):
        return type(output)(_flipped(value) for value in output) if type(output) in (tuple, list) else output
    return output


def _are_logits(value: Any) -> bool:
    if not isinstance(value, Tensor) or uncommon(value):
        return False
    return value.ndim == 2 and value.is_floating_point() and value.shape[1] > 0


def _positional(function: Callable[..., Any]) -> int:
    """How many positional arguments a function needs; 1 where that cannot be known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 1
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is inspect.Parameter.empty for p in parameters)
