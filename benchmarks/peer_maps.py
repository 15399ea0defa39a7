"""Maps of the drop-in beside pytorch-grad-cam's own, by method and architecture: `python -m benchmarks.peer_maps`.

Networks have random weights and small images. Where two maps differ by more than 0.001 (both are in [0, 1]), the same is
measured again against pytorch-grad-cam with the one fault taken out that explains it, and the fault is named. Prints a
Markdown table: the largest difference over the images, and after an arrow the one without the fault.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn

from finercam.compat import pytorch_grad_cam as ours
from finercam.errors import FinerCAMError
from finercam.methods import rules

CLOSE = 1e-3
SIZE = 64
CLASSES = (3, 7)

Reshape = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Subject:
    """A network, its target layer, and the transform that pytorch-grad-cam needs for tokens."""

    model: nn.Module
    layer: nn.Module
    reshape: Reshape | None = None


def tokens(tensor: Tensor) -> Tensor:
    """Patches of 16 pixels after a class token."""
    return ours.utils.reshape_transforms.vit_reshape_transform(tensor, SIZE // 16, SIZE // 16)


def channels_last(tensor: Tensor) -> Tensor:
    return tensor.permute(0, 3, 1, 2)


def subject(name: str) -> Subject:
    """A network with random weights and 10 classes whose logits are of the usual size."""
    import timm
    import torchvision

    small_vit = {"embed_dim": 48, "depth": 2, "num_heads": 3}
    small_swin = {"embed_dim": 24, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    in_timm: dict[str, dict[str, Any]] = {
        "vit_tiny_patch16_224": {"img_size": SIZE, **small_vit},
        "swin_tiny_patch4_window7_224": {"img_size": SIZE, **small_swin},
        "convnext_atto": {},
    }
    torch.manual_seed(0)
    if name in in_timm:
        model = timm.create_model(name, num_classes=10, **in_timm[name]).eval()
    else:
        model = getattr(torchvision.models, name)(weights=None, num_classes=10).eval()
    for last in [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1:]:
        last.weight.data *= 20
    if name.startswith("vit"):
        return Subject(model, model.blocks[-1].norm1, tokens)
    if name.startswith("swin"):
        return Subject(model, model.layers[-1].blocks[-1].norm1, channels_last)
    path = LAYERS[name]
    return Subject(model, model.get_submodule(path))


LAYERS = {
    "resnet18": "layer4",
    "densenet121": "features.norm5",
    "mobilenet_v3_small": "features.12",
    "efficientnet_b0": "features.8",
    "regnet_y_400mf": "trunk_output",
    "shufflenet_v2_x0_5": "conv5",
    "squeezenet1_1": "features.12",
    "convnext_atto": "stages.3",
}
NETWORKS = (*LAYERS, "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224")
METHODS = (
    "GradCAM", "HiResCAM", "GradCAMElementWise", "LayerCAM", "GradCAMPlusPlus", "XGradCAM", "ScoreCAM", "AblationCAM",
    "ShapleyCAM", "EigenCAM", "EigenGradCAM", "SegEigenCAM", "KPCA_CAM", "FEM", "FullGrad", "FinerCAM", "RefineCAM", "RandomCAM",
)  # fmt: skip


def maps(package: Any, name: str, of: Subject, images: Tensor, targets: Any, eigen_smooth: bool) -> Any:
    """One method's maps, by either package."""
    np.random.seed(0)  # noqa: NPY002 - RandomCAM draws from it
    options = {}
    if name == "AblationCAM" and of.reshape is tokens:
        options = {"ablation_layer": package.ablation_layer.AblationLayerVit()}
    with contextlib.redirect_stdout(None), contextlib.redirect_stderr(open(os.devnull, "w")):  # noqa: PTH123
        cam = getattr(package, name)(of.model, [of.layer], of.reshape, **options)
        return cam(images, None if name == "FinerCAM" else targets, eigen_smooth=eigen_smooth)


# --- pytorch-grad-cam without one of its faults


def plus_plus(activations: Any, grads: Any) -> Any:
    """Grad-CAM++'s weights in double precision, without the constant in the denominator."""
    return rules.gradcam_plusplus_weights(
        torch.as_tensor(activations).double(), torch.as_tensor(grads).double()
    ).numpy()


def faded(activations: Any, grads: Any) -> Any:
    """XGrad-CAM's weights without quotients of rounding errors."""
    return rules.xgradcam_weights(torch.as_tensor(activations), torch.as_tensor(grads)).numpy()


@contextlib.contextmanager
def weights(package: Any, name: str, corrected: Callable[[Any, Any], Any]) -> Iterator[None]:
    """Other channel weights in one of pytorch-grad-cam's classes."""
    with mock.patch.object(getattr(package, name), "get_cam_weights", lambda *given: corrected(*given[-2:])):
        yield


@contextlib.contextmanager
def centred_pixels() -> Iterator[None]:
    """Score-CAM's masks enlarged with pixel centres aligned."""
    aligned = lambda size: nn.Upsample(size=size, mode="bilinear", align_corners=False)  # noqa: E731
    with mock.patch.object(nn, "UpsamplingBilinear2d", aligned):
        yield


@contextlib.contextmanager
def plain_ablation(package: Any, of: Subject, images: Tensor) -> Iterator[None]:
    """Ablation-CAM that removes a channel by zero and does not divide the fall by the logit."""
    layers, cam = package.ablation_layer, package.AblationCAM
    layer = layers.AblationLayerVit if of.reshape is tokens else layers.AblationLayer
    inner = cam.get_cam_weights
    zero = lambda self, x: removed(self, x, of.reshape is tokens or of.reshape is channels_last)  # noqa: E731
    with torch.no_grad():
        logits = of.model(images)[range(len(images)), list(CLASSES)][:, None].numpy()
    undone = lambda *given: inner(*given) * logits  # noqa: E731
    with mock.patch.object(layer, "__call__", zero), mock.patch.object(cam, "get_cam_weights", undone):
        yield


