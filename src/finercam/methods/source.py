"""Where evidence is gathered from: the model, its target layers and the images of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core.capture import INPUT, Capture, capture
from finercam.core.grid import Layout
from finercam.core.logits import Readout
from finercam.core.maps import aligned, places
from finercam.core.pixels import detail
from finercam.core.split import Splits
from finercam.core.tail import Tail, Tails
from finercam.errors import FinerCAMError

__all__ = ["Source"]

CLOSE = 1e-4
"""Largest difference of an averaging head's logits from the model's, as a share of the largest logit."""


@dataclass(frozen=True)
class Source:
    """One run: the model, its target layers, the images `(N, 3, H, W)`, and what was kept."""

    model: nn.Module
    layers: tuple[tuple[str, nn.Module], ...]
    images: Tensor
    readout: Readout
    layouts: tuple[Layout, ...]
    run: Capture
    relevance: bool = False
    """Whether the run's gradients follow the relevance rules."""
    through_relu: bool = False
    """Whether a functional ReLU that follows the layer belongs to it."""
    averaged: Tensor | None = None
    """Rows `(K, C)` of a linear head on the mean of the one layer's maps, where it is known to be one: the gradients
    are then these rows, divided by the places, and need no run backwards."""
    tail: Tail | None = None
    """What follows the one layer of tokens, where it was recorded and can run again by itself."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        layers: tuple[tuple[str, nn.Module], ...],
        images: Tensor,
        readout: Readout,
        layout_of: Callable[[Tensor, Tensor, nn.Module], Layout],
        relevance: bool = False,
        through_relu: bool = False,
        tails: Tails | None = None,
        splits: Splits | None = None,
    ) -> Source:
        tail, run = None, None
        if splits is not None and not relevance:
            run = splits.capture(model, layers, images, readout, through_relu)
        if run is not None:
            pass
        elif tails is None or relevance or len(layers) != 1 or layers[0][0] == INPUT:
            run, tail = capture(model, layers, images, readout, relevance, through_relu), None
        else:
            run, tail = tails.capture(model, layers[0], images, readout, through_relu)
        layouts = tuple(
            _image_layout(images) if name == INPUT else layout_of(activation, images, module)
            for activation, (name, module) in zip(run.activations, layers, strict=True)
        )
        return cls(model, layers, images, readout, layouts, run, relevance, through_relu, tail=tail)

    def under(self, relevance: bool) -> Source:
        """The same source with gradients of the model itself, or by the relevance rules: run again if need be."""
        if self.relevance == relevance:
            return self
        run = capture(self.model, self.layers, self.images, self.readout, relevance, self.through_relu)
        return replace(self, run=run, relevance=relevance)

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
        if self.averaged is not None:
            (activation,) = self.activations
            asked = (
                directions.any(dim=(0, 1)).nonzero().flatten()
            )  # of a large head only the rows that count are read
            alpha = directions[..., asked].to(self.averaged) @ self.averaged[asked.to(self.averaged.device)]
            alpha = alpha / activation[0, 0].numel()
            return (aligned(alpha, activation[None]).expand(-1, -1, -1, *activation.shape[2:]),)
        raw = self.run.gradients(directions)
        found = [self.to_maps(gradient) for gradient in raw]
        self._check_patches_reach_the_logits(raw, found)
        return tuple(_stacked(of_layer) for of_layer in zip(*found, strict=True))

    def _check_patches_reach_the_logits(self, raw: list[tuple[Tensor, ...]], maps: list[tuple[Tensor, ...]]) -> None:
        """Refuse a layer after which only the CLS token is read; its blank map would look like an answer."""
        for at, (layout, name) in enumerate(zip(self.layouts, self.run.layers, strict=True)):
            if layout.prefix and not any(of[at].any() for of in maps) and any(of[at].any() for of in raw):
                raise FinerCAMError(
                    f"layer {name!r}: its patches do not reach the logits, which read the CLS token only from there on; "
                    "choose an earlier layer, or leave layer= out to find one"
                )

    def shares(self, directions: Tensor) -> tuple[Tensor, ...]:
        """For each layer gradient times activation summed over channels, of M directions: `(N, M, h, w)`.

        One direction after another, so that the gradients of one alone are in memory.
        """
        activations = tuple(_wide(activation) for activation in self.activations)
        maps: list[list[Tensor]] = []
        with torch.autocast(self.logits.device.type, enabled=False), torch.no_grad():
            if self.averaged is not None:
                (alpha,) = self.gradients(directions)
                rows = alpha.flatten(3)[..., 0].to(activations[0])
                return (torch.einsum("nmc,nc...->nm...", rows, activations[0]),)
            for at in range(directions.shape[1]):
                (raw,) = self.run.gradients(directions[:, at : at + 1], retain=at + 1 < directions.shape[1])
                found = self.to_maps(raw)
                self._check_patches_reach_the_logits([raw], [found])
                layers = zip(self.layers, activations, found, strict=True)
                maps.append([_share(name == INPUT, a, _wide(gradient)) for (name, _), a, gradient in layers])
        return tuple(torch.stack(of_layer, 1) for of_layer in zip(*maps, strict=True))

    def averaging(self, head: tuple[Tensor, Tensor | None] | None) -> Tensor | None:
        """The head's rows if it computes the logits from the mean of the one layer's maps, else None."""
        if head is None or len(self.layers) > 1 or self.layouts[0].kind not in ("nchw", "nhwc"):
            return None
        (activation,), (rows, bias) = self.activations, head
        same = activation.dtype == rows.dtype == self.logits.dtype and activation.device == rows.device
        if not same or activation.dtype not in (torch.float32, torch.float64) or rows.shape[1] != activation.shape[1]:
            return None
        with torch.no_grad(), torch.autocast(rows.device.type, enabled=False):
            logits = torch.nn.functional.linear(activation.mean(dim=places(activation, 2)), rows, bias)
        return rows if float((logits - self.logits).abs().amax()) <= CLOSE * float(self.logits.abs().amax()) else None

    def gradients_match(self, rows: Tensor) -> bool:
        """Whether the model's own gradients are those of an averaging head with these rows; the graph is kept."""
        random = torch.Generator().manual_seed(0)
        direction = torch.randn(self.logits.shape, generator=random, dtype=torch.float64)[:, None]
        ((own,),) = self.run.gradients(direction, batched=False, retain=True)
        (mine,) = replace(self, averaged=rows).gradients(direction)
        difference = self.layouts[0].to_maps(own) - mine[:, 0]
        return float(difference.abs().amax()) <= CLOSE * float(mine.abs().amax())

    def channels(self, layer: int, raw: Tensor) -> Any:
        """The index of a channel axis in the layer's own layout."""
        return 1 if self.layouts[layer].kind == "nchw" else raw.ndim - 1


