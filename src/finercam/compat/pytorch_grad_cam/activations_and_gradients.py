"""Activations and gradients of layers around the caller's own run of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

__all__ = ["ActivationsAndGradients"]


class ActivationsAndGradients:
    """Run a model, and keep what `target_layers` gave, and after a backward pass of the caller's their gradients.

    `activations` and `gradients` are lists in the order of the layers' runs, on the CPU, or as they are with
    `detach=False`. Hooks are on the model only while it runs, so that nothing has to be released.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        detach: bool = True,
    ) -> None:
        self.model, self.target_layers, self.detach = model, list(target_layers), detach
        self.reshape_transform = reshape_transform
        self.activations: list[Tensor] = []
        self.gradients: list[Tensor] = []

    def __call__(self, x: Any) -> Any:
        self.clear()
        with ExitStack() as stack:
            for layer in self.target_layers:
                stack.callback(layer.register_forward_hook(self._keep).remove)
            return self.model(x)

    def clear(self) -> None:
        """Forget what was kept."""
        self.activations, self.gradients = [], []

    def release(self) -> None:
        """Forget what was kept; there is no hook to take off."""
        self.clear()

    def _keep(self, _module: nn.Module, _inputs: Any, output: Any) -> None:
        # A copy, because the next layer may write in place.
        self.activations.append(self._read(output).detach().cpu().clone() if self.detach else output)
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(lambda gradient: self._keep_gradient(gradient))

    def _keep_gradient(self, gradient: Tensor) -> None:
        self.gradients.insert(0, self._read(gradient).detach().cpu() if self.detach else gradient)

    def _read(self, output: Any) -> Tensor:
        return output if self.reshape_transform is None else self.reshape_transform(output)
