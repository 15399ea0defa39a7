"""Contrastive maps for Quantus: an `explain_func` for its metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM

__all__ = ["quantus_explain"]


def quantus_explain(
    model: Any,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    against: Any = None,
    gamma: float | None = None,
    rectified: bool = False,
    device: Any = None,
    **settings: Any,
) -> np.ndarray:
    """Signed maps `(N, 1, H, W)` in [-1, 1] for Quantus' metrics, as `explain_func=quantus_explain`.

    `inputs` are `(N, C, H, W)`, channels first. `against`, `gamma` and the settings of FinerCAM come in
    `explain_func_kwargs`. Values before the ReLU rank the pixels without ties; `rectified` gives the maps in [0, 1],
    for metrics that take magnitudes (`abs=True`). `device` is where Quantus runs, the model's own is used.

    >>> model = torch.nn.Sequential(
    ...     torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 5)
    ... )
    >>> quantus_explain(model, np.random.rand(2, 3, 16, 16), np.array([1, 3]), against=0).shape
    (2, 1, 16, 16)
    """
    model = model.get_model() if hasattr(model, "get_model") else model  # Quantus' own wrapper
    if not isinstance(model, torch.nn.Module):
        raise FinerCAMError(f"model is a {type(model).__name__}: expected a PyTorch model")
    images = torch.as_tensor(np.asarray(inputs, dtype=np.float32))
    classes = [int(one) for one in np.asarray(targets).reshape(-1)]
    explain = FinerCAM(model, **{"keep": "question", "keep_images": False, **settings})
    answer = explain(images, classes, against, gamma=gamma)
    maps = answer.maps if rectified else answer.signed_maps
    return maps[:, None].float().cpu().numpy()