def removed(self: Any, _x: Tensor, last: bool) -> Tensor:
    """The next batch of one image's activations, each without one channel."""
    output = self.activations
    for at in range(len(output)):
        channel = self.indices[at]
        if last:
            output[at, ..., channel] = 0
        else:
            output[at, channel] = 0
    return output


@contextlib.contextmanager
def signed_components(package: Any) -> Iterator[None]:
    """Principal components with the sign that agrees with the sum of their features."""
    modules = (
        "eigen_cam",
        "eigen_grad_cam",
        "kpca_cam",
        "base_cam",
        "layer_cam",
        "hirescam",
        "grad_cam_elementwise",
        "fullgrad_cam",
    )
    with contextlib.ExitStack() as stack:
        for module in modules:
            for name in ("get_2d_projection", "get_2d_projection_kernel"):
                inner = getattr(getattr(package, module), name, None)
                if inner is not None:
                    stack.enter_context(mock.patch.object(getattr(package, module), name, turned(inner)))
        yield


def turned(projection: Callable[..., Any]) -> Callable[..., Any]:
    def with_sign(features: Any, *more: Any) -> Any:
        component = torch.as_tensor(projection(features, *more))
        return rules.oriented(component, torch.as_tensor(features)).numpy()

    return with_sign


@contextlib.contextmanager
def kept_activations(package: Any) -> Iterator[None]:
    """Activations that are copied before the next layer writes into them."""
    inner = package.activations_and_gradients.ActivationsAndGradients.save_activation

    def save(self: Any, module: Any, inputs: Any, output: Any) -> None:
        inner(self, module, inputs, output.clone())

    with mock.patch.object(package.activations_and_gradients.ActivationsAndGradients, "save_activation", save):
        yield


@contextlib.contextmanager
def biases_in_order(package: Any, of: Subject) -> Iterator[None]:
    """FullGrad whose biases stand in the order in which their layers run, as their gradients do."""
    order: list[nn.Module] = []
    handles = [m.register_forward_hook(lambda m, *_: order.append(m)) for m in of.model.modules()]
    with torch.no_grad():
        of.model(torch.zeros(1, 3, SIZE, SIZE))
    for handle in handles:
        handle.remove()
    inner = package.fullgrad_cam.find_layer_predicate_recursive
    sort = lambda model, test: sorted((m for m in inner(model, test) if m in order), key=order.index)  # noqa: E731
    with mock.patch.object(package.fullgrad_cam, "find_layer_predicate_recursive", sort):
        yield


def faults(package: Any, name: str, of: Subject, images: Tensor, eigen_smooth: bool) -> list[tuple[str, Any]]:
    """What may explain a difference of a method, each with a context in which pytorch-grad-cam is without it."""
    found: list[tuple[str, Any]] = [("activations overwritten in place", lambda: kept_activations(package))]
    if name in ("GradCAMPlusPlus", "RefineCAM"):
        found.append(("constant in Grad-CAM++", lambda: weights(package, "GradCAMPlusPlus", plus_plus)))
    if name == "XGradCAM":
        found.append(("sums that cancel", lambda: weights(package, name, faded)))
    if name == "ScoreCAM":
        found.append(("aligned corners", centred_pixels))
    if name == "AblationCAM":
        found.append(("division by the logit, removal by -1e7", lambda: plain_ablation(package, of, images)))
    if name in ("EigenCAM", "EigenGradCAM", "KPCA_CAM") or eigen_smooth:
        found.append(("sign of a component", lambda: signed_components(package)))
    if name == "FullGrad":
        found.append(("biases in another order than gradients", lambda: biases_in_order(package, of)))
    return found


def compared(package: Any, network: str, name: str, eigen_smooth: bool) -> str:
    """One cell: the largest difference, and without which faults it goes away.

    The network is built again for each run of the peer, which leaves it changed after an error.
    """
    of, generator = subject(network), torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, SIZE, SIZE, generator=generator)
    targets = [ours.utils.model_targets.ClassifierOutputTarget(c) for c in CLASSES]
    try:
        mine = maps(ours, name, of, images, targets, eigen_smooth)
    except FinerCAMError as error:
        return f"refused: {str(error).partition(';')[0][:60]}"
    rest = (images, targets, eigen_smooth)
    try:
        first = float(np.abs(mine - maps(package, name, subject(network), *rest)).max())
    except Exception as error:  # the peer may fail in any way
        first = float("nan")
        failed = f"{type(error).__name__} in the peer"
    if first <= CLOSE:
        return f"{first:.0e}"
    cell = failed if first != first else f"{first:.2f}"
    named: list[str] = []
    with contextlib.ExitStack() as stack:
        fresh = subject(network)
        for fault, without in faults(package, name, fresh, images, eigen_smooth):
            stack.enter_context(without())
            named.append(fault)
            try:
                after = float(np.abs(mine - maps(package, name, fresh, *rest)).max())
            except Exception:  # still fails
                continue
            if after <= CLOSE:
                return f"{cell} → {after:.0e} ({' + '.join(named[-1:])})"
            cell = f"{cell} → {after:.1e}"
    return f"{cell} UNEXPLAINED"


def main() -> None:
    import pytorch_grad_cam as package

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    parser.add_argument("--eigen-smooth", action="store_true")
    given = parser.parse_args()
    print(f"| method | {' | '.join(given.networks)} |\n|---|{'---|' * len(given.networks)}")
    for name in given.methods:
        cells = [compared(package, network, name, given.eigen_smooth) for network in given.networks]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
