"""The change of a score when the image is multiplied by its map, under pytorch-grad-cam's names."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from finercam.compat.pytorch_grad_cam.metrics.perturbation_confidence import PerturbationConfidenceMetric
from finercam.compat.pytorch_grad_cam.utils.image import Array

__all__ = [
    "CamMultImageConfidenceChange",
    "DropInConfidence",
    "IncreaseInConfidence",
    "multiply_tensor_with_cam",
]


def multiply_tensor_with_cam(input_tensor: Tensor, cam: Tensor) -> Tensor:
    """A normalised image `(C, H, W)` times a map `(H, W)`: 0 is the mean colour."""
    return input_tensor * cam


class CamMultImageConfidenceChange(PerturbationConfidenceMetric):
    """The change of the score, `(N,)`."""

    def __init__(self) -> None:
        super().__init__(multiply_tensor_with_cam)


class DropInConfidence(CamMultImageConfidenceChange):
    """How far the score falls, 0 where it rises."""

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        return np.maximum(-super().__call__(*args, **kwargs), 0)


class IncreaseInConfidence(CamMultImageConfidenceChange):
    """1 where the score rises, else 0."""

    def __call__(self, *args: Any, **kwargs: Any) -> Array:
        return (super().__call__(*args, **kwargs) > 0).astype(np.float32)
