"""Extractors under torch-cam's names: hooks on the caller's model, and maps from the caller's own forward pass."""

from finercam.compat.torchcam.methods.activation import CAM, ISCAM, SSCAM, ScoreCAM
from finercam.compat.torchcam.methods.gradient import (
    FinerCAM,
    GradCAM,
    GradCAMpp,
    LayerCAM,
    LeGrad,
    RefineCAM,
    SmoothGradCAMpp,
    XGradCAM,
)

__all__ = [
    "CAM",
    "ISCAM",
    "SSCAM",
    "FinerCAM",
    "GradCAM",
    "GradCAMpp",
    "LayerCAM",
    "LeGrad",
    "RefineCAM",
    "ScoreCAM",
    "SmoothGradCAMpp",
    "XGradCAM",
]
