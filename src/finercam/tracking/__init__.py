"""Contrasts in experiment trackers: TensorBoard, Weights & Biases, MLflow, and a callback for Lightning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finercam.lazy import lazy_attributes
from finercam.tracking.sinks import log_contrasts

if TYPE_CHECKING:
    from finercam.tracking.lightning import ContrastCallback

__all__ = ["ContrastCallback", "log_contrasts"]

__getattr__ = lazy_attributes(__name__, {"ContrastCallback": "finercam.tracking.lightning:ContrastCallback"})
"""The callback needs Lightning."""
