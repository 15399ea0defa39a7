"""Deep Feature Factorization: the parts that a layer's activations are sums of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finercam.compat.pytorch_grad_cam.engine import Reshape, activations_alone
from finercam.compat.pytorch_grad_cam.utils.image import (
    Array,
    create_labels_legend,
    scale_cam_image,
    show_factorization_on_image,
)
from finercam.errors import FinerCAMError

__all__ = ["DeepFeatureFactorization", "dff", "run_dff_on_image"]


def dff(activations: Array, n_components: int = 5) -> tuple[Array, Array]:
    """Non-negative factors of activations `(N, C, h, w)`: concepts `(C, k)` and their maps `(N, k, h, w)`.

    Collins et al., ECCV 2018 (arXiv 1806.10206), each channel shifted to begin at 0. Needs scikit-learn.
    """
    try:
        from sklearn.decomposition import NMF
    except ImportError as error:
        raise FinerCAMError("Deep Feature Factorization needs scikit-learn; install scikit-learn") from error

    count, channels, height, width = activations.shape
    flat = np.nan_to_num(activations.transpose(1, 0, 2, 3)).reshape(channels, -1)
    lowest = flat.min(axis=1, keepdims=True)
    model: Any = NMF(
        n_components=n_components,  # pyright: ignore[reportArgumentType]
        init="random",
        random_state=0,
    )
    concepts = model.fit_transform(flat - lowest) + lowest
    return concepts, model.components_.reshape(n_components, count, height, width).transpose(1, 0, 2, 3)


class DeepFeatureFactorization:
    """The concepts of a target layer, their maps, and what a function such as the classifier makes of them."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module,
        reshape_transform: Reshape | None = None,
        computation_on_concepts: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.model, self.target_layer, self.reshape_transform = model, target_layer, reshape_transform
        self.computation_on_concepts = computation_on_concepts

    def __call__(self, input_tensor: Tensor, n_components: int = 16) -> tuple[Any, ...]:
        """Concepts `(C, k)`, for each image its maps `(k, H, W)` in [0, 1], and with a computation its result."""
        (found,), _ = activations_alone(self.model, [self.target_layer], self.reshape_transform, input_tensor)
        concepts, maps = dff(found.float().cpu().numpy(), n_components)
        size = (input_tensor.shape[3], input_tensor.shape[2])
        shown = [scale_cam_image(of_image, size) for of_image in maps]
        if self.computation_on_concepts is None:
            return concepts, shown
        with torch.no_grad():
            made = self.computation_on_concepts(torch.from_numpy(np.float32(concepts.T)).to(found.device))
        return concepts, shown, made.cpu().numpy()


def run_dff_on_image(
    model: Any,
    target_layer: nn.Module,
    classifier: Callable[[Tensor], Tensor],
    img_pil: Any,
    img_tensor: Tensor,
    reshape_transform: Reshape | None = None,
    n_components: int = 5,
    top_k: int = 2,
) -> Array:
    """A photo beside its concepts, with the names that `model.config.id2label` gives them; uint8 `(H, W, 3)`."""
    find = DeepFeatureFactorization(model, target_layer, reshape_transform, classifier)
    _, maps, made = find(img_tensor[None], n_components)
    chances = torch.from_numpy(made).softmax(dim=-1).numpy()
    labels = create_labels_legend(chances, model.config.id2label, top_k)
    photo = np.array(img_pil)
    shown = show_factorization_on_image(photo / 255, maps[0], image_weight=0.3, concept_labels=labels)
    return np.hstack((photo, shown))
