"""Token layers: where the relevance of a vision transformer is fine, chosen by measurement (docs/fine.md)."""

from __future__ import annotations

from torch import Tensor, nn

from finercam.core.capture import INPUT
from finercam.core.stages import cuts, outputs_of
from finercam.errors import FinerCAMError

__all__ = ["TOKENS", "find_token_layers"]

TOKENS = "tokens"
"""The layer specification that stands for these layers."""
NamedLayer = tuple[str, nn.Module]


def find_token_layers(model: nn.Module, last: NamedLayer, images: Tensor) -> tuple[NamedLayer, ...]:
    """The pixels, the embedding of the patches and, where the tokens have a CLS or register token, the tokens two
    thirds through the model and `last`.

    `last` is the target layer, the normalisation before the last attention: with a CLS token it says which patches the
    class is read from, while patches that are averaged carry their surroundings by then. The embedding is the first
    layer that has the grid of `last`. Runs the model on one image; raises FinerCAMError if `last` gives no tokens.
    """
    outputs, logits = outputs_of(model, images)
    at_last = next((output for output in outputs if output.module is last[1]), None)
    if at_last is None or logits is None or not at_last.layout.kind.startswith("tokens"):
        raise FinerCAMError(
            f"layer='tokens': {last[0]!r} of {type(model).__name__} gives no tokens; layer=None finds a layer of maps"
        )
    before = outputs[: outputs.index(at_last)]
    patches = [output for output in before if output.layout.grid == at_last.layout.grid]
    embedding = [(output.name, output.module) for output in patches[:1]]
    if not at_last.layout.prefix:
        return ((INPUT, model), *embedding)
    passed = cuts(logits.grad_fn)
    stream = {output.node: (output.name, output.module) for output in patches[1:] if output.node in passed}
    middle = list(stream.values())[len(stream) * 2 // 3 :][:1]
    return ((INPUT, model), *embedding, *middle, last)
