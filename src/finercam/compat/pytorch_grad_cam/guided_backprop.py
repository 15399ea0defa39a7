"""Guided backpropagation: input gradients that pass a ReLU only where they are positive."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from finercam.compat.pytorch_grad_cam.questions import highest
from finercam.compat.pytorch_grad_cam.utils.image import Array
from finercam.core.capture import guest
from finercam.core.logits import find_logits
from finercam.errors import FinerCAMError

__all__ = ["GuidedBackpropReLUModel"]

RELUS = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_)


class PositiveGradients(TorchFunctionMode):
    """A context in which every ReLU, module or function, passes positive gradients only."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = function(*args, **(kwargs or {}))
        if function in RELUS and output.requires_grad:
            output.register_hook(lambda gradient: gradient.clamp(min=0))
        return output


class GuidedBackpropReLUModel:
    """Guided backpropagation of one image's class (Springenberg et al., ICLR 2015); the model stays as it was.

    `device` is accepted for pytorch-grad-cam's signature; the model is not moved.
    """

    def __init__(self, model: nn.Module, device: Any = None, use_cuda: bool | None = None) -> None:
        self.model = model
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def __call__(self, input_img: Tensor, target_category: int | None = None) -> Array:
        """The guided gradient `(H, W, C)` of an image `(1, C, H, W)`, for the highest logit where no class is given."""
        if input_img.ndim != 4 or len(input_img) != 1:
            raise FinerCAMError(f"input of shape {tuple(input_img.shape)}; expected one image (1, C, H, W)")
        with guest(self.model), torch.inference_mode(False), torch.enable_grad():
            pixels = input_img.detach().to(self.device, copy=True).requires_grad_()
            with PositiveGradients():
                logits = find_logits(self.model(pixels.clone()))[0]
            category = highest(logits).category if target_category is None else target_category  # type: ignore[attr-defined]
            (gradient,) = torch.autograd.grad(logits[category], pixels)
        return gradient[0].permute(1, 2, 0).cpu().numpy()
