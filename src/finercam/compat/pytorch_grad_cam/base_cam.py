"""The base of the method classes: a call in pytorch-grad-cam's terms, and its scaling of the maps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from finercam import methods
from finercam.compat.pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from finercam.compat.pytorch_grad_cam.engine import Reshape, activations_alone, evidence
from finercam.compat.pytorch_grad_cam.questions import Pick, Questions, Target, highest
from finercam.compat.pytorch_grad_cam.utils.image import Array, scale_cam_image
from finercam.errors import FinerCAMError
from finercam.methods import Method, rules

__all__ = ["BaseCAM", "Varied"]


@dataclass(frozen=True)
class Varied:
    """A changed view of the images for `aug_smooth`, with ttach's two methods: mirrored, and multiplied."""

    flip: bool
    factor: float

    def augment_image(self, image: Tensor) -> Tensor:
        return (image.flip(-1) if self.flip else image) * self.factor

    def deaugment_mask(self, mask: Tensor) -> Tensor:
        return mask.flip(-1) if self.flip else mask


# The unchanged image comes first, since it chooses the targets that the others are held to.
VIEWS = [Varied(flip, factor) for flip in (False, True) for factor in (1.0, 0.9, 1.1)]


class BaseCAM:
    """Maps of `target_layers` for each image's target, as pytorch-grad-cam's class of the same name gives them.

    `model` stays exactly as it was: its modes, gradients and hooks. `reshape_transform` may be left out, since
    finercam finds the grid of tokens itself. `compute_input_gradient`, `uses_gradients`, `detach` and `use_cuda` are
    accepted and have no effect; the model's device is used. `tta_transforms` are ttach's or the like.

    A subclass with a `get_cam_weights` or `get_cam_image` of its own gets NumPy arrays, as there.
    """

    method: ClassVar[str] = "gradcam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape | None = None,
        compute_input_gradient: bool = False,
        uses_gradients: bool = True,
        tta_transforms: Iterable[Any] | None = None,
        detach: bool = True,
        use_cuda: bool | None = None,
    ) -> None:
        self.model = model
        self.target_layers = list(target_layers)
        self.reshape_transform = reshape_transform
        self.compute_input_gradient, self.uses_gradients, self.detach = compute_input_gradient, uses_gradients, detach
        self.tta_transforms = VIEWS if tta_transforms is None else list(tta_transforms)
        self.activations_and_grads = ActivationsAndGradients(model, self.target_layers, reshape_transform, detach)
        self.outputs: Any = None
        self.rule: Callable[..., Tensor] = self.engine.rule

    @property
    def engine(self) -> Method:
        """finercam's method of the same mathematics."""
        return methods.get(self.method)

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Target] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> Array:
        """Maps `(N, H, W)` in [0, 1] of images `(N, C, H, W)`, float32; the highest logit where no targets are given.

        `aug_smooth` is the mean over mirrored and brighter or darker images, `eigen_smooth` the first principal
        component of what the channels add. Raises FinerCAMError for what cannot be explained.
        """
        return self._explain(input_tensor, targets, aug_smooth, eigen_smooth, highest)

    def forward(
        self, input_tensor: Tensor, targets: Sequence[Target] | None = None, eigen_smooth: bool = False
    ) -> Array:
        """The call without `aug_smooth`."""
        return self(input_tensor, targets, eigen_smooth=eigen_smooth)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo: hooks live only while the model runs. An error is not held back."""

    def _explain(
        self, images: Tensor, targets: Sequence[Target] | None, aug_smooth: bool, eigen_smooth: bool, pick: Pick
    ) -> Array:
        questions = Questions(targets, len(images), pick)
        if not aug_smooth:
            return self._view(images, questions, eigen_smooth)
        found = []
        for view in self.tta_transforms:
            questions.back = view.deaugment_mask
            maps = torch.from_numpy(self._view(view.augment_image(images), questions, eigen_smooth))
            found.append(view.deaugment_mask(maps[:, None])[:, 0].numpy())
        return np.mean(found, axis=0)

    def _view(self, images: Tensor, questions: Questions, eigen_smooth: bool) -> Array:
        layers = self._layers(images.to(self.device), questions, eigen_smooth)
        for maps in layers:
            if not np.isfinite(maps).all():
                raise FinerCAMError("the map is not finite at a target layer; run the model in float32")
        return self._joined(layers, tuple(images.shape[2:])[::-1], eigen_smooth)

    def _layers(self, images: Tensor, questions: Questions, eigen_smooth: bool) -> list[Array]:
        """Each layer's signed map `(N, h, w)`."""
        engine, (model, transform) = self.engine, (self.model, self.reshape_transform)
        if engine.class_free:
            seen, self.outputs = activations_alone(model, self.target_layers, transform, images)
            pairs = [(activation, activation.new_zeros(())) for activation in seen]
        else:
            pairs = evidence(model, self.target_layers, transform, engine, images, questions)
            self.outputs = questions.outputs
        self.activations_and_grads.activations = [activation.cpu() for activation, _ in pairs]
        self.activations_and_grads.gradients = [gradient.cpu() for _, gradient in pairs]
        layers = [*self.target_layers, *[None] * (len(pairs) - len(self.target_layers))]
        return [
            np.asarray(self._layer(images, layer, questions, pair, eigen_smooth))
            for layer, pair in zip(layers, pairs, strict=True)
        ]

    def _layer(
        self, images: Tensor, layer: nn.Module | None, questions: Questions, pair: tuple[Tensor, Tensor], eigen: bool
    ) -> Any:
        activations, gradients = pair
        if type(self).get_cam_image is not BaseCAM.get_cam_image:
            arrays = activations.cpu().numpy(), gradients.cpu().numpy()
            return self.get_cam_image(images, layer, questions.chosen, *arrays, eigen)
        if type(self).get_cam_weights is not BaseCAM.get_cam_weights:
            arrays = activations.cpu().numpy(), gradients.cpu().numpy()
            weights = torch.as_tensor(self.get_cam_weights(images, layer, questions.chosen, *arrays))
            gradients = weights.to(activations)[(..., *[None] * (activations.ndim - 2))]
            return self._drawn(activations, gradients, rules.gradcam, eigen)
        return self._drawn(activations, gradients, self.rule, eigen)

    def get_cam_image(self, *_: Any) -> Any:
        """For subclasses: the map `(N, h, w)` of `(images, layer, targets, activations, gradients, eigen_smooth)`."""
        raise NotImplementedError

    def get_cam_weights(self, *_: Any) -> Any:
        """For subclasses: channel weights `(N, C)` of `(images, layer, targets, activations, gradients)`."""
        raise NotImplementedError

    def _drawn(self, activations: Tensor, gradients: Tensor, rule: Callable[..., Tensor], eigen: bool) -> Array:
        """The rule's map, or the first principal component of what it makes of each channel alone."""
        if not eigen or self.engine.class_free:
            return rule(activations, gradients).detach().float().cpu().numpy()
        count, channels = activations.shape[:2]
        wide = gradients.expand(count, channels, *gradients.shape[2:])
        alone = rule(activations.flatten(0, 1)[:, None], wide.flatten(0, 1)[:, None]).unflatten(0, (count, channels))
        return rules.oriented(rules.principal(alone), alone).detach().float().cpu().numpy()

    def _joined(self, layers: list[Array], size: tuple[int, ...], eigen: bool) -> Array:
        """ReLU, scaling and enlarging of each layer's map, their mean, and scaling again."""
        scaled = [scale_cam_image(np.maximum(maps, 0), size) for maps in layers]
        return scale_cam_image(np.maximum(np.mean(scaled, axis=0), 0))


def no_effect(name: str, why: str) -> None:
    """Say once that an argument of the peer's has no effect here."""
    warnings.warn(f"{name} has no effect: {why}", stacklevel=3)
