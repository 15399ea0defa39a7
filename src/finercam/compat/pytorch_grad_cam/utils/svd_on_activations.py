"""Principal components of activations as NumPy arrays, under pytorch-grad-cam's names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.methods import rules
from finercam.methods.classfree import kernel_principal
from finercam.methods.segeigen import larger_end_positive

__all__ = ["get_2d_projection", "get_2d_projection_kernel", "get_2d_projection_with_sign_correction"]


def get_2d_projection(activation_batch: Any) -> NDArray[np.float32]:
    """First principal component over the channels of `(N, C, h, w)`, `(N, h, w)`; NaN counts as 0.

    The sign agrees with the sum of the channels.
    """
    features = _clean(activation_batch)
    return rules.oriented(rules.principal(features), features).float().numpy()


def get_2d_projection_kernel(
    activation_batch: Any, kernel: str = "sigmoid", gamma: float | None = None
) -> NDArray[np.float32]:
    """The same by kernel PCA; the sigmoid kernel is the one there is."""
    features = _clean(activation_batch)
    return rules.oriented(kernel_principal(features, checked_kernel(kernel, gamma)), features).float().numpy()


def get_2d_projection_with_sign_correction(activation_batch: Any) -> NDArray[np.float32]:
    """First principal component with the larger end positive (Seg-Eigen-CAM, Eq. 13)."""
    return larger_end_positive(rules.principal(_clean(activation_batch))).float().numpy()


def checked_kernel(kernel: str, gamma: float | None) -> float | None:
    """The kernel's gamma; raises FinerCAMError for another kernel than the sigmoid."""
    if kernel != "sigmoid":
        raise FinerCAMError(f"kernel={kernel!r}: KPCA-CAM has the sigmoid kernel here; leave kernel out")
    return gamma


def _clean(batch: Any) -> Tensor:
    return torch.nan_to_num(torch.as_tensor(np.asarray(batch)), nan=0.0)
