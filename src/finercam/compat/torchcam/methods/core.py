"""The extractor: it keeps what target layers give in the caller's forward pass, and makes maps of it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from finercam.compat.torchcam.methods.hooked import NoGraph, Retained, WrongType, layout_of, target_readout
from finercam.core.capture import run_model
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, directions
from finercam.core.grid import Layout
from finercam.core.head import linear_head
from finercam.core.layers import resolve_layers
from finercam.core.logits import Readout
from finercam.core.maps import places, upsample
from finercam.core.references import STRATEGIES
from finercam.errors import FinerCAMError
from finercam.methods import get
from finercam.methods.source import Source
from finercam.question import Question

__all__ = ["Extractor"]

logger = logging.getLogger("finercam.compat.torchcam")

Target = Callable[[Any], Tensor]
Classes = int | str | list[int] | list[list[int]]


class Extractor:
    """Maps of a class from the caller's own forward pass, as torch-cam's extractors give them.

    Args:
        model: any model; hooks stay on its target layers until `remove_hooks`, or to the end of a `with` block.
        target_layer: a module, its dotted name, or a list of either; None finds it with zeros of `input_shape`.
        input_shape: shape of one input `(C, H, W)` or `(C, D, H, W)`, without the batch.
        enable_hooks: whether the hooks listen from the start.
        reshape_transform: makes feature maps `(N, C, h, w)` of a layer's output; None reads tokens and channels-last
            maps by itself.
        gamma: strength of the contrast where a call names rivals in `against=`.
    """

    method = "gradcam"
    rectified = True
    needs_scores = True
    needs_graph = True
    reruns = False

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        input_shape: tuple[int, ...] = (3, 224, 224),
        enable_hooks: bool = True,
        reshape_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        gamma: float = 0.6,
    ) -> None:
        if reshape_transform is not None and not callable(reshape_transform):
            raise WrongType("reshape_transform: expected a function of a layer's output")
        if reshape_transform is not None and target_layer is None:
            raise FinerCAMError("reshape_transform fits one layer: name it with target_layer=")
        self.model, self.gamma, self.reshape_transform = model, gamma, reshape_transform
        self.layers = tuple(resolve_layers(model, _checked_layer(target_layer), _blank(model, input_shape)))
        self.target_names = [name for name, _ in self.layers]
        if target_layer is None:
            logger.warning("no target_layer was given: %r was found", self.target_names[0])
        self._hooks_enabled = enable_hooks
        self.reset_hooks()
        self.hook_handles = [
            module.register_forward_hook(partial(self._keep, place)) for place, (_, module) in enumerate(self.layers)
        ]
        self._input_handle = model.register_forward_pre_hook(self._begin)

    def __call__(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        **question: Any,
    ) -> list[Tensor]:
        """One map `(N, h, w)` for each layer; arguments as in `compute_cams`."""
        return self.compute_cams(class_idx, scores, normalized, **question)

    def compute_cams(
        self,
        class_idx: int | list[int] | None = None,
        scores: Any = None,
        normalized: bool = True,
        *,
        targets: Target | list[Target] | None = None,
        against: Classes | None = None,
        gamma: float | None = None,
        num_references: int = 1,
        retain_graph: bool = False,
    ) -> list[Tensor]:
        """Maps of `class_idx` (one class, or one an image), one for each layer.

        `scores` is what the caller's model returned; `targets` are functions of one image's output to a scalar,
        instead of a class. `against` names rival classes as in FinerCAM, or a strategy such as "predicted" for
        `num_references` of them, and makes the maps answer why it is the one class and not the other. `normalized`
        scales each map to [0, 1].

        Raises FinerCAMError for a pass that was not run or has no graph, and for classes that do not exist.
        """
        self._check(class_idx, scores, targets, against)
        with self._hooks_off():
            source = self._source(scores, targets, retain_graph)
            contrast = self._contrast(
                source.logits, 0 if class_idx is None else class_idx, against, gamma, num_references
            )
            kept = directions(source.logits.cpu().double(), contrast, "question")
            found = self.gather(source, contrast, kept).contrasted(contrast)
        self.hook_g = [gradients.detach() for _, gradients in found]
        with torch.no_grad():
            maps = [self.rule(*of_layer).detach() for of_layer in found]
            maps = [one.clamp(min=0) for one in maps] if self.rectified else maps
            return [self._normalize(one) for one in maps] if normalized else maps

    def gather(self, source: Source, contrast: Contrast, kept: Tensor) -> Evidence:
        """The evidence that the rule reads."""
        return get(self.method).gather(source, contrast, kept)

    def rule(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """The signed map `(N, h, w)` of one layer."""
        return get(self.method).rule(activations, gradients)

    # --- hooks

    @property
    def hook_a(self) -> list[Tensor | None]:
        """What the target layers gave in the last pass, as `reshape_transform` reads it; None before one."""
        read = self.reshape_transform or (lambda output: output)
        return [None if output is None else read(output.detach()) for output in self._outputs]

    def enable_hooks(self) -> None:
        self._hooks_enabled = True

    def disable_hooks(self) -> None:
        self._hooks_enabled = False

    def reset_hooks(self) -> None:
        """Forget the last pass."""
        self._outputs: list[Tensor | None] = [None] * len(self.layers)
        self.hook_g: list[Tensor | None] = [None] * len(self.layers)
        self._runs = [0] * len(self.layers)
        self._input: Tensor | None = None

    def remove_hooks(self) -> None:
        """Leave the model as it was before the extractor was made."""
        for handle in (*self.hook_handles, self._input_handle):
            handle.remove()
        self.hook_handles.clear()

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove_hooks()
        self.reset_hooks()

    @contextmanager
    def _hooks_off(self) -> Iterator[None]:
        before, self._hooks_enabled = self._hooks_enabled, False
        try:
            yield
        finally:
            self._hooks_enabled = before

    def _begin(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self._hooks_enabled and inputs and isinstance(inputs[0], Tensor):
            self._input = inputs[0].detach().clone() if self.reruns else inputs[0].detach()
            self._runs = [0] * len(self.layers)

    def _keep(self, place: int, _module: nn.Module, _inputs: Any, output: Any) -> Tensor | None:
        """Keep a layer's output. What follows gets a copy, so that an in-place ReLU does not change it."""
        if not self._hooks_enabled:
            return None
        if not isinstance(output, Tensor):
            raise WrongType(
                f"layer {self.target_names[place]!r} returned a {type(output).__name__}; name one that gives a tensor"
            )
        if self.needs_graph and torch.is_grad_enabled() and not output.requires_grad:
            output = output.detach().requires_grad_()  # a frozen model on a plain input has no graph yet
        self._outputs[place] = output
        self._runs[place] += 1
        return output.clone()

    # --- the question

    def _check(self, class_idx: Any, scores: Any, targets: Any, against: Any) -> None:
        if (class_idx is None) == (targets is None):
            raise FinerCAMError("give exactly one of class_idx and targets")
        if against is not None and targets is not None:
            raise FinerCAMError("against= names rival classes, so give class_idx too; put a difference into targets=")
        missing = [name for name, output in zip(self.target_names, self._outputs, strict=True) if output is None]
        if missing:
            raise NoPass(f"layer {missing[0]!r} has not run yet: run the model on images, then ask for maps")
        repeated = [name for name, runs in zip(self.target_names, self._runs, strict=True) if runs > 1]
        if repeated and self._input is not None:
            raise FinerCAMError(f"layer {repeated[0]!r} ran more than once in the pass; name one that runs once")
        if self.needs_scores and scores is None:
            raise FinerCAMError(f"{type(self).__name__} needs the scores: extractor(class_idx, model(images))")
        if targets is None and scores is not None and not isinstance(scores, Tensor):
            raise WrongType(f"scores: expected logits (N, K), not a {type(scores).__name__}; or give targets=")

    def _source(self, scores: Any, targets: Any, retain_graph: bool) -> Source:
        """The caller's pass, as methods see it."""
        outputs = [output for output in self._outputs if output is not None]
        count = len(outputs[0])
        readout = (Readout() if targets is None else target_readout(targets, count)).at(range(count))
        images = outputs[0] if self._input is None else self._input
        logits = run_model(self.model, images, readout) if scores is None else readout.read(scores)
        if len(logits) != count:
            raise FinerCAMError(
                f"scores of {len(logits)} images for a pass over {count}; give that pass's own scores"
            )
        if self.needs_graph and not logits.requires_grad and not self.reruns:
            raise NoGraph(
                "the scores are not connected to every target layer by a graph: run the model without no_grad"
            )
        layouts = tuple(self._layout(x, images, module) for x, (_, module) in zip(outputs, self.layers, strict=True))
        run = Retained(tuple(self.target_names), tuple(outputs), logits, keep_graph=retain_graph)
        return Source(self.model, self.layers, images, readout, layouts, run)

    def _layout(self, output: Tensor, images: Tensor, module: nn.Module) -> Layout:
        return layout_of(output, None if self._input is None else images, self.model, module, self.reshape_transform)

    def _contrast(self, logits: Tensor, target: Any, against: Any, gamma: Any, count: int) -> Contrast:
        strategy = against if isinstance(against, str) and against in STRATEGIES else None
        strength = 0.0 if against is None else self.gamma if gamma is None else gamma
        named = None if strategy is not None else against
        question = Question.make(
            "gradcam", strength, references=strategy, num_references=count, target=target, against=named
        )
        head = linear_head(self.model, logits.shape[1]) if strategy == "similar" else None
        bound = question.bind(len(logits), logits.shape[1])
        return bound.resolve(logits, None if head is None else head[0])[0]

    # --- maps

    @staticmethod
    def _normalize(cams: Tensor, spatial_dims: int | None = None, eps: float = 0.0) -> Tensor:
        """Each map from 0 (its least value) to 1 (its largest); a constant one is 0."""
        axes = places(cams, 1) if spatial_dims is None else tuple(range(-spatial_dims, 0))
        above = cams - cams.amin(dim=axes, keepdim=True)
        largest = above.amax(dim=axes, keepdim=True)
        return above / torch.where(largest == 0, 1.0, largest + eps)

    @classmethod
    def fuse_cams(cls, cams: list[Tensor], target_shape: tuple[int, ...] | None = None) -> Tensor:
        """The largest of several layers' maps `(N, h, w)` at each place, on the largest of their grids."""
        checked = checked_cams(cams)
        return torch.stack(resized(cls._scaled(checked), target_shape)).amax(0) if len(cams) > 1 else cams[0]

    @staticmethod
    def _scaled(cams: list[Tensor]) -> list[Tensor]:
        return cams

    def _extra_repr(self) -> str:
        return f"target_layer={self.target_names}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._extra_repr()})"


