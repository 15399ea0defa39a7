"""Stages: one layer for each resolution of a model, found in the graph of one run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core.capture import guest
from finercam.core.grid import Layout, find_layout, tensors_of
from finercam.core.layers import is_no_op
from finercam.errors import FinerCAMError

__all__ = ["Output", "Stages", "cuts", "find_stages", "outputs_of", "stage_count"]

USUAL_COUNT = 3
"""Stages that `layer="stages"` takes: chosen by measurement, see docs/fine.md."""
_ACTIVATIONS = ("relu", "hardtanh", "silu", "swish", "gelu", "elu", "mish", "softplus")  # hardtanh is ReLU6
NamedLayer = tuple[str, nn.Module]


@dataclass(frozen=True)
class Output:
    """What one module gave: its node in the graph, and how it is read as feature maps."""

    name: str
    module: nn.Module
    node: Any
    layout: Layout
    channels: int

    @property
    def cells(self) -> int:
        return math.prod(self.layout.grid)

    @property
    def is_activated(self) -> bool:
        """Whether the last thing that happened to the output was an activation function."""
        kind = type(self.node).__name__.lower()
        return any(word in kind for word in _ACTIVATIONS)


@dataclass(frozen=True)
class Stages:
    """Target layers of a model's resolutions, finest first; `tokens` says that there is one grid, of tokens."""

    layers: tuple[NamedLayer, ...]
    tokens: bool = False

    def coarsest(self, count: int) -> tuple[NamedLayer, ...]:
        """The `count` coarsest ones, or all where there are fewer."""
        return self.layers[-count:]


def stage_count(layer: Any) -> int | None:
    """How many stages a layer specification wants: "stages" 3, "stages:2" two; None where it names layers.

    >>> stage_count("stages"), stage_count(["stages:2"]), stage_count("layer4")
    (3, 2, None)
    """
    if isinstance(layer, (list, tuple)) and len(layer) == 1:
        layer = layer[0]
    if not isinstance(layer, str) or layer.partition(":")[0] != "stages":
        return None
    count = layer.partition(":")[2] or str(USUAL_COUNT)
    if not count.isdigit() or int(count) < 1:
        raise FinerCAMError(f"layer={layer!r}: expected 'stages', or 'stages:2' for the two coarsest")
    return int(count)


def find_stages(model: nn.Module, last: NamedLayer, images: Tensor) -> Stages:
    """One target layer of each resolution; `last` is the target layer of the coarsest.

    One run of one sample with a graph decides. A layer qualifies where everything the logits know of the image passes
    through it, so that no skip connection leads around it. Of a resolution's layers the one with most channels among
    those that end in an activation function is taken (the expanded output of a MobileNet's block, the output of a
    ResNet's stage), or the latest layer where none does (ConvNeXt, Swin). Models with one resolution, such as plain
    vision transformers, have the one stage `last`; so have those that cannot be run with a graph.

    >>> cnn = nn.Sequential(
    ...     nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 8, 3, 2), nn.ReLU(),
    ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    ... )
    >>> [name for name, _ in find_stages(cnn, ("3", cnn[3]), torch.zeros(1, 3, 32, 32)).layers]
    ['1', '3']
    """
    try:
        outputs, logits = outputs_of(model, images)
    except RuntimeError:  # such as weights made in inference mode; whatever else is wrong, the capture will say
        return Stages((last,))
    at_last = next((output for output in outputs if output.module is last[1]), None)
    if logits is None or logits.grad_fn is None or at_last is None:
        return Stages((last,))
    passed = cuts(logits.grad_fn)
    before = outputs[: outputs.index(at_last)]
    finer = [output for output in before if output.node in passed and output.cells > at_last.cells]
    grids = sorted({output.layout.grid for output in finer}, key=math.prod, reverse=True)
    chosen = [_best([output for output in finer if output.layout.grid == grid]) for grid in grids]
    layers = (*((output.name, output.module) for output in chosen), last)
    return Stages(layers, tokens=len(layers) == 1 and at_last.layout.kind.startswith("tokens"))


def _best(outputs: Sequence[Output]) -> Output:
    activated = [output for output in outputs if output.is_activated]
    if not activated:
        return outputs[-1]
    most = max(output.channels for output in activated)
    return [output for output in activated if output.channels == most][-1]


def outputs_of(model: nn.Module, images: Tensor) -> tuple[list[Output], Tensor | None]:
    """Outputs of the modules that ran once, as feature maps, in the order they ended; and the logits."""
    calls: dict[int, int] = {}
    seen: list[tuple[str, nn.Module, Tensor, Any]] = []  # the tensors stay alive, and their nodes with them

    def hook(name: str) -> Callable[..., None]:
        def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
            calls[id(module)] = calls.get(id(module), 0) + 1
            found = _maps_of(output)
            if name and found is not None and found.grad_fn is not None and not is_no_op(module):
                seen.append((name, module, found, found.grad_fn))

        return keep

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_hook(hook(name)).remove)
        stack.enter_context(guest(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        sample = images[:1].detach().clone().requires_grad_()
        logits = next((t for t in tensors_of(model(sample)) if t.ndim == 2), None)
    outputs = []
    for name, module, output, node in seen:
        if calls[id(module)] > 1:
            continue
        try:
            layout = find_layout(output.shape, sample.shape, model, layer=module)
        except FinerCAMError:
            continue
        if max(layout.grid) > 1:
            outputs.append(Output(name, module, node, layout, layout.to_maps(output).shape[1]))
    return outputs, logits


def _maps_of(output: Any) -> Tensor | None:
    """The tensor that a capture takes out of a module's output."""
    values = output if isinstance(output, (tuple, list)) else (output,)
    return next((value for value in values if isinstance(value, Tensor) and value.ndim >= 3), None)


def cuts(root: Any) -> set[Any]:
    """Nodes of the graph that every path from `root` to the image passes.

    Walked in topological order; a node is a cut where nothing else is open when its turn comes.
    """
    waiting: dict[Any, int] = {}
    stack = [root]
    known = {root}
    while stack:
        for parent, _ in stack.pop().next_functions:
            if parent is not None:
                waiting[parent] = waiting.get(parent, 0) + 1
                if parent not in known:
                    known.add(parent)
                    stack.append(parent)
    found, ready, is_open = set(), [root], {root}
    while ready:
        node = ready.pop()
        if len(is_open) == 1:
            found.add(node)
        is_open.discard(node)
        for parent, _ in node.next_functions:
            if parent is not None:
                is_open.add(parent)
                waiting[parent] -= 1
                if waiting[parent] == 0:
                    ready.append(parent)
    return found
