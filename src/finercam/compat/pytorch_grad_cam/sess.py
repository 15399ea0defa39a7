"""SESS: a map made of the maps of many windows of the image at several scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finercam.compat.pytorch_grad_cam.base_cam import BaseCAM
from finercam.compat.pytorch_grad_cam.cams import GradCAM
from finercam.compat.pytorch_grad_cam.engine import Reshape
from finercam.compat.pytorch_grad_cam.questions import Target, highest, one_number
from finercam.compat.pytorch_grad_cam.utils.image import Array, resized, scale_cam_image
from finercam.core.capture import run_model
from finercam.errors import FinerCAMError

__all__ = ["SESS", "sliding_window"]

BLUR = 5.0
"""Standard deviation in pixels of the Gaussian over the fused map, cut off at 5 pixels."""


@dataclass(frozen=True)
class Window:
    """A square of the image at one scale: its pixels `(1, C, s, s)`, its corner, and the size of the scaled image."""

    pixels: Tensor
    corner: tuple[int, int]
    size: tuple[int, int]


@dataclass
class SESS:
    """Saliency enhancing with scaling and sliding (Tursun et al., ECCV 2022, arXiv 2207.01769), after any method class.

    Each window's map by `base_method` is weighted by the window's score for the target and pasted back; the map is
    the mean of those that exceed `theta` at a place, or the largest (`pool`).

    Args:
        scales: lengths of the shorter side; by default `num_scales` of them, from the window's size in steps of
            `scale_step_ratio` of it.
        window_size, step_size: side and stride of the windows; by default the shorter side of the image, without overlap.
        pre_filter_ratio: share of the lowest-scoring windows that are left out.
        use_softmax_scores: take a window's score from probabilities rather than from the output itself.
        smooth: blur the fused map.
    """

    model: nn.Module
    target_layers: Sequence[nn.Module]
    reshape_transform: Reshape | None = None
    base_method: Callable[..., BaseCAM] = GradCAM
    scales: Sequence[int] | None = None
    num_scales: int = 12
    scale_step_ratio: float = 2 / 7
    window_size: int | None = None
    step_size: int | None = None
    pre_filter_ratio: float = 0.0
    theta: float = 0.0
    pool: str = "mean"
    smooth: bool = True
    use_softmax_scores: bool = True
    batch_size: int = 32

    def __post_init__(self) -> None:
        if self.pool not in ("mean", "max"):
            raise FinerCAMError(f"pool={self.pool!r}: expected 'mean' or 'max'")
        if not 0 <= self.pre_filter_ratio < 1:
            raise FinerCAMError(f"pre_filter_ratio={self.pre_filter_ratio}: expected a share in [0, 1)")
        if self.num_scales < 1:
            raise FinerCAMError(f"num_scales={self.num_scales}: expected at least 1")
        self.base_cam = self.base_method(self.model, self.target_layers, self.reshape_transform)
        self.device = self.base_cam.device

    def __call__(
        self, input_tensor: Tensor, targets: Sequence[Target] | None = None, eigen_smooth: bool = False
    ) -> Array:
        """Maps `(N, H, W)` in [0, 1]; the highest logit of the whole image where no targets are given."""
        images = input_tensor.detach().to(self.device)
        if targets is None:
            targets = [highest(logits) for logits in run_model(self.model, images)]
        if len(targets) != len(images):
            raise FinerCAMError(f"{len(targets)} targets for {len(images)} images; give one for each")
        pairs = zip(images.split(1), targets, strict=True)
        return scale_cam_image(np.stack([self._one(image, target, eigen_smooth) for image, target in pairs]))

    forward = __call__

    def __enter__(self) -> SESS:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to undo."""

    def _one(self, image: Tensor, target: Target, eigen_smooth: bool) -> Array:
        windows = list(self._windows(image))
        scores = self._scores(windows, target)
        best = scores.argsort()[int(len(windows) * self.pre_filter_ratio) :]
        top = float(scores[best[-1]])
        weights = scores / top if top > 0 else torch.ones_like(scores)
        size = (image.shape[2], image.shape[3])
        total, count = torch.zeros(size), torch.zeros(size)
        for chosen in best.split(self.batch_size):
            pixels = torch.cat([windows[at].pixels for at in chosen.tolist()])
            maps = torch.from_numpy(self.base_cam(pixels, [target] * len(chosen), eigen_smooth=eigen_smooth))
            for at, found in zip(chosen.tolist(), maps, strict=True):
                pasted = _pasted(found * weights[at], windows[at], size)
                if self.pool == "max":
                    total = torch.maximum(total, pasted)
                else:
                    seen = pasted > self.theta
                    total, count = total + pasted * seen, count + seen
        fused = total if self.pool == "max" else total / count.clamp(min=1)
        return (_blurred(fused) if self.smooth else fused).numpy()

    def _windows(self, image: Tensor) -> Iterator[Window]:
        shorter = min(image.shape[2:])
        side = self.window_size or shorter
        growth = round(side * self.scale_step_ratio)
        for scale in self.scales or [side + growth * step for step in range(self.num_scales)]:
            if scale < side:
                raise FinerCAMError(
                    f"scale {scale} is smaller than the window of {side}; give scales of at least that"
                )
            height, width = (int(scale * length / shorter) for length in image.shape[2:])
            large = F.interpolate(image, (height, width), mode="bilinear", antialias=True, align_corners=False)
            for x, y in sliding_window(height, width, self.step_size or side, side):
                yield Window(large[:, :, y : y + side, x : x + side], (x, y), (height, width))

    def _scores(self, windows: Sequence[Window], target: Target) -> Tensor:
        """The target's score of each window, not below 0."""
        found = []
        for first in range(0, len(windows), self.batch_size):
            logits = run_model(
                self.model, torch.cat([one.pixels for one in windows[first : first + self.batch_size]])
            )
            rows = logits.softmax(dim=1) if self.use_softmax_scores else logits
            found += [float(one_number(target, row)) for row in rows]
        return torch.tensor(found).clamp(min=0)


def sliding_window(height: int, width: int, step_size: int, window_size: int) -> list[tuple[int, int]]:
    """The left upper corners (x, y) of the windows; the last of a row or column is moved back into the image.

    >>> sliding_window(224, 300, 200, 224)
    [(0, 0), (76, 0)]
    """
    rows, columns = (_starts(length, step_size, window_size) for length in (height, width))
    return [(x, y) for y in rows for x in columns]


def _starts(length: int, step: int, window: int) -> list[int]:
    last = max(length - window, 0)
    return [*range(0, last, step), last]


def _pasted(found: Tensor, window: Window, size: tuple[int, int]) -> Tensor:
    """A window's map on the grid of the image, zero outside the window."""
    (x, y), whole = window.corner, torch.zeros(window.size)
    whole[y : y + found.shape[0], x : x + found.shape[1]] = found
    return resized(whole[None], size)[0]


def _blurred(fused: Tensor) -> Tensor:
    offsets = torch.arange(-5, 6)
    kernel = torch.exp(-0.5 * (offsets / BLUR) ** 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    for _ in range(2):  # along the rows, then along the columns
        padded = F.pad(fused[None, None], (5, 5, 0, 0), mode="reflect")
        fused = F.conv2d(padded, kernel)[0, 0].T
    return fused
