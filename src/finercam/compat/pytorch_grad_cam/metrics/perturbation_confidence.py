"""How a target's score changes when the image is changed as a map says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finercam.compat.pytorch_grad_cam.questions import Target, one_number
from finercam.compat.pytorch_grad_cam.utils.image import Array
from finercam.core.capture import guest
from finercam.metrics.perturb import rank_pixels

__all__ = [
    "AveragerAcrossThresholds",
    "PerturbationConfidenceMetric",
    "RemoveLeastRelevantFirst",
    "RemoveMostRelevantFirst",
]

Perturbation = Callable[[Tensor, Tensor], Tensor]
PERCENTILES = (10, 20, 30, 40, 50, 60, 70, 80, 90)


class PerturbationConfidenceMetric:
    """The change of each target's score when `perturbation(image (C, H, W), map (H, W))` stands in for the image."""

    def __init__(self, perturbation: Perturbation) -> None:
        self.perturbation = perturbation

    def __call__(
        self,
        input_tensor: Tensor,
        cams: Any,
        targets: Sequence[Target],
        model: nn.Module,
        return_visualization: bool = False,
        return_diff: bool = True,
    ) -> Any:
        """Changes `(N,)`, float32; with `return_visualization` also the changed images `(N, C, H, W)`."""
        pairs = zip(input_tensor, cams, strict=True)
        changed = torch.stack([self.perturbation(x.cpu(), torch.as_tensor(cam)).to(x) for x, cam in pairs])
        after = _scores(model, changed, targets)
        result = after - _scores(model, input_tensor, targets) if return_diff else after
        return (result, changed) if return_visualization else result


@torch.no_grad()
def _scores(model: nn.Module, images: Tensor, targets: Sequence[Target]) -> Array:
    with guest(model):
        rows = zip(targets, model(images), strict=True)
        return np.array([float(one_number(target, row)) for target, row in rows], np.float32)


class RemoveMostRelevantFirst:
    """Give the most relevant pixels to `imputer(image, known)`: those above the percentile, or above Otsu's threshold.

    Exactly that share of the pixels, also where many values of the map are equal.
    """

    most = True

    def __init__(self, percentile: float | str, imputer: Perturbation) -> None:
        self.percentile, self.imputer = percentile, imputer

    def __call__(self, input_tensor: Tensor, mask: Tensor) -> Tensor:
        mask = (mask if self.most else 1 - mask.float()).float()
        if self.percentile == "auto":
            known = mask <= otsu(mask)
        else:
            removed = round((1 - float(self.percentile) / 100) * mask.numel())
            known = rank_pixels(mask[None])[0] >= removed
        return self.imputer(input_tensor, known.float())


class RemoveLeastRelevantFirst(RemoveMostRelevantFirst):
    """The same with the map turned round, so that the percentile counts from the least relevant pixel."""

    most = False


def otsu(values: Tensor) -> float:
    """The threshold that parts values in [0, 1] into the two most different groups (Otsu, 1979), on 256 levels."""
    counts = torch.bincount((values.flatten() * 255).long().clamp(0, 255), minlength=256).double()
    below, mass = counts.cumsum(0), (counts * torch.arange(256)).cumsum(0)
    above = below[-1] - below
    spread = (mass[-1] * below / below[-1] - mass).square() / (below * above).clamp(min=1)
    return (int(spread.argmax()) + 1) / 255 - 1e-6


class AveragerAcrossThresholds:
    """The mean of a metric over several percentiles."""

    def __init__(self, imputer: Callable[[float], Any], percentiles: Sequence[float] = PERCENTILES) -> None:
        self.imputer, self.percentiles = imputer, percentiles

    def __call__(self, input_tensor: Tensor, cams: Any, targets: Sequence[Target], model: nn.Module) -> Array:
        found = [self.imputer(share)(input_tensor, cams, targets, model) for share in self.percentiles]
        return np.mean(found, axis=0)
