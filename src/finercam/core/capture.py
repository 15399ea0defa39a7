"""One run of the model. It keeps a layer's activations and can differentiate the layers after it."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointError

from finercam.core.functional_relu import Watched, after_relu, plain_for_modules, watched
from finercam.core.logits import Readout, describe
from finercam.core.record import Recorder
from finercam.core.relevance import RelevanceRules
from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["INPUT", "Capture", "capture", "exchanged", "guest", "retainable", "run_model", "run_to"]

INPUT = "input"
"""The name under which the images themselves are a layer: their activations are pixels."""

NamedLayers = Sequence[tuple[str, nn.Module]]


@dataclass(frozen=True)
class Capture:
    """What one run left: activations as the layers gave them, logits `(N, K)`, and the graph of the tail between.

    The trunk (input to first target layer) has no graph, so a capture costs the memory of the tail alone.
    """

    layers: tuple[str, ...]
    activations: tuple[Tensor, ...]
    logits: Tensor
    given: Tensor | None = None
    """What the one layer was given, where it is a layer of tokens `(N, L, C)`."""
    compiled: bool = False
    """Whether compiled functions made the graph, through which only one direction at a time goes backwards."""

    def gradients(
        self, directions: Tensor, batched: bool | None = None, retain: bool = False
    ) -> list[tuple[Tensor, ...]]:
        """Differentiate `sum_k v_k y_k` for each of M directions `v` in logit space: `(N, M, K)`.

        Returns M tuples with one gradient for each layer, shaped like its activations. `batched` asks for one
        vectorised vector-Jacobian product; None takes it on accelerators, where launches cost more than
        memory, and falls back to one product after another where an operation of the tail has no batching rule.
        The graph is released afterwards, unless it is to be retained.

        Raises FinerCAMError if the logits do not depend on a layer.
        """
        vectors = directions.to(self.logits).unbind(1)
        if batched is None:
            batched = not self.compiled and self.logits.device.type not in ("cpu", "mps") and len(vectors) > 1
        if batched:
            try:
                stacked = self._grad(self.logits, torch.stack(vectors), is_grads_batched=True, retain_graph=True)
            except RuntimeError as error:
                if not _lacks_batching_rule(error):
                    raise
            else:
                return [tuple(gradient[m] for gradient in stacked) for m in range(len(vectors))]
        last = len(vectors) - 1
        with torch.inference_mode(False), torch.enable_grad():
            # A scalar needs no grad_outputs, whose check makes torch import sympy: seconds, on the first call.
            scalars = [(v.clone() * self.logits).sum() for v in vectors]
        return [self._grad(z, None, retain_graph=retain or m < last) for m, z in enumerate(scalars)]

    def _grad(self, of: Tensor, vectors: Tensor | None, **options: bool) -> tuple[Tensor, ...]:
        try:
            with retainable() if self.compiled else nullcontext():
                found = torch.autograd.grad(of, self.activations, vectors, allow_unused=True, **options)
        except CheckpointError as error:
            raise FinerCAMError(
                f"layer {', '.join(map(repr, self.layers))}: what follows it is under gradient checkpointing; switch "
                "that off while explaining"
            ) from error
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # a custom backward may raise anything
            if isinstance(error, RuntimeError) and _lacks_batching_rule(error):
                raise
            raise FinerCAMError(
                f"what follows layer {', '.join(map(repr, self.layers))} cannot be differentiated: {one_line(error)}"
            ) from error
        for name, gradient in zip(self.layers, found, strict=True):
            if gradient is None:
                raise FinerCAMError(
                    f"layer {name!r}: the logits do not depend on it; choose a layer on the way to them"
                )
        return found  # type: ignore[return-value]


def capture(
    model: nn.Module,
    layers: NamedLayers,
    images: Any,
    readout: Readout | None = None,
    relevance: bool = False,
    through_relu: bool = False,
    recorder: Recorder | None = None,
) -> Capture:
    """Run `model(images)` once and keep what `layers` gave, with a graph from there to the logits.

    The model runs in eval mode, and its parameters are not part of the graph. Hooks, modes and `requires_grad` are
    restored afterwards, also after an error. It works under the caller's `no_grad` and `inference_mode`.

    The layer `INPUT` is the images themselves. With `relevance` the tail's gradients follow `RelevanceRules`.
    `through_relu`: where a ReLU that is no module is the one reader of a map, what is kept is the map after it.
    A `recorder` records what follows a layer of tokens.

    Raises FinerCAMError for a layer that never runs, runs more than once, or gives no tensor.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> kept = capture(model, [("0", model[0])], torch.zeros(5, 3, 8, 8))
    >>> kept.activations[0].shape, kept.logits.shape
    (torch.Size([5, 4, 8, 8]), torch.Size([5, 2]))
    """
    keeping = _Keeping(through_relu, recorder)
    kept = keeping.kept
    with guest(model), torch.inference_mode(False), torch.enable_grad(), ExitStack() as stack:
        if through_relu:
            stack.enter_context(plain_for_modules(model))
        for name, module in layers:
            if name == INPUT:
                # A view that was made under the caller's inference mode takes no gradient.
                images = images.clone() if images.is_inference() else images.detach()
                kept[INPUT] = images.requires_grad_()
                images = kept[INPUT].clone()
            else:
                stack.callback(module.register_forward_hook(keeping.hook(name)).remove)
        if relevance:
            stack.enter_context(RelevanceRules())
        if recorder is not None:
            stack.enter_context(recorder)
        read = stack.enter_context((readout or Readout()).reading())
        logits = read(_call(model, images))

    names = tuple(name for name, _ in layers)
    _check_reached(names, kept, logits)
    given = keeping.given
    return Capture(names, tuple(map(keeping.activation, names)), logits, given[0] if len(given) == 1 else None)


class _Keeping:
    """Hooks that keep what layers give and begin the graph at the first of them."""

    def __init__(self, through_relu: bool, recorder: Recorder | None) -> None:
        self.through_relu, self.recorder = through_relu, recorder
        self.kept: dict[str, Tensor] = {}
        self.given: list[Tensor] = []
        self._copies: dict[str, Watched | None] = {}

    def hook(self, name: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, inputs: Any, output: Any) -> Any:
            if name in self.kept:
                raise FinerCAMError(f"layer {name!r} runs more than once in a forward pass; name one that runs once")
            activation = _tensor_of(output, name)
            torch.set_grad_enabled(True)  # the model may hold its backbone under no_grad; the tail needs a graph
            if not self.kept or not activation.requires_grad:  # nothing before the first layer needs a graph
                activation = activation.detach().requires_grad_()
            self.kept[name] = activation
            # The next layer may write in place (ReLU(inplace=True)), so it gets a copy.
            copy = self._copies[name] = watched(activation) if self.through_relu and activation.ndim >= 4 else None
            plain = activation.clone() if copy is None else copy
            if activation.ndim == 3:
                self._note_tokens(inputs, plain)
            return _with_tensor(output, plain)

        return hook

    def _note_tokens(self, inputs: Any, activation: Tensor) -> None:
        given = _tokens_of(inputs)
        self.given += given
        if self.recorder is not None and not self.recorder.begun:
            self.recorder.begin(activation=activation, **dict(zip(("given",), given, strict=False)))

    def activation(self, name: str) -> Tensor:
        after = after_relu(self._copies.get(name))
        return self.kept[name] if after is None else after


def _check_reached(names: Sequence[str], kept: Mapping[str, Tensor], logits: Tensor | None) -> None:
    """Every layer must have run, and the logits must depend on the layers."""
    for name in names:
        if name not in kept:
            raise FinerCAMError(f"layer {name!r} did not run in the forward pass; name a layer that does")
    if logits is not None and not logits.requires_grad:
        listed = ", ".join(repr(name) for name in names)
        raise FinerCAMError(f"layer {listed}: the logits do not depend on it; choose a layer on the way to them")


class _Reached(BaseException):
    """Ends a run of the model at a layer; no model catches it."""


def run_to(model: nn.Module, layer: tuple[str, nn.Module], images: Any) -> tuple[Tensor, Tensor | None]:
    """What a layer gives, and the tokens that it was given; the layers after it do not run.

    The caller is the model's guest.
    """
    found: list[tuple[Tensor, Tensor | None]] = []

    def stop(_module: nn.Module, inputs: Any, output: Any) -> None:
        found.append((_tensor_of(output, layer[0]), next(iter(_tokens_of(inputs)), None)))
        raise _Reached

    handle = layer[1].register_forward_hook(stop)
    try:
        with torch.inference_mode(False), torch.enable_grad():
            _call(model, images)
    except _Reached:
        pass
    finally:
        handle.remove()
    _check_reached([layer[0]] if not found else [], {}, None)
    return found[0]


def retainable() -> AbstractContextManager[Any]:
    """Compiled functions keep what several backward passes through one graph need."""
    from torch._functorch import config  # imports the compiler

    return config.patch(donated_buffer=False)


def run_model(model: nn.Module, images: Any, readout: Readout | None = None) -> Tensor:
    """Logits `(N, K)` of a run without a graph; the model is left as it was."""
    with guest(model), torch.no_grad(), (readout or Readout()).reading() as read:
        return read(_call(model, images))


_LOCKS: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_LOCKS_LOCK = threading.Lock()


@contextmanager
def guest(model: nn.Module) -> Iterator[None]:
    """Keep `model` in eval mode with its parameters out of the graph, and restore every flag at the end.

    Gradient checkpointing (timm, open_clip) is off as well, since it would run the layers again without hooks. Only
    one thread at a time uses a model, also across explainers. The state of PyTorch's random numbers is restored. Raises FinerCAMError for a model whose parameters cannot be put back.
    """
    with _lock_of(model), _random_state(), _flags(model), _uncompiled():
        yield


def _lock_of(model: nn.Module) -> threading.RLock:
    with _LOCKS_LOCK:
        return _LOCKS.setdefault(model, threading.RLock())


@contextmanager
def _random_state() -> Iterator[None]:
    """Restore the global random state, because a forward pass may use functional dropout or draw noise."""
    on_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    before = torch.get_rng_state(), torch.cuda.get_rng_state_all() if on_cuda else None
    try:
        yield
    finally:
        torch.set_rng_state(before[0])
        if before[1] is not None:
            torch.cuda.set_rng_state_all(before[1])


@contextmanager
def _flags(model: nn.Module) -> Iterator[None]:
    modules = list(model.modules())
    flags = [
        (module, flag)
        for module in modules
        for flag in ("training", "grad_checkpointing")
        if module.__dict__.get(flag) is True
    ]
    # model.parameters() would walk the modules once more, and is slower
    parameters = (parameter for module in modules for parameter in module._parameters.values())
    trained = [parameter for parameter in parameters if parameter is not None and parameter.requires_grad]
    if any(parameter.is_inference() for parameter in trained):
        raise FinerCAMError(
            "the model was built under torch.inference_mode(), so that autograd cannot use its parameters; build it "
            "outside, or under torch.no_grad()"
        )
    try:
        for module, flag in flags:
            setattr(module, flag, False)
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, flag in flags:
            setattr(module, flag, True)
        for parameter in trained:
            parameter.requires_grad_(True)


def _uncompiled() -> AbstractContextManager[Any]:
    """Run compiled parts eagerly, because dynamo ignores hooks that are added after compilation."""
    # Importing dynamo takes seconds. If it is not imported yet, nothing was compiled.
    if "torch._dynamo" not in sys.modules or not hasattr(torch.compiler, "set_stance"):  # torch >= 2.6
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


@contextmanager
def exchanged(module: nn.Module, activation: Tensor) -> Iterator[None]:
    """Make `module` return `activation` instead of its own output."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: _with_tensor(output, activation))
    try:
        yield
    finally:
        handle.remove()


