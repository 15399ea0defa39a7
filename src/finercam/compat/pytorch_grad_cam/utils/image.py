"""Images and maps as NumPy arrays, scaled and drawn as pytorch-grad-cam does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from finercam.errors import FinerCAMError

__all__ = [
    "create_labels_legend",
    "deprocess_image",
    "preprocess_image",
    "scale_accross_batch_and_channels",
    "scale_cam_image",
    "show_cam_on_image",
    "show_factorization_on_image",
]

Array = NDArray[Any]
JET = 2
SAME_AS_MATPLOTLIB = {13: "magma", 14: "inferno", 15: "plasma", 16: "viridis", 17: "cividis", 20: "turbo"}
"""OpenCV's numbers of colour maps that matplotlib has in the same colours."""
LEGEND_DPI = 100


def preprocess_image(
    img: Array, mean: Sequence[float] = (0.5, 0.5, 0.5), std: Sequence[float] = (0.5, 0.5, 0.5)
) -> Tensor:
    """An image `(H, W, C)`, uint8 or floats in [0, 1], as the normalised batch `(1, C, H, W)` of one.

    >>> preprocess_image(np.full((2, 3, 3), 255, np.uint8)).unique()
    tensor([1.])
    """
    pixels = torch.from_numpy(np.array(img, dtype=np.float32))
    pixels = pixels / 255 if img.dtype == np.uint8 else pixels
    return ((pixels - torch.tensor(list(mean))) / torch.tensor(list(std))).permute(2, 0, 1)[None].contiguous()


def deprocess_image(img: Array) -> Array:
    """Any array as uint8 of the same shape with mean 0.5 and standard deviation 0.1 of the range, for viewing."""
    centred = img - np.mean(img)
    return (255 * np.clip(0.5 + 0.1 * centred / (np.std(centred) + 1e-5), 0, 1)).astype(np.uint8)


def scale_cam_image(cam: Any, target_size: Sequence[int] | None = None) -> Array:
    """Each map of `(N, h, w)` or `(N, d, h, w)` scaled from its lowest to its highest value, and enlarged, in float32.

    `target_size` is `(W, H)`, or for volumes the reversed shape; enlarging is linear, pixel centres aligned.

    >>> scale_cam_image(np.array([[[1.0, 3.0]]]))
    array([[[0., 1.]]], dtype=float32)
    """
    maps = torch.as_tensor(np.asarray(cam, dtype=np.float32))
    flat = maps.flatten(1)
    flat = flat - flat.amin(dim=1, keepdim=True)
    maps = (flat / (1e-7 + flat.amax(dim=1, keepdim=True))).view_as(maps)
    return (maps if target_size is None else resized(maps, tuple(target_size)[::-1])).numpy()


def resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    """Maps `(N, …)` on a grid of another `size`, by linear interpolation with pixel centres aligned."""
    if tuple(maps.shape[1:]) == tuple(size):
        return maps
    mode = "bilinear" if len(size) == 2 else "trilinear"
    return F.interpolate(maps[:, None], size=tuple(size), mode=mode, align_corners=False)[:, 0]


def scale_accross_batch_and_channels(tensor: Array, target_size: Sequence[int]) -> Array:
    """`scale_cam_image` of each channel of `(N, C, h, w)`."""
    scaled = scale_cam_image(np.asarray(tensor).reshape(-1, *np.shape(tensor)[2:]), target_size)
    return scaled.reshape(*np.shape(tensor)[:2], *scaled.shape[1:])


