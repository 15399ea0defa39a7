"""Maps of the drop-in beside torch-cam's own, by method and architecture: `python -m benchmarks.torchcam_maps`.

Networks have random weights and small images. Where two maps differ by more than 0.001 (both are in [0, 1]), the same is
measured again against torch-cam with one fault after another taken out, until they agree. Prints a Markdown table: the
largest difference, and after an arrow the one without the fault that is named.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from benchmarks.peer_maps import CLASSES, CLOSE, NETWORKS, SIZE, Subject, subject
from torch import Tensor, nn

from finercam.compat.torchcam import methods as ours
from finercam.compat.torchcam.methods.core import Extractor
from finercam.errors import FinerCAMError
from finercam.methods import rules

METHODS = (
    "CAM", "GradCAM", "LayerCAM", "XGradCAM", "GradCAMpp", "SmoothGradCAMpp", "FinerCAM", "RefineCAM", "ScoreCAM", "ISCAM",
    "SSCAM",
)  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    # The noise of the two is drawn differently, so that there is none here.
    "SmoothGradCAMpp": {"num_samples": 1, "std": 1e-12},
    "SSCAM": {"num_samples": 1, "std": 1e-12},
    "ISCAM": {"num_samples": 2},
}
SCORED = ("ScoreCAM", "ISCAM", "SSCAM")


def maps(package: Any, name: str, of: Subject, images: Tensor) -> Tensor:
    """One method's maps, by either package."""
    layer: Any = of.layer
    if name == "RefineCAM":
        path = next(path for path, module in of.model.named_modules() if module is of.layer)
        earlier = {"layer4": "layer3", "stages.3": "stages.2"}.get(path)
        if earlier is None:
            raise FinerCAMError("one layer was named")
        layer = [earlier, path]
    transform = {} if package is ours or of.reshape is None else {"reshape_transform": of.reshape}
    head = [m for m in of.model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))][-1]
    named = {"fc_layer": head} if name == "CAM" else {}
    with getattr(package, name)(of.model, layer, **OPTIONS.get(name, {}), **named, **transform) as extractor:
        (found,) = extractor(list(CLASSES[: len(images)]), of.model(images))
    return found.detach()


# --- torch-cam without one of its faults


@contextlib.contextmanager
def nothing_in_place(_package: Any, of: Subject) -> Iterator[None]:
    """What follows a layer does not write into its output."""
    changed = [m for m in of.model.modules() if getattr(m, "inplace", False)]
    with mock.patch.object(F, "relu", lambda x, inplace=False: torch.relu(x)):
        for module in changed:
            module.inplace = False
        try:
            yield
        finally:
            for module in changed:
                module.inplace = True


def weighted_by(rule: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., list[Tensor]]:
    """Channel weights of a gradient method, in double precision."""

    def weights(self: Any, class_idx: Any, scores: Any, **given: Any) -> list[Tensor]:
        if scores is None or not scores.requires_grad:
            scores = self.model(self._input.requires_grad_())
        self._backprop(scores, class_idx, **given)
        pairs = zip(self.hook_a, self.hook_g, strict=True)
        return [rule(a.double(), g.double()).to(a) for a, g in pairs]

    return weights


def replaced(name: str, rule: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Subject], Any]:
    return lambda package, _of: mock.patch.object(getattr(package, name), "_get_weights", weighted_by(rule))


def scaled_after(package: Any, _of: Subject) -> Any:
    """Score-CAM's masks are scaled when they have the image's size, as the paper does, and not before."""
    inner = package.ScoreCAM._upsample

    def enlarged(self: Any, activation: Tensor) -> Tensor:
        return self._normalize(inner(self, activation), activation.ndim - 2)

    return mock.patch.object(package.ScoreCAM, "_upsample", enlarged)


def divided(least: bool) -> Callable[[Any, Subject], Any]:
    """Maps are divided by their peak without a constant beside it; `least` takes the least value away first."""

    def scaled(cams: Tensor, spatial_dims: int | None = None, eps: float = 0.0) -> Tensor:
        axes = tuple(range(cams.ndim - (spatial_dims or cams.ndim - 1), cams.ndim))
        above = cams - cams.amin(dim=axes, keepdim=True) if least or spatial_dims else cams
        peak = above.amax(dim=axes, keepdim=True)
        return above / torch.where(peak == 0, 1.0, peak)

    return lambda package, _of: mock.patch.object(package.core._CAM, "_normalize", staticmethod(scaled))


Fault = tuple[str, Callable[[Any, Subject], Any]]
COMMON: list[Fault] = [("written over in place", nothing_in_place), ("1e-8 beside a small peak", divided(True))]
FAULTS: dict[str, Fault] = {
    "XGradCAM": ("sums that cancel", replaced("XGradCAM", rules.xgradcam_weights)),
    "GradCAMpp": ("not Eq. 19", replaced("GradCAMpp", rules.gradcam_plusplus_weights)),
    "SmoothGradCAMpp": ("not Eq. 7", replaced("SmoothGradCAMpp", rules.gradcam_plusplus_weights)),
    "RefineCAM": ("Grad-CAM++ is not Eq. 19", replaced("GradCAMpp", rules.gradcam_plusplus_weights)),
} | dict.fromkeys(SCORED, ("masks scaled before they are enlarged", scaled_after))


def compared(package: Any, network: str, name: str) -> str:
    """One cell: the largest difference, and without which faults it goes away."""
    of = subject(network)
    images = torch.randn(1 if name in SCORED else 2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    if name in SCORED and network.startswith(
        "convnext"
    ):  # untrained, its LayerNorms make 1 of 1e-7 where a mask is black
        of.model.double()
        images = images.double()
    try:
        mine = maps(ours, name, of, images)
    except FinerCAMError as error:
        return f"refused: {str(error).partition(';')[0][:60]}"
    first = _difference(mine, package, name, of, images)
    if first <= CLOSE:
        return f"{first:.0e}"
    cell = f"{first:.2f}" if first == first else "fails in the peer"
    known = [*COMMON, *([FAULTS[name]] if name in FAULTS else [])]
    if name == "RefineCAM":
        known.append(("and the least value of each layer is taken away", divided(False)))
    with contextlib.ExitStack() as stack:
        for fault, without in known:
            stack.enter_context(without(package, of))
            after = _difference(mine, package, name, of, images)
            if after <= CLOSE:
                return f"{cell} → {after:.0e} ({fault})"
    return f"{cell} → {after:.1e} UNEXPLAINED"


def _difference(mine: Tensor, package: Any, name: str, of: Subject, images: Tensor) -> float:
    try:
        theirs = maps(package, name, of, images)
    except Exception:  # the peer may fail in any way
        return float("nan")
    if name == "RefineCAM":
        theirs = Extractor._normalize(theirs)  # it is so already, unless a fault was taken out of the scaling
    return float((mine - theirs).abs().max()) if mine.shape == theirs.shape else float("nan")


def main() -> None:
    from torchcam import methods as package

    logging.disable(logging.WARNING)
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS))
    given = parser.parse_args()
    print(f"| method | {' | '.join(given.networks)} |\n|---|{'---|' * len(given.networks)}")
    for name in given.methods:
        cells = [compared(package, network, name) for network in given.networks]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
