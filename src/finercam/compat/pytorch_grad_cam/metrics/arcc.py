"""ARCC: coherency, complexity and ROAD in one number (arXiv 2605.14641), under pytorch-grad-cam's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from finercam.compat.pytorch_grad_cam.metrics.road import ROADCombined
from finercam.compat.pytorch_grad_cam.questions import Target
from finercam.compat.pytorch_grad_cam.utils.image import Array
from finercam.metrics.adcc import coherency
from finercam.metrics.shape import mean_intensity

__all__ = ["ARCC", "Coherency", "Complexity"]

Explain = Callable[..., Array]


class Complexity:
    """The mean of a map in [0, 1], `(N,)`, lower is better."""

    def __call__(self, grayscale_cams: Array) -> Array:
        return mean_intensity(torch.as_tensor(grayscale_cams)).numpy()


class Coherency:
    """How far the map of the masked image agrees with the map, `(N,)` in [0, 1]; 0.5 where a map is constant, as there."""

    def __call__(
        self,
        input_tensor: Tensor,
        grayscale_cams: Array,
        targets: Sequence[Target],
        model: nn.Module,
        base_method: Explain,
    ) -> Array:
        maps = torch.as_tensor(grayscale_cams)
        again = base_method(input_tensor=input_tensor * maps[:, None].to(input_tensor), targets=targets)
        return coherency(maps, torch.as_tensor(again)).nan_to_num(nan=0.5).numpy()


class ARCC:
    """The harmonic mean of coherency, 1 − complexity and ROAD clipped to [0, 1], `(N,)`, higher is better."""

    def __init__(self, base_method: Explain, road_percentiles: Sequence[float] = (20, 40, 60, 80)) -> None:
        self.base_method = base_method
        self.complexity, self.coherency, self.road = Complexity(), Coherency(), ROADCombined(road_percentiles)

    def __call__(
        self, input_tensor: Tensor, grayscale_cams: Array, targets: Sequence[Target], model: nn.Module
    ) -> Array:
        road = np.clip(2 * self.road(input_tensor, grayscale_cams, targets, model), 0, 1)
        again = self.coherency(input_tensor, grayscale_cams, targets, model, self.base_method)
        parts = np.stack((again, 1 - self.complexity(grayscale_cams), road))
        return 3 / (1 / (parts + 1e-8)).sum(axis=0)
