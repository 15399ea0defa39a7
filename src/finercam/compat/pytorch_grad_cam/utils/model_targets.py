"""Targets: what of one image's model output is explained, under pytorch-grad-cam's names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finercam.core.contrast import contrast_objective
from finercam.errors import FinerCAMError

__all__ = [
    "BinaryClassifierOutputTarget",
    "ClassifierOutputReST",
    "ClassifierOutputSoftmaxTarget",
    "ClassifierOutputTarget",
    "FasterRCNNBoxScoreTarget",
    "FinerWeightedTarget",
    "RawScoresOutputTarget",
    "SemanticSegmentationTarget",
    "SoftmaxOutputTarget",
]


class ClassifierOutputTarget:
    """The logit of one class, of logits `(K,)` or `(N, K)`.

    >>> ClassifierOutputTarget(1)(torch.tensor([3.0, 4.0]))
    tensor(4.)
    """

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output[..., self.category]


class ClassifierOutputSoftmaxTarget(ClassifierOutputTarget):
    """The probability of one class."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output.softmax(dim=-1)[..., self.category]


class ClassifierOutputReST(ClassifierOutputTarget):
    """Logit plus log-probability of one class (arXiv 2501.06261)."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return (model_output + model_output.log_softmax(dim=-1))[..., self.category]


class BinaryClassifierOutputTarget:
    """The one logit of a binary model for category 1, its negative for category 0."""

    def __init__(self, category: int) -> None:
        self.category = category

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output if self.category == 1 else -model_output


class SoftmaxOutputTarget:
    """All probabilities."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output.softmax(dim=-1)


class RawScoresOutputTarget:
    """The output itself."""

    def __call__(self, model_output: Tensor) -> Tensor:
        return model_output


class SemanticSegmentationTarget:
    """The sum of a class's scores `(K, H, W)` over the pixels of a mask `(H, W)`."""

    def __init__(self, category: int, mask: Any) -> None:
        self.category, self.mask = category, torch.as_tensor(mask)

    def __call__(self, model_output: Tensor) -> Tensor:
        return (model_output[self.category] * self.mask.to(model_output.device)).sum()


class FasterRCNNBoxScoreTarget:
    """For each earlier box its IoU with the best new box, plus that box's score, where both agree on the class.

    `bounding_boxes (B, 4)` as x1, y1, x2, y2. Boxes that overlap by `iou_threshold` or less count 0. Reads a
    torchvision detector's dict of one image.
    """

    def __init__(self, labels: Sequence[int], bounding_boxes: Any, iou_threshold: float = 0.5) -> None:
        self.labels, self.bounding_boxes, self.iou_threshold = labels, bounding_boxes, iou_threshold

    def __call__(self, model_outputs: dict[str, Tensor]) -> Tensor:
        found = model_outputs["boxes"]
        total = found.new_zeros(1)
        if not len(found):
            return total
        for box, label in zip(self.bounding_boxes, self.labels, strict=True):
            overlap = _iou(torch.as_tensor(box, dtype=found.dtype, device=found.device), found)
            best = int(overlap.argmax())
            if overlap[best] > self.iou_threshold and model_outputs["labels"][best] == label:
                total = total + overlap[best] + model_outputs["scores"][best]
        return total


def _iou(box: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of a box `(4,)` with others `(B, 4)`."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    area = (box[2:] - box[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(dim=1)
    return shared / (area - shared)


class FinerWeightedTarget:
    """Finer-CAM's objective with the weights of its authors' code ("released"), of logits `(K,)` or `(N, K)`.

    `weights="mean"` is the paper's objective instead, which does not depend on the rivals' probabilities.
    """

    def __init__(
        self, main_category: int, comparison_categories: Sequence[int], alpha: float, weights: str = "released"
    ) -> None:
        if not len(comparison_categories) or main_category in comparison_categories:
            raise FinerCAMError(
                f"comparison_categories={list(comparison_categories)}: expected at least one class other than the "
                f"target's own, {main_category}"
            )
        self.main_category, self.comparison_categories = main_category, list(comparison_categories)
        self.alpha, self.weights = alpha, weights

    def __call__(self, model_output: Tensor) -> Tensor:
        logits = model_output if model_output.ndim > 1 else model_output[None]
        target = torch.full((len(logits),), self.main_category, device=logits.device)
        rivals = torch.tensor([self.comparison_categories], device=logits.device).expand(len(logits), -1)
        margin = contrast_objective(logits, target, rivals, self.alpha, self.weights)
        return margin if model_output.ndim > 1 else margin[0]
