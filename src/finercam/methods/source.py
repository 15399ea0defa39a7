"""Where evidence is gathered from: the model, its target layers and the images of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finercam.capture import Capture, Scores, capture
from finercam.grid import Layout

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """One run: what the model is, where it is looked at, on which images `(N, 3, H, W)`, and what it kept."""

    model: nn.Module
    layers: tuple[tuple[str, nn.Module], ...]
    images: Tensor
    scores: Scores | None
    layouts: tuple[Layout, ...]
    run: Capture

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: tuple[tuple[str, nn.Module], ...],
        images: Tensor,
        scores: Scores | None,
        layout_of: Callable[[Tensor, Tensor, nn.Module], Layout],
    ) -> Source:
        run = capture(model, layers, images, scores)
        layouts = tuple(layout_of(a, images, module) for a, (_, module) in zip(run.activations, layers, strict=True))
        return cls(model, layers, images, scores, layouts, run)

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """Feature maps of each layer, `(N, C, h, w)`."""
        return self.to_maps(tuple(activation.detach() for activation in self.run.activations))

    @property
    def logits(self) -> Tensor:
        return self.run.logits.detach()

    def to_maps(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(layout.to_maps(x) for layout, x in zip(self.layouts, tensors, strict=True))

    def gradients(self, directions: Tensor) -> tuple[Tensor, ...]:
        """For each layer the gradients of M directions `(N, M, K)`: `(N, M, C, h, w)`."""
        found = [self.to_maps(gradient) for gradient in self.run.gradients(directions)]
        return tuple(_stacked(of_layer) for of_layer in zip(*found, strict=True))

    def channels(self, layer: int, raw: Tensor) -> Any:
        """The index of a channel axis in the layer's own layout."""
        return 1 if self.layouts[layer].kind == "nchw" else raw.ndim - 1


def _stacked(gradients: tuple[Tensor, ...]) -> Tensor:
    """M gradients `(N, C, h, w)` as `(N, M, C, h, w)`: an expanded view where each is the same at all places.

    So it is before mean pooling, in most CNNs; the evidence is then h * w times smaller and as much sooner combined.
    """
    corners = tuple(gradient[..., :1, :1] for gradient in gradients)
    far = tuple(gradient[..., -1:, -1:] for gradient in gradients)  # settles most other cases at a glance
    if not all(map(torch.equal, corners, far)) or not all(
        torch.equal(gradient, corner.expand_as(gradient)) for gradient, corner in zip(gradients, corners, strict=True)
    ):
        return torch.stack(gradients, dim=1)
    return torch.stack(corners, dim=1).expand(-1, -1, -1, *gradients[0].shape[2:])
