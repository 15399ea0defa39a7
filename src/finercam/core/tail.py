"""The tail: what a model does after one layer, recorded once, so that it runs without the layers before it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core.capture import Capture, capture, guest, run_to
from finercam.core.logits import Readout
from finercam.core.record import Recorder, Recording
from finercam.core.rows import without_unread_rows
from finercam.errors import FinerCAMError

__all__ = ["Tail", "Tails", "agrees", "stamp", "tensors_of", "versions"]

CLOSE = 1e-4
"""Largest difference of recorded logits and gradients from the model's own, as a share of their length."""
SHAPES = 8
"""For how many shapes of images the tails are kept."""
NamedLayer = tuple[str, nn.Module]


@dataclass(frozen=True)
class Tail:
    """What follows a layer: a function of the layer's `activation`, of what it was `given`, and of the model's tensors.

    `pruned` says that rows which the head does not read are left out, so that it costs less than the model's own tail;
    `from_given` that the layer's activation is the layer's function of `given` alone.
    """

    function: Callable[..., Tensor]
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    kinds: tuple[Any, ...]
    stamp: tuple[Any, ...]
    pruned: bool
    from_given: bool

    @classmethod
    def of(cls, model: nn.Module, layer: nn.Module, run: Capture, recording: Recording | None) -> Tail | None:
        """The tail of a recorded run, or None where it does not give the run's logits and gradients."""
        mark = stamp(model)
        if recording is None or recording.writes or mark is None:
            return None
        kinds = _kinds(model, recording.constants)
        if kinds is None:
            return None
        less = without_unread_rows(recording)
        (activation,), given = run.activations, run.given
        with torch.no_grad():
            from_given = given is not None and _same(layer, given, activation)
        tail = cls(
            (less or recording).compiled(), recording.inputs, recording.constants, kinds,
            mark, less is not None, from_given,
        )  # fmt: skip
        return tail if agrees(tail.capture(model, activation, given, run.layers[0]), run) else None

    def fits(self, model: nn.Module) -> bool:
        """Whether the model is still the one that was recorded; its weights may have other values."""
        return stamp(model) == self.stamp and _kinds(model, self.constants) == self.kinds

    def capture(self, model: nn.Module, activation: Tensor, given: Tensor | None, name: str) -> Capture:
        """A capture that begins with the layer's activation; the caller is the model's guest."""
        with torch.inference_mode(False), torch.enable_grad():
            activation = activation.detach().requires_grad_()
            inputs = {"activation": activation, "given": given}
            logits = self.function(*(inputs[one] for one in self.inputs), *tensors_of(model, self.constants))
            return Capture((name,), (activation,), logits, given)


class Tails:
    """The tails of a model after one layer, by the shape of the images; each is recorded in the first run of its shape."""

    def __init__(self) -> None:
        self._found: dict[Any, Tail | None] = {}
        self._maps = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Tails, ()

    def capture(
        self, model: nn.Module, layer: NamedLayer, images: Tensor, readout: Readout, through_relu: bool = False
    ) -> tuple[Capture, Tail | None]:
        """A run of the model and the tail that can run again, or None where it was not possible to record one.

        Where rows can be left out, the layers after `layer` do not run: the tail takes their place. `through_relu` is as
        for `core.capture.capture`.
        """
        own = functools.partial(capture, model, [layer], images, readout, through_relu=through_relu)
        half = torch.is_autocast_enabled(images.device.type)
        if self._maps or half or readout.scores is not None or readout.before_probabilities:
            return own(), None
        key = (images.shape, images.dtype, images.device)
        with guest(model):
            if key in self._found and (tail := self._found[key]) is not None and not tail.fits(model):
                del self._found[key]
            if key not in self._found:
                return self._recorded(model, layer, images, own)
            tail = self._found[key]
            if tail is None or not tail.pruned:
                return own(), tail
            return tail.capture(model, *run_to(model, layer, images), layer[0]), tail

    def _recorded(
        self, model: nn.Module, layer: NamedLayer, images: Tensor, own: Callable[..., Capture]
    ) -> tuple[Capture, Tail | None]:
        recorder = Recorder(model)
        try:
            run = own(recorder=recorder)
            tail = Tail.of(model, layer[1], run, recorder.finish(run.logits))
        except (FinerCAMError, torch.OutOfMemoryError):
            raise
        except Exception:  # an operation that cannot be recorded may fail in any way; the model still runs
            run, tail = own(), None
        self._maps = run.activations[0].ndim != 3
        while len(self._found) >= SHAPES:
            del self._found[next(iter(self._found))]
        self._found[images.shape, images.dtype, images.device] = tail
        if tail is not None and tail.pruned:  # so that the first answer is like all others
            run = tail.capture(model, run.activations[0], run.given, layer[0])
        return run, tail


def stamp(model: nn.Module) -> tuple[Any, ...] | None:
    """What the code of a model's modules depends on besides tensors; None for a model with hooks.

    >>> layer = nn.LayerNorm(3)
    >>> before = stamp(layer)
    >>> layer.eps = 0.1
    >>> before == stamp(layer)
    False
    """
    if torch.nn.modules.module._global_forward_hooks or torch.nn.modules.module._global_forward_pre_hooks:
        return None
    found: list[Any] = []
    for module in model.modules():
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"]:
            return None
        found += (module, own.get("forward"))
        found += [value for name, value in own.items() if type(value) in _PLAIN and name not in _RESTORED]
    return tuple(found)


_PLAIN = {int, float, bool, str, tuple, type(None)}
_RESTORED = {"training", "grad_checkpointing"}


def versions(model: nn.Module, names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """A number for the values of each of the model's tensors, which changes when they are written to."""
    return tuple((one.data_ptr(), 0 if one.is_inference() else one._version) for one in tensors_of(model, names))


def tensors_of(model: nn.Module, names: tuple[str, ...]) -> list[Tensor]:
    """The model's tensors of these dotted names, as they are now."""
    found = []
    for name in names:
        path, _, own = name.rpartition(".")
        found.append(getattr(model.get_submodule(path), own))
    return found


def _kinds(model: nn.Module, names: tuple[str, ...]) -> tuple[Any, ...] | None:
    try:
        return tuple((one.shape, one.dtype, one.device) for one in tensors_of(model, names))
    except AttributeError:
        return None


def _same(layer: nn.Module, given: Tensor, activation: Tensor) -> bool:
    try:
        return torch.equal(layer(given), activation)
    except (TypeError, RuntimeError):  # a layer that takes other arguments
        return False


def agrees(mine: Capture, own: Capture) -> bool:
    """Whether two captures have the same activations, logits and gradients, up to rounding; the second keeps its graph."""
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(own.logits.shape, generator=random, dtype=torch.float64)[:, None]
    pairs = [(mine.logits, own.logits), *zip(mine.activations, own.activations, strict=True)]
    if not all(_close(*pair) for pair in pairs):
        return False
    (expected,) = own.gradients(direction, batched=False, retain=True)
    (found,) = mine.gradients(direction, batched=False)
    return all(_close(*pair) for pair in zip(found, expected, strict=True))


def _close(mine: Tensor, own: Tensor) -> bool:
    if mine.shape != own.shape:
        return False
    tolerance = max(CLOSE, 4 * torch.finfo(own.dtype).eps)
    return float((mine - own).detach().double().norm()) <= tolerance * float(own.detach().double().norm())
