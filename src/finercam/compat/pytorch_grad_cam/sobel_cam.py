"""Edges of a photo as a map, a control that looks at no model, under pytorch-grad-cam's name."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from finercam.compat.pytorch_grad_cam.utils.image import Array

__all__ = ["sobel_cam"]


def sobel_cam(img: Array) -> Array:
    """The mean of the two Sobel gradients' magnitudes of a photo `(H, W, 3)` uint8, as uint8 `(H, W)`."""
    grey = torch.from_numpy(np.round(img.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)))
    across = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    padded = F.pad(grey[None, None], (1, 1, 1, 1), mode="reflect")
    edges = F.conv2d(padded, torch.stack([across, across.T])[:, None])[0].abs().clamp(max=255)
    return edges.mean(0).round().numpy().astype(np.uint8)