def show_cam_on_image(
    img: Array, mask: Array, use_rgb: bool = False, colormap: int = JET, image_weight: float = 0.5
) -> Array:
    """A heatmap of `mask (H, W)` in [0, 1] over `img (H, W, 3)` in [0, 1], as uint8, divided by its largest value.

    Red is first with `use_rgb`, as it must be where it is in `img`. `colormap` is OpenCV's number; jet and the maps
    that matplotlib shares need no OpenCV. Raises FinerCAMError for values outside [0, 1].
    """
    if np.max(img) > 1:
        raise FinerCAMError(f"img has values up to {np.max(img):g}; expected floats in [0, 1]: divide by 255")
    if not 0 <= image_weight <= 1:
        raise FinerCAMError(f"image_weight={image_weight}: expected a number in [0, 1]")
    colours = _coloured((255 * np.asarray(mask)).astype(np.uint8), colormap)
    mixed = (1 - image_weight) * (colours if use_rgb else colours[..., ::-1]) / np.float32(255) + image_weight * img
    return (255 * (mixed / np.max(mixed))).astype(np.uint8)


def _coloured(levels: Array, colormap: int) -> Array:
    """Colours of uint8 `levels`, red first, `(…, 3)` in 0-255."""
    if colormap == JET:
        steps = 4 * np.arange(256)[:, None] / 255
        table = np.round(255 * np.clip(1.5 - np.abs(steps - [3, 2, 1]), 0, 1))
    elif colormap in SAME_AS_MATPLOTLIB:
        from matplotlib import colormaps

        table = np.round(255 * colormaps[SAME_AS_MATPLOTLIB[colormap]](np.arange(256))[:, :3])
    else:
        try:
            import cv2
        except ImportError as error:
            raise FinerCAMError(
                f"colormap={colormap}: these colours come with OpenCV; install opencv-python-headless, or take 2 (jet)"
            ) from error
        table = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], colormap)[:, 0, ::-1]
    return table[levels]


def create_labels_legend(concept_scores: Array, labels: Mapping[int, str], top_k: int = 2) -> list[str]:
    """For each concept its `top_k` classes with their scores, one a line, of `concept_scores (concepts, classes)`."""
    best = np.argsort(concept_scores, axis=1)[:, ::-1][:, :top_k]
    return [
        "\n".join(f"{','.join(labels[k].split(',')[:3])}:{scores[k]:.2f}" for k in row)
        for row, scores in zip(best, concept_scores, strict=True)
    ]


def show_factorization_on_image(
    img: Array,
    explanations: Array,
    colors: Sequence[Any] | None = None,
    image_weight: float = 0.5,
    concept_labels: Sequence[str] | None = None,
) -> Array:
    """Each pixel of `img (H, W, 3)` in the colour of its strongest concept of `explanations (concepts, H, W)`, as uint8.

    With `concept_labels` a legend of the same size stands at its right.
    """
    from matplotlib import colormaps

    count = len(explanations)
    chosen = [colormaps["gist_rainbow"](at / count) for at in range(count)] if colors is None else list(colors)
    hues = np.array([np.asarray(colour)[:3] for colour in chosen])
    hues = hues / np.maximum(hues.max(axis=1, keepdims=True), 1e-7)  # the strength alone sets the brightness
    strongest = explanations.argmax(axis=0)
    tint = hues[strongest] * explanations.max(axis=0)[..., None]
    shown = (255 * np.clip(img * image_weight + tint * (1 - image_weight), 0, 1)).astype(np.uint8)
    return (
        shown
        if concept_labels is None
        else np.hstack((shown, _legend((shown.shape[0], shown.shape[1]), hues, concept_labels)))
    )


def _legend(size: tuple[int, int], colours: Array, labels: Sequence[str]) -> Array:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    figure = Figure(figsize=(size[1] / LEGEND_DPI, size[0] / LEGEND_DPI), dpi=LEGEND_DPI)
    canvas = FigureCanvasAgg(figure)
    lines = [Line2D([0], [0], color=tuple(colour), lw=5 * size[0] / 256) for colour in colours]
    height = 14 * size[0] / 256 / max(1, len(labels) / 6)
    figure.legend(lines, list(labels), loc="center", fontsize=height, fancybox=True, shadow=True)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[: size[0], : size[1], :3]
