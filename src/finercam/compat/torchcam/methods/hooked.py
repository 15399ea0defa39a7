"""A caller's own forward pass in the form in which methods read a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core.capture import Capture
from finercam.core.grid import Layout, find_layout
from finercam.core.logits import Readout
from finercam.errors import FinerCAMError

__all__ = ["NoGraph", "Retained", "WrongType", "layout_of", "target_readout"]


class WrongType(FinerCAMError, TypeError):
    """A value of the wrong type, for which torch-cam raises a TypeError."""


class NoGraph(FinerCAMError, RuntimeError):
    """The scores have no way back to a layer, for which torch-cam raises a RuntimeError."""


@dataclass(frozen=True)
class Retained(Capture):
    """A capture whose graph belongs to the caller: it outlives the maps where the caller says so."""

    keep_graph: bool = False

    def gradients(
        self, directions: Tensor, batched: bool | None = None, retain: bool = False
    ) -> list[tuple[Tensor, ...]]:
        try:
            return super().gradients(directions, batched, retain or self.keep_graph)
        except FinerCAMError as error:
            if "second time" in str(error):
                raise NoGraph(
                    "the pass gave maps already and its graph is gone: run the model again, or ask for the first maps "
                    "with retain_graph=True"
                ) from error
            raise


@dataclass(frozen=True)
class _Reshaped(Layout):
    """A layout given by the caller's own function."""

    transform: Callable[[Tensor], Tensor] | None = None

    def to_maps(self, x: Tensor) -> Tensor:
        assert self.transform is not None
        maps = self.transform(x)
        if not isinstance(maps, Tensor) or maps.ndim < 4:
            raise FinerCAMError(f"reshape_transform gave {tuple(maps.shape)}; expected feature maps (N, C, h, w)")
        return maps


def layout_of(
    output: Tensor, images: Tensor | None, model: nn.Module, layer: nn.Module, transform: Any = None
) -> Layout:
    """How a layer's output is read as feature maps: by the caller's function, or as the input's shape explains it."""
    if transform is not None:
        return _Reshaped("nchw", (), transform=transform)
    if images is None or images.ndim not in (4, 5):
        return Layout("nchw", tuple(output.shape[2:]))
    return find_layout(output.shape, images.shape, model, layer=layer)


def target_readout(targets: Any, count: int) -> Readout:
    """Reads one scalar of each image's output, `(N, 1)`, by the caller's functions: one for all, or one an image."""
    functions = [targets] * count if callable(targets) else targets
    if not isinstance(functions, list) or not all(map(callable, functions)):
        raise WrongType("targets: expected a function of one image's output, or a list with one for each image")
    if len(functions) != count:
        raise FinerCAMError(f"{len(functions)} targets for {count} images; give one for all, or one for each")

    def read(output: Any, samples: Tensor, _view: Any) -> Tensor:
        if not isinstance(output, (Tensor, list)):
            raise WrongType(
                f"targets read a tensor or a list with an entry for each image, not a {type(output).__name__}"
            )
        values = [functions[sample](one) for sample, one in zip(samples.tolist(), output, strict=True)]
        if not all(isinstance(value, Tensor) for value in values):
            raise WrongType("each of the targets must return a tensor, for the gradient to pass")
        if any(value.numel() != 1 for value in values):
            raise FinerCAMError("each of the targets must return a scalar tensor, one number")
        return torch.stack([value.reshape(()) for value in values])[:, None]

    return Readout.of(read)
