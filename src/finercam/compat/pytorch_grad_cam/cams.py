"""pytorch-grad-cam's method classes, each naming finercam's method of the same mathematics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from finercam.compat.pytorch_grad_cam.base_cam import BaseCAM, no_effect
from finercam.compat.pytorch_grad_cam.engine import Reshape
from finercam.compat.pytorch_grad_cam.utils.image import Array, resized, scale_cam_image
from finercam.compat.pytorch_grad_cam.utils.svd_on_activations import checked_kernel
from finercam.methods import rules
from finercam.methods.classfree import fem, kernel_principal

__all__ = [
    "FEM",
    "KPCA_CAM",
    "AblationCAM",
    "AblationLayer",
    "AblationLayerFasterRCNN",
    "AblationLayerVit",
    "EigenCAM",
    "EigenGradCAM",
    "FullGrad",
    "GradCAM",
    "GradCAMElementWise",
    "GradCAMPlusPlus",
    "HiResCAM",
    "LayerCAM",
    "RandomCAM",
    "ScoreCAM",
    "SegEigenCAM",
    "ShapleyCAM",
    "XGradCAM",
]


def in_numpy(weights: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Any]:
    """A function of tensors as a `get_cam_weights` of NumPy arrays."""

    def get_cam_weights(_self: Any, _images: Any, _layer: Any, _targets: Any, activations: Any, grads: Any) -> Any:
        return weights(torch.as_tensor(activations), torch.as_tensor(grads)).numpy()

    return get_cam_weights


class GradCAM(BaseCAM):
    """Grad-CAM."""

    method = "gradcam"
    get_cam_weights = in_numpy(rules.gradcam_weights)


class HiResCAM(BaseCAM):
    """HiResCAM."""

    method = "hirescam"


class GradCAMElementWise(BaseCAM):
    """Only what is positive in gradient times activation."""

    method = "gradcam-elementwise"


class GradCAMPlusPlus(BaseCAM):
    """Grad-CAM++, by Eq. 19 without a constant, so that the map does not depend on the scale of the logits."""

    method = "gradcam++"
    get_cam_weights = in_numpy(rules.gradcam_plusplus_weights)


class XGradCAM(BaseCAM):
    """XGrad-CAM; a channel whose activations cancel gets its Grad-CAM weight instead of rounding errors."""

    method = "xgradcam"
    get_cam_weights = in_numpy(rules.xgradcam_weights)


class LayerCAM(BaseCAM):
    """LayerCAM."""

    method = "layercam"


class EigenGradCAM(BaseCAM):
    """Eigen-Grad-CAM, with the sign that agrees with HiResCAM; `eigen_smooth` changes nothing."""

    method = "eigengradcam"

    def _drawn(self, activations: Tensor, gradients: Tensor, rule: Any, eigen: bool) -> Array:
        return super()._drawn(activations, gradients, rule, eigen=False)


class SegEigenCAM(EigenGradCAM):
    """Seg-Eigen-CAM; `eigen_smooth` changes nothing."""

    method = "segeigencam"


class EigenCAM(BaseCAM):
    """Eigen-CAM: no class, so that `targets` change nothing. The sign agrees with the sum of the channels."""

    method = "eigencam"


class FEM(BaseCAM):
    """FEM: no class, so that `targets` change nothing."""

    method = "fem"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape | None = None,
        k: float = 2,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.k = k
        self.rule = partial(fem, k=k)


class KPCA_CAM(BaseCAM):
    """KPCA-CAM with the sigmoid kernel: no class, so that `targets` change nothing."""

    method = "kpcacam"

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape | None = None,
        kernel: str = "sigmoid",
        gamma: float | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.kernel, self.gamma = kernel, checked_kernel(kernel, gamma)
        self.rule = lambda a, _: rules.oriented(kernel_principal(a, self.gamma), a)


class ShapleyCAM(BaseCAM):
    """ShapleyCAM."""

    method = "shapleycam"
    get_cam_weights = in_numpy(rules.gradcam_weights)


class ScoreCAM(BaseCAM):
    """Score-CAM with a softmax over the channels; masks are enlarged with pixel centres aligned."""

    method = "scorecam-softmax"
    get_cam_weights = in_numpy(rules.softmax_weights)


class AblationLayer(nn.Module):
    """Accepted by AblationCAM, which removes channels without it."""


class AblationLayerVit(AblationLayer):
    """Accepted by AblationCAM, which removes channels of tokens without it."""


class AblationLayerFasterRCNN(AblationLayer):
    """Accepted by AblationCAM."""


class AblationCAM(BaseCAM):
    """Ablation-CAM. The fall is not divided by the logit, and a removed channel is 0."""

    method = "ablationcam"
    get_cam_weights = in_numpy(rules.gradcam_weights)

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Reshape | None = None,
        ablation_layer: nn.Module | None = None,
        batch_size: int = 32,
        ratio_channels_to_ablate: float = 1.0,
        use_cuda: bool | None = None,
    ) -> None:
        super().__init__(model, target_layers, reshape_transform)
        self.ablation_layer, self.batch_size = ablation_layer, batch_size
        self.ratio_channels_to_ablate = ratio_channels_to_ablate
        if ratio_channels_to_ablate != 1:
            no_effect("ratio_channels_to_ablate", "every channel is removed once, which is exact")


class RandomCAM(BaseCAM):
    """Channels with random weights in [-1, 1], from NumPy's global generator: a control."""

    def get_cam_weights(self, *given: Any) -> Any:
        return np.random.uniform(-1, 1, size=given[3].shape[:2])  # noqa: NPY002 - the caller seeds this one


class FullGrad(BaseCAM):
    """FullGrad, of the input and all biases; the target layers are not used."""

    method = "fullgrad"

    def _joined(self, layers: list[Array], size: tuple[int, ...], eigen: bool) -> Array:
        """The sum of all layers' maps; with `eigen_smooth` their principal component, on a coarser grid."""
        whole = torch.stack([resized(torch.from_numpy(maps), size[::-1]) for maps in layers], 1)
        if not eigen:
            return scale_cam_image(whole.sum(1).numpy())
        small = torch.stack(
            [resized(maps, [max(1, side // 8) for side in size[::-1]]) for maps in whole.unbind(1)], 1
        )
        return scale_cam_image(rules.oriented(rules.principal(small), small).numpy(), size)

    def _drawn(self, activations: Tensor, gradients: Tensor, rule: Any, eigen: bool) -> Array:
        return super()._drawn(activations, gradients, rule, eigen=False)