def _image_layout(images: Tensor) -> Layout:
    return Layout("nchw", tuple(images.shape[2:]))


def _share(pixels: bool, activation: Tensor, gradient: Tensor) -> Tensor:
    """What each place adds, `(N, h, w)`; pixels count by their difference from a blurred image."""
    if pixels:
        activation = detail(activation)
    return (activation * gradient).sum(1)


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _stacked(gradients: tuple[Tensor, ...]) -> Tensor:
    """M gradients `(N, C, h, w)` as `(N, M, C, h, w)`: an expanded view where each is the same at all places.

    This is so before mean pooling, in most CNNs. The evidence is then h * w times smaller and faster to combine.
    """
    first, last = (((..., *(at,) * (gradients[0].ndim - 2))) for at in (slice(1), slice(-1, None)))
    corners = tuple(gradient[first] for gradient in gradients)
    far = tuple(gradient[last] for gradient in gradients)  # a quick test that decides most other cases
    if not all(map(torch.equal, corners, far)) or not all(
        torch.equal(gradient, corner.expand_as(gradient)) for gradient, corner in zip(gradients, corners, strict=True)
    ):
        return torch.stack(gradients, dim=1)
    return torch.stack(corners, dim=1).expand(-1, -1, -1, *gradients[0].shape[2:])
