"""The model as functions without hooks, cut at its target layers, so that a compiler can run them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from finercam.core.capture import INPUT, Capture, NamedLayers, capture, guest, retainable
from finercam.core.logits import Readout
from finercam.core.record import Recorder, Recording
from finercam.core.rows import without_unread_rows
from finercam.core.tail import agrees, stamp, tensors_of
from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["Backend", "Split", "Splits", "backend_of", "checked_backend"]

Backend = str | Callable[..., Any]
SHAPES = 8
"""For how many shapes of images the compiled functions are kept."""


@dataclass(frozen=True)
class Part:
    """One function: the values it reads and gives by name, and the model's tensors that it holds."""

    function: Callable[..., Any]
    reads: tuple[str, ...]
    gives: tuple[str, ...]
    constants: tuple[str, ...]
    tensors: tuple[Tensor, ...]


@dataclass(frozen=True)
class Split:
    """A model for images of one shape: a part up to the first layer, then one to each next layer, the last to the logits."""

    parts: tuple[Part, ...]
    layers: tuple[str, ...]
    cuts: tuple[str, ...]
    logits: str
    stamp: tuple[Any, ...]

    @classmethod
    def of(
        cls, model: nn.Module, layers: NamedLayers, images: Tensor, backend: Backend, through_relu: bool
    ) -> Split | str:
        """Record a run and compile its parts; a reason where that is not possible."""
        mark = stamp(model)
        if mark is None:
            return "the model has hooks"
        recorder = Recorder(model)
        recorder.begin(images=images)
        with torch.inference_mode(False):
            run = capture(model, layers, images, recorder=recorder)
            recording, cuts = recorder.finish(run.logits), [recorder.name_of(one) for one in run.activations]
        if recording is None or "" in cuts:
            return recorder.refused or "a layer's output is not what an operation of the model gave"
        pieces = _pieces(recording, cuts)
        parts = tuple(_part(model, piece, backend) for piece in pieces)
        split = cls(parts, tuple(name for name, _ in layers), tuple(cuts), parts[-1].gives[-1], mark)
        own = capture(model, layers, images, through_relu=through_relu)
        return split if agrees(split.capture(images), own) else "the compiled model gives other logits or gradients"

    def fits(self, model: nn.Module) -> bool:
        """Whether the model is still the one that was recorded; the values of its weights may have changed."""
        if stamp(model) != self.stamp:
            return False
        try:
            found = (tensors_of(model, part.constants) for part in self.parts)
            return all(
                a is b
                for own, part in zip(found, self.parts, strict=True)
                for a, b in zip(own, part.tensors, strict=True)
            )
        except AttributeError:
            return False

    def capture(self, images: Tensor) -> Capture:
        """A run on images of the recorded shape; the caller is the model's guest."""
        values: dict[str, Tensor] = {"images": images}
        with torch.inference_mode(False), torch.compiler.set_stance("default"), retainable():
            for number, part in enumerate(self.parts):
                with torch.set_grad_enabled(number > 0):
                    found = part.function(*(values[name] for name in part.reads))
                values.update(zip(part.gives, found if isinstance(found, tuple) else (found,), strict=True))
                if number == 0:
                    values[self.cuts[0]] = values[self.cuts[0]].detach().requires_grad_()
        return Capture(self.layers, tuple(values[cut] for cut in self.cuts), values[self.logits], compiled=True)


