"""pytorch-grad-cam's classes and functions under the same names, over finercam's engine.

Change `pytorch_grad_cam` to `finercam.compat.pytorch_grad_cam` in the imports of a script. Maps are NumPy arrays in
pytorch-grad-cam's scaling, and equal its maps where the mathematics agrees; docs/migrating.md lists the differences.
"""

import sys

from finercam.compat.pytorch_grad_cam import activations_and_gradients, base_cam, cams, finer_cam, metrics, utils
from finercam.compat.pytorch_grad_cam.activations_and_gradients import ActivationsAndGradients
from finercam.compat.pytorch_grad_cam.base_cam import BaseCAM
from finercam.compat.pytorch_grad_cam.cams import *  # noqa: F403
from finercam.compat.pytorch_grad_cam.factorization import DeepFeatureFactorization, run_dff_on_image
from finercam.compat.pytorch_grad_cam.finer_cam import FinerCAM, RefineCAM
from finercam.compat.pytorch_grad_cam.guided_backprop import GuidedBackpropReLUModel
from finercam.compat.pytorch_grad_cam.sess import SESS

_MODULES = {
    cams: "ablation_cam ablation_layer eigen_cam eigen_grad_cam fem fullgrad_cam grad_cam grad_cam_elementwise "
    "grad_cam_plusplus hirescam kpca_cam layer_cam random_cam score_cam seg_eigen_cam shapley_cam xgrad_cam",
    finer_cam: "refine_cam",
}
for _module, _names in _MODULES.items():  # the peer's modules with one class each
    for _name in _names.split():
        sys.modules[f"{__name__}.{_name}"] = globals()[_name] = _module

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    *cams.__all__,
    "SESS",
    "ActivationsAndGradients",
    "BaseCAM",
    "DeepFeatureFactorization",
    "FinerCAM",
    "GuidedBackpropReLUModel",
    "RefineCAM",
    "activations_and_gradients",
    "base_cam",
    "metrics",
    "run_dff_on_image",
    "utils",
]
