"""Extractors that read gradients, under the name of torch-cam's module."""

from finercam.compat.torchcam.methods.composed import FinerCAM, LeGrad, RefineCAM
from finercam.compat.torchcam.methods.plain import GradCAM, GradCAMpp, LayerCAM, SmoothGradCAMpp, XGradCAM

__all__ = ["FinerCAM", "GradCAM", "GradCAMpp", "LayerCAM", "LeGrad", "RefineCAM", "SmoothGradCAMpp", "XGradCAM"]
