"""What a model does after its layer, recorded while it runs, so that this part can run alone."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

__all__ = ["Recorder", "Recording"]

_DEPENDS_ON_DATA = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


@dataclass(frozen=True)
class Recording:
    """A graph of ATen operations; its placeholders are the `inputs`, then the model's tensors `constants` by name.

    Every node's `meta["shape"]` is the shape of what it gave. The graph holds for inputs of the recorded shapes.
    """

    graph: fx.Graph
    inputs: tuple[str, ...]
    constants: tuple[str, ...]

    @property
    def writes(self) -> bool:
        """Whether an operation writes in place."""
        return any(
            isinstance(n.target, torch._ops.OpOverload) and n.target._schema.is_mutable for n in self.graph.nodes
        )

    def compiled(self) -> Callable[..., Tensor]:
        """The graph as a function of the inputs and constants, in this order."""
        return fx.GraphModule(nn.Module(), self.graph)


class Recorder(TorchDispatchMode):
    """Records the operations of a model from `begin` on; before, it only looks for numbers read out of tensors.

    What comes out is complete, or there is nothing: `finish` gives None if an operation reads a tensor that is neither
    an input, nor a parameter, a buffer or an attribute of the model, nor the result of a recorded operation; if a
    number was read out of a tensor, which may depend on the images; or if random numbers were drawn.

    >>> layer = nn.Linear(3, 2).requires_grad_(False)
    >>> recorder, x = Recorder(layer), torch.ones(1, 3)
    >>> with recorder:
    ...     recorder.begin(x=x)
    ...     y = layer(x)
    >>> recording = recorder.finish(y)
    >>> recording.inputs, recording.constants
    (('x',), ('weight', 'bias'))
    >>> torch.equal(recording.compiled()(2 * x, layer.weight, layer.bias), layer(2 * x))
    True
    """

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """PyTorch would import its compiler, which takes seconds, to keep it out of this class."""
        return False

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.graph = fx.Graph()
        self.model = model
        self.refused = ""
        """Why there is no recording."""
        self.begun = False
        self._inputs: tuple[str, ...] = ()
        self._nodes = WeakTensorKeyDictionary()
        self._names: Mapping[int, str] = {}
        self._constants: dict[str, fx.Node] = {}

    def begin(self, **inputs: Tensor) -> None:
        """Record from here on, as a function of the inputs."""
        self.refused = self.refused or ("it began twice" if self.begun else "")
        self.begun, self._inputs = True, tuple(inputs)
        self._names = {id(tensor): name for name, tensor in _tensors_of(self.model)}
        for name, tensor in inputs.items():
            self._nodes[tensor] = self._placeholder(name, tensor)

    def finish(self, output: Tensor) -> Recording | None:
        """The recording with `output` as its result, or None where it would not be complete."""
        if self.refused or output not in self._nodes:
            return None
        self.graph.output(self._nodes[output])
        inputs = [node for node in self.graph.nodes if node.op == "placeholder"][: len(self._inputs)]
        for node in inputs:
            if not node.users:
                self.graph.erase_node(node)
        read = tuple(name for name, node in zip(self._inputs, inputs, strict=True) if node.users)
        return Recording(self.graph, read, tuple(self._constants))

    def name_of(self, tensor: Tensor) -> str:
        """The name of the node that gave a tensor; empty where it was not recorded."""
        return self._nodes[tensor].name if tensor in self._nodes else ""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if any(tag in func.tags for tag in _DEPENDS_ON_DATA):
            self.refused = f"{func} depends on the values of a tensor"
        elif _draws(func, args, kwargs or {}):
            self.refused = f"{func} draws random numbers"
        if self.begun and not self.refused:
            self._note(func, args, kwargs or {}, result)
        return result

    def _note(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        args, kwargs = tree_map_only(Tensor, self._node_of, (args, kwargs))
        if self.refused:
            return
        node = self.graph.call_function(func, args, kwargs)
        if isinstance(result, Tensor):
            self._keep(node, result)
        elif isinstance(result, (tuple, list)):
            for at, one in enumerate(result):
                if isinstance(one, Tensor):
                    self._keep(self.graph.call_function(operator.getitem, (node, at)), one)

    def _keep(self, node: fx.Node, result: Tensor) -> None:
        node.meta["shape"] = tuple(result.shape)
        self._nodes[result] = node

    def _node_of(self, tensor: Tensor) -> fx.Node | None:
        if tensor in self._nodes:
            return self._nodes[tensor]
        name = self._names.get(id(tensor))
        if name is None:
            self.refused = f"a tensor of shape {tuple(tensor.shape)} comes from outside the model"
            return None
        if name not in self._constants:
            self._constants[name] = self._placeholder(f"constant_{len(self._constants)}", tensor)
        return self._constants[name]

    def _placeholder(self, name: str, tensor: Tensor) -> fx.Node:
        """A new placeholder, after those before it and before all operations."""
        before = [node for node in self.graph.nodes if node.op == "placeholder"]
        with self.graph.inserting_after(before[-1]) if before else nullcontext():
            node = self.graph.placeholder(name)
        node.meta["shape"] = tuple(tensor.shape)
        return node


def _draws(func: Any, args: Any, kwargs: Any) -> bool:
    """Whether an operation draws random numbers; attentions do only with dropout."""
    if torch.Tag.nondeterministic_seeded not in func.tags:
        return False
    names = [argument.name for argument in func._schema.arguments]
    return "dropout_p" not in names or {**dict(zip(names, args, strict=False)), **kwargs}.get("dropout_p", 0) != 0


def _tensors_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters, buffers and other tensors that the modules hold, each by its dotted name."""
    found = []
    for path, module in model.named_modules():
        own = {**module._parameters, **module._buffers, **vars(module)}
        found += [(f"{path}.{name}".lstrip("."), one) for name, one in own.items() if isinstance(one, Tensor)]
    return found
