"""Token layers: where the relevance of a vision transformer is fine, chosen by measurement (docs/fine.md)."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core.capture import INPUT, guest
from finercam.core.grid import Layout, find_layout
from finercam.errors import FinerCAMError

__all__ = ["TOKENS", "find_token_layers"]

TOKENS = "tokens"
"""The layer specification that stands for these layers."""
NamedLayer = tuple[str, nn.Module]


def find_token_layers(model: nn.Module, last: NamedLayer, images: Tensor) -> tuple[NamedLayer, ...]:
    """The pixels, the embedding of the patches and, where the tokens have a CLS or register token, `last`.

    `last` is the target layer, the normalisation before the last attention: with a CLS token it says which patches the
    class is read from, while patches that are averaged carry their surroundings by then. The embedding is the first
    layer that has the grid of `last`. Runs the model on one image; raises FinerCAMError if `last` gives no tokens.
    """
    outputs = _outputs(model, images[:1])
    at_last = next((layout for name, _, layout in outputs if name == last[0]), None)
    if at_last is None or not at_last.kind.startswith("tokens"):
        raise FinerCAMError(
            f"layer='tokens': {last[0]!r} of {type(model).__name__} gives no tokens; layer=None finds a layer of maps"
        )
    patches = [(name, module) for name, module, layout in outputs if layout.grid == at_last.grid]
    embedding = [layer for layer in patches[:1] if layer[0] != last[0]]
    return ((INPUT, model), *embedding, *([last] if at_last.prefix else []))


def _outputs(model: nn.Module, image: Tensor) -> list[tuple[str, nn.Module, Layout]]:
    """The modules that ran once and gave maps or tokens, in the order they ended."""
    seen: dict[nn.Module, int] = {}
    found: list[tuple[str, nn.Module, Layout]] = []

    def note(name: str, module: nn.Module, output: Any) -> None:
        seen[module] = seen.get(module, 0) + 1
        if isinstance(output, Tensor):
            try:
                found.append((name, module, find_layout(output.shape, image.shape, model, layer=module)))
            except FinerCAMError:
                return

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                hook = module.register_forward_hook(lambda m, _inputs, output, name=name: note(name, m, output))
                stack.callback(hook.remove)
        stack.enter_context(guest(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        model(image)
    return [(name, module, layout) for name, module, layout in found if seen[module] == 1]