def _call(model: nn.Module, images: Any) -> Any:
    """Call with one tensor, a mapping of keyword arguments, or a tuple of positional ones."""
    if isinstance(images, Mapping):
        return model(**images)
    if isinstance(images, (tuple, list)):
        return model(*images)
    return model(images)


def _tensor_of(output: Any, name: str) -> Tensor:
    if isinstance(output, Tensor):
        return output
    values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for value in values:
        if isinstance(value, Tensor) and value.ndim >= 3:
            return value
    raise FinerCAMError(f"layer {name!r} returned {describe(output)}; expected a tensor of activations")


def _tokens_of(inputs: tuple[Any, ...]) -> list[Tensor]:
    """The tokens that a layer is given, if it is given nothing else."""
    only = len(inputs) == 1 and isinstance(inputs[0], Tensor) and inputs[0].ndim == 3
    return [inputs[0]] if only else []


def _with_tensor(output: Any, replacement: Tensor) -> Any:
    """The layer's output with other activations in the same structure."""
    if isinstance(output, Tensor):
        return replacement
    original = _tensor_of(output, "")
    kind: Any = type(output)
    if isinstance(output, Mapping):
        changed = {key: replacement if value is original else value for key, value in output.items()}
        return kind(**changed) if hasattr(output, "to_tuple") else kind(changed)
    values = [replacement if value is original else value for value in output]
    return kind(*values) if hasattr(output, "_fields") else kind(values)


def _lacks_batching_rule(error: RuntimeError) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("vmap", "batching rule", "is_grads_batched", "functorch", "batchedtensor"))