class Splits:
    """The compiled parts of a model by the shape of the images; each shape is compiled at its first run."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self._found: dict[Any, Split] = {}
        self._given_up = False

    def __reduce__(self) -> tuple[Any, ...]:
        return Splits, (self.backend,)

    def capture(
        self, model: nn.Module, layers: NamedLayers, images: Tensor, readout: Readout, through_relu: bool
    ) -> Capture | None:
        """A run of the compiled model; None, with one warning, where it has to run by hooks."""
        if self._given_up:
            return None
        special = readout.scores is not None or readout.before_probabilities or layers[0][0] == INPUT
        if special or torch.is_autocast_enabled(images.device.type):
            return self._give_up("the layer 'input', scores=, a final softmax and autocast need the model itself")
        key = (images.shape, images.dtype, images.device, tuple(name for name, _ in layers))
        with guest(model):
            split = self._found.get(key)
            if split is None or not split.fits(model):
                split = self._split(model, layers, images, through_relu)
                if isinstance(split, str):
                    return self._give_up(split)
                while len(self._found) >= SHAPES:
                    del self._found[next(iter(self._found))]
                self._found[key] = split
            return split.capture(images)

    def _split(self, model: nn.Module, layers: NamedLayers, images: Tensor, through_relu: bool) -> Split | str:
        try:
            with warnings.catch_warnings():  # of a compiler about its own code
                warnings.simplefilter("ignore")
                return Split.of(model, layers, images, self.backend, through_relu)
        except (FinerCAMError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # a recorder or a compiler may fail in any way; the model still runs
            return one_line(error)

    def _give_up(self, reason: str) -> None:
        self._given_up = True
        warnings.warn(f"the model runs uncompiled: {reason}", stacklevel=6)


def checked_backend(given: Any, model: Any) -> Backend | None:
    """The backend that `compile=` stands for, or None to run the model uncompiled; raises FinerCAMError for another value.

    >>> checked_backend(True, None), checked_backend(False, None), checked_backend("aot_eager", None)
    ('inductor', None, 'aot_eager')
    """
    if given is None:
        return backend_of(model) if isinstance(model, nn.Module) else None
    if not isinstance(given, (bool, str)):
        raise FinerCAMError(f"compile={given!r}: expected True, False, a backend of torch.compile, or None")
    return ("inductor" if given else None) if isinstance(given, bool) else given


def backend_of(model: nn.Module) -> Backend | None:
    """The backend with which the owner compiled the model or a part of it, as `torch.compile` takes it; None if not compiled.

    >>> backend_of(nn.Linear(2, 2)) is None
    True
    """
    for module in (model, *model.modules()):
        context = getattr(module, "dynamo_ctx", None)  # of torch.compile(model)
        compiled = getattr(module, "_compiled_call_impl", None)  # of model.compile()
        if context is None and compiled is None:
            continue
        cells = [cell.cell_contents for cell in getattr(compiled, "__closure__", None) or ()]
        for callback in [getattr(one, "callback", None) for one in (context, *cells)]:
            if callable(callback):
                from torch._dynamo.eval_frame import innermost_backend

                return innermost_backend(callback)
        return "inductor"
    return None


def _pieces(recording: Recording, cuts: Sequence[str]) -> list[tuple[Recording, tuple[str, ...]]]:
    """The recording cut after each of the named nodes, and what each piece gives."""
    graph = recording.graph
    names = dict(
        zip(
            [n for n in graph.nodes if n.op == "placeholder"][len(recording.inputs) :],
            recording.constants,
            strict=True,
        )
    )
    nodes = [node for node in graph.nodes if node.op == "call_function"]
    (result,) = next(node for node in graph.nodes if node.op == "output").args
    ends = [at for at, node in enumerate(nodes) if node.name in cuts]
    place = dict.fromkeys(graph.nodes, -1) | {node: sum(at > end for end in ends) for at, node in enumerate(nodes)}
    pieces = []
    for number in range(len(ends) + 1):
        own = [node for node in nodes if place[node] == number]
        used = dict.fromkeys(one for node in own for one in node.all_input_nodes if place[one] < number)
        read, constants = [n for n in used if n not in names], [n for n in used if n in names]
        later = {one for node in nodes if place[node] > number for one in node.all_input_nodes}
        given = [n for n in own if n is not result and (n in later or n.name in cuts)] + [
            n for n in own if n is result
        ]
        piece = Recording(
            _copied(own, [*read, *constants], given), tuple(n.name for n in read), tuple(names[n] for n in constants)
        )
        pieces.append((piece, tuple(n.name for n in given)))
    return pieces


def _copied(own: list[fx.Node], placeholders: list[fx.Node], given: list[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    for node in placeholders:
        made[node] = graph.placeholder(node.name)
        made[node].meta = dict(node.meta)
    for node in own:
        made[node] = graph.node_copy(node, made.__getitem__)
    graph.output(made[given[0]] if len(given) == 1 else tuple(made[one] for one in given))
    return graph


def _part(model: nn.Module, piece: tuple[Recording, tuple[str, ...]], backend: Backend) -> Part:
    recording, gives = piece
    if len(gives) == 1 and not recording.writes:
        recording = without_unread_rows(recording) or recording
    tensors = tuple(tensors_of(model, recording.constants))
    function = torch.compile(_bound(recording, tensors), backend=backend, dynamic=False)
    return Part(function, recording.inputs, gives, recording.constants, tensors)


def _bound(recording: Recording, tensors: Sequence[Tensor]) -> fx.GraphModule:
    """A recorded function that holds the model's own tensors, so that a compiler knows that they stay where they are."""
    root, graph = nn.Module(), fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    held = iter(tensors)
    for number, node in enumerate(recording.graph.nodes):
        if node.op == "placeholder" and number >= len(recording.inputs):
            name, tensor = f"tensor_{number}", next(held)
            (root.register_parameter if isinstance(tensor, nn.Parameter) else root.register_buffer)(name, tensor)  # type: ignore[operator]
            made[node] = graph.create_node("get_attr", name)
        else:
            made[node] = graph.node_copy(node, made.__getitem__)
    return fx.GraphModule(root, graph)
