"""The same model with its batch normalisations folded into the convolutions before them: fewer passes over memory."""

from __future__ import annotations

import copy
import threading
from typing import Any

import torch
from torch import Tensor, fx, nn

__all__ = ["folded"]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CLOSE = 1e-4
"""How far the folded model's outputs may lie from the model's own, as a share of the largest of them."""


def folded(model: nn.Module, images: Tensor, logits: Tensor) -> nn.Module | None:
    """A stand-in for `model` in eval mode that runs faster and shares its weights; None where there is none.

    There is none if nothing can be folded, if the model cannot be traced or has hooks, or if the
    stand-in's output for `images (N, 3, H, W)` is not the known `logits (N, K)` up to rounding. The model itself is
    not touched: a copy is traced that shares its tensors.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).eval()
    >>> images = torch.rand(1, 3, 4, 4)
    >>> faster = folded(model, images, model(images))
    >>> [type(module).__name__ for module in faster.children()]
    ['Conv2d', 'Flatten', 'Linear']
    """
    logits = logits.detach()
    if any(module._forward_hooks or module._forward_pre_hooks for module in model.modules()):
        return None
    try:
        with torch.inference_mode(False), torch.no_grad():
            found = _folded(_copied(model).eval())
            if found is None:
                return None
            output = found(images)
    except Exception:  # a model may fail in any way under tracing, and can still run unchanged
        return None
    if not isinstance(output, Tensor) or output.shape != logits.shape:
        return None
    largest = float(logits.abs().amax())
    return found if float((output - logits).abs().amax()) <= CLOSE * largest else None


class _Tracer(fx.Tracer):
    """A tracer that lets the models of other threads run: torch.fx puts itself before every module of the process."""

    def __init__(self, thread: int) -> None:
        super().__init__()
        self.thread = thread

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        if threading.get_ident() != self.thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        if threading.get_ident() != self.thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


_ONE_TRACE = threading.Lock()
"""Two traces at once would put back each other's changes to all modules."""


def _copied(model: nn.Module) -> nn.Module:
    """A copy of the modules with the same tensors, so that a traced forward writes to the copy only."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})


def _folded(model: nn.Module) -> nn.Module | None:
    with _ONE_TRACE:
        graph = _Tracer(threading.get_ident()).trace(model)
    modules = dict(model.named_modules())
    count = 0
    for node in list(graph.nodes):
        norm, before = modules.get(str(node.target)), node.args[0] if node.args else None
        if node.op != "call_module" or not isinstance(norm, NORMS) or not isinstance(before, fx.Node):
            continue
        convolution = modules.get(str(before.target))
        alone = before.op == "call_module" and len(before.users) == 1  # nobody else sees what it gives
        if not alone or not isinstance(convolution, CONVOLUTIONS) or _calls(graph, before) > 1:
            continue
        if norm.running_mean is None or norm.running_var is None:  # normalises by the batch
            continue
        _exchange(model, str(before.target), nn.utils.fuse_conv_bn_eval(convolution, norm))
        node.replace_all_uses_with(before)
        graph.erase_node(node)
        count += 1
    return fx.GraphModule(model, graph).eval() if count else None


def _calls(graph: fx.Graph, node: fx.Node) -> int:
    return sum(other.op == "call_module" and other.target == node.target for other in graph.nodes)


def _exchange(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
