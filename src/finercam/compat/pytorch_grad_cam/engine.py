"""From a call in pytorch-grad-cam's terms to finercam's evidence, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from finercam.classifier import Classifier
from finercam.compat.pytorch_grad_cam.questions import Questions
from finercam.core.capture import guest
from finercam.core.contrast import Contrast
from finercam.core.grid import Layout
from finercam.errors import FinerCAMError
from finercam.io import one_line
from finercam.methods import Method

__all__ = ["Reshape", "activations_alone", "evidence"]

Reshape = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Reshaped(Layout):
    """A layout that the caller's `reshape_transform` reads."""

    transform: Reshape | None = None

    def to_maps(self, x: Tensor) -> Tensor:
        assert self.transform is not None
        return self.transform(x)


class LayeredClassifier(Classifier):
    """A classifier whose layers are read by the caller's `reshape_transform`, where one is given."""

    transform: Reshape | None = None

    def _find_layout(self, activation: Tensor, images: Tensor, module: nn.Module) -> Layout:
        if self.transform is None:
            return super()._find_layout(activation, images, module)
        return _read_layout(activation.detach(), len(images), self.transform)


def evidence(
    model: nn.Module,
    layers: Sequence[nn.Module],
    transform: Reshape | None,
    method: Method,
    images: Tensor,
    questions: Questions,
) -> list[tuple[Tensor, Tensor]]:
    """For each layer the activations `(N, C, h, w)` and the gradients of each image's own target.

    Raises FinerCAMError for images, layers and targets that cannot be used.
    """
    classifier = LayeredClassifier(model, list(layers), questions.scores)
    classifier.transform = transform
    source = classifier.capture(classifier.prepared(images))
    count = len(images)
    plain = Contrast(torch.zeros(count).long(), torch.empty(count, 0).long(), torch.zeros(count).double())
    return method.gather(source, plain, torch.ones(count, 1, 1).double()).contrasted(plain)


def activations_alone(
    model: nn.Module, layers: Sequence[nn.Module], transform: Reshape | None, images: Tensor
) -> tuple[list[Tensor], Any]:
    """Each layer's activations `(N, C, h, w)`, and the model's output, which may be of any kind."""
    classifier = LayeredClassifier(model, list(layers))
    classifier.transform = transform
    images = classifier.prepared(images)
    kept: dict[nn.Module, Tensor] = {}

    def keep(module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            kept[module] = classifier._find_layout(output, images, module).to_maps(output).clone()
        elif transform is not None:
            kept[module] = transform(output)
        else:
            raise FinerCAMError(
                f"a target layer returned a {type(output).__name__}; give a reshape_transform that reads it"
            )

    with guest(classifier.model), torch.no_grad(), ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(keep).remove)
        try:
            output = classifier.model(images)
        except (RuntimeError, ValueError) as error:
            raise FinerCAMError(
                f"the model could not run on images of shape {tuple(images.shape)}: {one_line(error)}"
            ) from error
    if any(layer not in kept for layer in layers):
        raise FinerCAMError("a target layer did not run in the forward pass; name layers that do")
    return [kept[layer] for layer in layers], output


def _read_layout(activation: Tensor, count: int, transform: Reshape) -> Reshaped:
    """The layout by trial: where the transform puts the last axis, and how many tokens it leaves out."""
    try:
        maps = transform(activation)
    except Exception as error:
        raise FinerCAMError(
            f"reshape_transform failed on a layer's output of shape {tuple(activation.shape)}: {one_line(error)}"
        ) from error
    if not isinstance(maps, Tensor) or maps.ndim not in (4, 5):
        raise FinerCAMError(f"reshape_transform gave {_shape(maps)}; expected maps (N, C, h, w)")
    grid: Any = tuple(maps.shape[2:])
    if activation.ndim == 3:
        kind: Literal["tokens", "tokens-first"] = "tokens-first" if activation.shape[0] != count else "tokens"
        length = activation.shape[0 if kind == "tokens-first" else 1]
        return Reshaped(kind, grid, max(0, length - grid[0] * grid[1]), transform)
    mark = torch.zeros_like(activation)
    mark[..., 0] = 1  # one channel if channels are last, else one column
    return Reshaped("nhwc" if bool((transform(mark)[:, 0] == 1).all()) else "nchw", grid, 0, transform)


def _shape(value: Any) -> str:
    return f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
