"""Finer-CAM and RefineCAM in pytorch-grad-cam's terms."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finercam.compat.pytorch_grad_cam.base_cam import BaseCAM
from finercam.compat.pytorch_grad_cam.cams import GradCAM, GradCAMPlusPlus
from finercam.compat.pytorch_grad_cam.engine import Reshape
from finercam.compat.pytorch_grad_cam.questions import Pick, Target, highest
from finercam.compat.pytorch_grad_cam.utils.image import Array, scale_cam_image
from finercam.compat.pytorch_grad_cam.utils.model_targets import FinerWeightedTarget
from finercam.core import references
from finercam.errors import FinerCAMError

__all__ = ["FinerCAM", "RefineCAM"]

RANKS = (1, 2, 3)
VANISHING = 1e-6
"""Below this probability of all rivals together, the released objective is dominated by its own constant."""


class FinerCAM:
    """Finer-CAM: why the target and not the classes with the nearest logits.

    `base_method` is one of the method classes. `weights="mean"` is the paper's objective in place of the released
    one, which pytorch-grad-cam has, and which turns against the target where the rivals have no probability.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape | None = None,
        base_method: Callable[..., BaseCAM] = GradCAM,
        weights: str = "released",
    ) -> None:
        self.base_cam = base_method(model, target_layers, reshape_transform)
        self.base_cam.engine.check_contrast(True)
        self.weights = weights

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Target] | None = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
        aug_smooth: bool = False,
    ) -> Array:
        """Maps `(N, H, W)`; `targets` replace the contrast, as in pytorch-grad-cam.

        `comparison_categories` are ranks by nearest logit, 1 the nearest; `target_idx` is one class for all images.
        """
        pick = highest if targets is not None else self._contrast(alpha, comparison_categories, target_idx)
        return self.base_cam._explain(input_tensor, targets, aug_smooth, eigen_smooth, pick)

    forward = __call__

    def __getattr__(self, name: str) -> Any:
        if name == "base_cam":
            raise AttributeError(name)
        return getattr(self.base_cam, name)

    def __enter__(self) -> FinerCAM:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""

    def _contrast(self, alpha: float, ranks: Sequence[int] | None, target_idx: int | None) -> Pick:
        chosen = RANKS if ranks is None else tuple(ranks)
        if not chosen or min(chosen) < 1:
            raise FinerCAMError(
                f"comparison_categories={list(chosen)}: expected ranks by nearest logit, from 1 (the nearest class "
                "other than the target); for named classes give targets=[FinerWeightedTarget(…)]"
            )

        def pick(logits: Any) -> Target:
            target = highest(logits).category if target_idx is None else target_idx  # type: ignore[attr-defined]
            rows = logits.detach().cpu().double()[None]
            known = rows.shape[1]
            if not -known <= target < known:
                raise FinerCAMError(f"target_idx={target}: the model has classes 0 to {known - 1}")
            order = references.nearest(rows, torch.tensor([target % known]), known - 1)[0].tolist()
            rivals = [order[rank - 1] for rank in chosen if rank <= len(order)]
            if not rivals:
                raise FinerCAMError(
                    f"comparison_categories={list(chosen)}: the model has {known} classes, so no such rank"
                )
            if self.weights == "released" and float(rows.softmax(1)[0, rivals].sum()) < VANISHING:
                warnings.warn(
                    "the rivals have almost no probability, where the released objective turns against the target; "
                    "take FinerCAM(…, weights='mean')",
                    stacklevel=2,
                )
            return FinerWeightedTarget(target % known, rivals, alpha, self.weights)

        return pick


class RefineCAM:
    """The product of the maps of several layers, each made by `base_method` (arXiv 2605.14641)."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape | None = None,
        base_method: Callable[..., BaseCAM] = GradCAMPlusPlus,
        **kwargs: Any,
    ) -> None:
        self.base_cam_per_layer = [base_method(model, [one], reshape_transform, **kwargs) for one in target_layers]

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Target] | None = None,
        eigen_smooth: bool = False,
        aug_smooth: bool = False,
    ) -> Array:
        """Maps `(N, H, W)` in [0, 1]."""
        maps = [
            cam(input_tensor, targets, aug_smooth=aug_smooth, eigen_smooth=eigen_smooth)
            for cam in self.base_cam_per_layer
        ]
        return scale_cam_image(np.prod(maps, axis=0))

    forward = __call__

    def __enter__(self) -> RefineCAM:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""
