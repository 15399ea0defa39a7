"""What must be equal before and after: the caller's model, and the state of the process that it runs in."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Snapshot", "disturb", "tripwire"]

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_state_dict_hooks")


class Snapshot:
    """State of a model and of the process; `changes()` names what is no longer as it was."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.tensors = {name: (t, t.detach().clone(), t._version) for name, t in self._tensors()}
        self.grads = {
            name: None if p.grad is None else (p.grad, p.grad.clone()) for name, p in model.named_parameters()
        }
        self.modules = self._modules()
        self.process = self._process()

    def changes(self) -> list[str]:
        found = [f"process: {name}" for name, value in self._process().items() if value != self.process[name]]
        modules = self._modules()
        if modules.keys() != self.modules.keys():
            return [*found, "the set of modules"]
        found += [
            f"{at}: {what}" for at in modules for what in modules[at] if modules[at][what] != self.modules[at][what]
        ]
        for name, tensor in self._tensors():
            same, value, _ = self.tensors.get(name, (None, None, 0))
            if tensor is not same:
                found.append(f"{name}: another tensor")
            elif value is not None and not torch.equal(tensor, value):
                found.append(f"{name}: values")
        for name, parameter in self.model.named_parameters():
            before = self.grads[name]
            if before is None and parameter.grad is not None:
                found.append(f"{name}: a .grad")
            elif before is not None and (parameter.grad is not before[0] or not torch.equal(*before)):
                found.append(f"{name}: .grad")
        return found

    def _tensors(self) -> list[tuple[str, Tensor]]:
        return [*self.model.named_parameters(), *self.model.named_buffers()]

    def _modules(self) -> dict[str, dict[str, Any]]:
        return {
            name: {
                "training": module.training,
                "requires_grad": [p.requires_grad for p in module.parameters(recurse=False)],
                "hooks": [list(getattr(module, kind, {})) for kind in HOOKS],
                "attributes": sorted(module.__dict__),
            }
            for name, module in self.model.named_modules()
        }

    def _process(self) -> dict[str, Any]:
        return {
            "torch random numbers": hash(bytes(torch.get_rng_state().numpy())),
            "numpy random numbers": hash(np.random.get_state()[1].tobytes()),  # type: ignore[index, union-attr]  # noqa: NPY002
            "random": hash(random.getstate()),
            "grad mode": torch.is_grad_enabled(),
            "inference mode": torch.is_inference_mode_enabled(),
            "threads": torch.get_num_threads(),
            "dtype": torch.get_default_dtype(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "function modes": len(torch.overrides._get_current_function_mode_stack()),
            "fused attention": torch.backends.cuda.flash_sdp_enabled()
            and torch.backends.cuda.mem_efficient_sdp_enabled(),
        }


def disturb(draw: random.Random, model: nn.Module) -> None:
    """A guest in some odd state: part of it frozen, part in another mode, gradients and a hook of its own."""
    if draw.random() < 0.4:
        for parameter in model.parameters():
            parameter.requires_grad_(draw.random() < 0.5)
    if draw.random() < 0.3:
        for module in model.modules():
            module.training = draw.random() < 0.5
    if draw.random() < 0.3:
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter) if draw.random() < 0.5 else None
    if draw.random() < 0.1:
        model.register_forward_hook(_observe)


def tripwire(draw: random.Random, model: nn.Module, error: type[BaseException]) -> Callable[[], None]:
    """Let a random module raise at a random call, before or after it runs; gives what takes the wire away."""
    module = draw.choice(list(model.modules()))
    left = draw.choice([1, 1, 2, 3, 5, 9])

    def trip(*_: Any) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise error("injected")

    register = module.register_forward_pre_hook if draw.random() < 0.5 else module.register_forward_hook
    return register(trip).remove


def _observe(_module: nn.Module, _inputs: Any, _output: Any) -> None:
    """A hook that only looks."""
