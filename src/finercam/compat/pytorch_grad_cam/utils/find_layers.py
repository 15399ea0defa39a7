"""Layers of a model by type or test, under pytorch-grad-cam's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn

__all__ = [
    "find_layer_predicate_recursive",
    "find_layer_types_recursive",
    "replace_all_layer_type_recursive",
    "replace_layer_recursive",
]


def find_layer_predicate_recursive(model: nn.Module, predicate: Callable[[nn.Module], bool]) -> list[nn.Module]:
    """All layers inside the model for which the test holds, outer ones first."""
    return [layer for layer in model.modules() if layer is not model and predicate(layer)]


def find_layer_types_recursive(model: nn.Module, layer_types: Sequence[type]) -> list[nn.Module]:
    """All layers of exactly these types.

    >>> find_layer_types_recursive(nn.Sequential(nn.ReLU(), nn.Flatten()), [nn.ReLU])
    [ReLU()]
    """
    return find_layer_predicate_recursive(model, lambda layer: type(layer) in layer_types)


def replace_layer_recursive(model: nn.Module, old_layer: nn.Module, new_layer: nn.Module) -> bool:
    """Put a new layer in the old one's place; False where the old one is not found."""
    for parent in model.modules():
        for name, layer in parent._modules.items():
            if layer is old_layer:
                parent._modules[name] = new_layer
                return True
    return False


def replace_all_layer_type_recursive(model: nn.Module, old_layer_type: type, new_layer: nn.Module) -> None:
    """Put a new layer in the place of every layer of a type."""
    for parent in list(model.modules()):
        for name, layer in parent._modules.items():
            if isinstance(layer, old_layer_type):
                parent._modules[name] = new_layer