class NoPass(FinerCAMError, AssertionError):
    """Maps were asked for before the model ran; torch-cam raises an AssertionError."""


def checked_cams(cams: Any) -> list[Tensor]:
    """A list of maps as it was given; raises FinerCAMError for anything else."""
    if not isinstance(cams, list) or not all(isinstance(one, Tensor) for one in cams):
        raise WrongType("cams: expected the list of maps that an extractor gave")
    if not cams:
        raise FinerCAMError("cams is an empty list; give at least one map")
    return cams


def resized(cams: list[Tensor], shape: tuple[int, ...] | None) -> list[Tensor]:
    """Maps `(N, h, w)` on one grid, by default the largest side of each axis."""
    size = shape or tuple(max(sides) for sides in zip(*(one.shape[1:] for one in cams), strict=True))
    return [upsample(one, size) for one in cams]


def _checked_layer(layer: Any) -> Any:
    wrong = [one for one in (layer if isinstance(layer, list) else [layer]) if not isinstance(one, (str, nn.Module))]
    if wrong and layer is not None:
        raise WrongType(f"target_layer={wrong[0]!r}: expected a module, its dotted name, or a list of either")
    return layer


def _blank(model: nn.Module, shape: tuple[int, ...]) -> Tensor:
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(1))
    return torch.zeros((1, *shape), device=parameter.device, dtype=parameter.dtype)
