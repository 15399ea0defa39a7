"""Extractors that read gradients of the caller's pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finercam.compat.torchcam.methods.core import Extractor
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.methods.smoothgrad import noisy_gradients, smooth_gradcam_plusplus
from finercam.methods.source import Source

__all__ = ["GradCAM", "GradCAMpp", "LayerCAM", "SmoothGradCAMpp", "XGradCAM"]


class GradCAM(Extractor):
    """Grad-CAM: channels weighted by their mean gradient.

    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    >>> with GradCAM(model, "0") as extractor:
    ...     scores = model(torch.rand(2, 3, 8, 8))
    ...     plain = extractor([1, 3], scores, retain_graph=True)
    ...     finer = extractor([1, 3], scores, against=[[0], [4]])
    >>> plain[0].shape, finer[0].shape
    (torch.Size([2, 6, 6]), torch.Size([2, 6, 6]))
    """

    method = "gradcam"


class GradCAMpp(Extractor):
    """Grad-CAM++, by its Eq. 19."""

    method = "gradcam++"


class XGradCAM(Extractor):
    """XGrad-CAM: gradients averaged by the activations."""

    method = "xgradcam"


class LayerCAM(Extractor):
    """LayerCAM: positive gradients weight each place."""

    method = "layercam"

    @staticmethod
    def _scaled(cams: list[Tensor]) -> list[Tensor]:
        return [torch.tanh(2 * one) for one in cams]  # Eq. 9 of the paper


class SmoothGradCAMpp(Extractor):
    """Grad-CAM++ averaged over `num_samples` noisy copies of the input; `std` is the noise's, in the input's units."""

    method = "smoothgradcam++"
    needs_scores = False
    reruns = True

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | list[nn.Module | str] | None = None,
        num_samples: int = 4,
        std: float = 0.3,
        input_shape: tuple[int, ...] = (3, 224, 224),
        **kwargs: Any,
    ) -> None:
        super().__init__(model, target_layer, input_shape, **kwargs)
        self.num_samples, self.std = num_samples, std

    def gather(self, source: Source, contrast: Contrast, kept: Tensor) -> Evidence:
        return noisy_gradients(source, contrast, kept, self.num_samples, self.std)

    def rule(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return smooth_gradcam_plusplus(activations, gradients, self.num_samples)

    def _extra_repr(self) -> str:
        return f"target_layer={self.target_names}, num_samples={self.num_samples}, std={self.std}"
