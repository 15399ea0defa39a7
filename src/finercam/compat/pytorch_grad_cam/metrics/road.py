"""ROAD under pytorch-grad-cam's names; finercam's solver fills the removed pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from finercam.compat.pytorch_grad_cam.metrics.perturbation_confidence import (
    PERCENTILES,
    AveragerAcrossThresholds,
    PerturbationConfidenceMetric,
    RemoveLeastRelevantFirst,
    RemoveMostRelevantFirst,
)
from finercam.compat.pytorch_grad_cam.questions import Target
from finercam.compat.pytorch_grad_cam.utils.image import Array
from finercam.metrics.impute import impute

__all__ = [
    "NoisyLinearImputer",
    "ROADCombined",
    "ROADLeastRelevantFirst",
    "ROADLeastRelevantFirstAverage",
    "ROADMostRelevantFirst",
    "ROADMostRelevantFirstAverage",
]


class NoisyLinearImputer:
    """Fills the pixels of an image `(C, H, W)` where `mask (H, W)` is 0, with the same noise at every call."""

    def __init__(self, noise: float = 0.01) -> None:
        self.noise = noise

    def __call__(self, img: Tensor, mask: Tensor) -> Tensor:
        return impute(img[None], mask[None] > 0.5, noise=self.noise)[0]


class ROADMostRelevantFirst(PerturbationConfidenceMetric):
    """The change of the score without the pixels above a percentile."""

    def __init__(self, percentile: float | str = 80) -> None:
        super().__init__(RemoveMostRelevantFirst(percentile, NoisyLinearImputer()))


class ROADLeastRelevantFirst(PerturbationConfidenceMetric):
    """The change of the score without the least relevant pixels."""

    def __init__(self, percentile: float | str = 20) -> None:
        super().__init__(RemoveLeastRelevantFirst(percentile, NoisyLinearImputer()))


class ROADMostRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean over percentiles, most relevant first."""

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        super().__init__(ROADMostRelevantFirst, percentiles)


class ROADLeastRelevantFirstAverage(AveragerAcrossThresholds):
    """The mean over percentiles, least relevant first."""

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        super().__init__(ROADLeastRelevantFirst, percentiles)


class ROADCombined:
    """Half the difference of the two means; higher is better."""

    def __init__(self, percentiles: Sequence[float] = PERCENTILES) -> None:
        self.percentiles = percentiles
        self.morf_averager = ROADMostRelevantFirstAverage(percentiles)
        self.lerf_averager = ROADLeastRelevantFirstAverage(percentiles)

    def __call__(self, input_tensor: Tensor, cams: Any, targets: Sequence[Target], model: nn.Module) -> Array:
        given = (input_tensor, cams, targets, model)
        return (self.lerf_averager(*given) - self.morf_averager(*given)) / 2
