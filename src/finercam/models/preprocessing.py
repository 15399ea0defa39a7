"""Each library's description of its preprocessing, as a `Preprocess`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from finercam.errors import FinerCAMError
from finercam.images import Preprocess

__all__ = ["open_clip_preprocess", "processor_settings", "timm_preprocess", "torchvision_preprocess"]

_PILLOW = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's resampling filters in the order of their numbers."""


def timm_preprocess(config: Mapping[str, Any], img_size: Any = None) -> Preprocess:
    """timm's data configuration, at `img_size` (H, W) if it differs from the configured size."""
    size = img_size or config["input_size"][1:]
    return Preprocess(
        size=_pair(size),
        mode="squash" if config.get("crop_mode") == "squash" else "crop",
        crop_ratio=float(config.get("crop_pct") or 1.0),
        interpolation=_interpolation(config.get("interpolation")),
        mean=_three(config["mean"]),
        std=_three(config["std"]),
    )


def torchvision_preprocess(transforms: Any) -> Preprocess:
    """What `weights.transforms()` of torchvision gives."""
    resize, crop = transforms.resize_size[0], transforms.crop_size[0]
    return Preprocess(
        size=(crop, crop),
        crop_ratio=crop / resize,
        interpolation=_interpolation(transforms.interpolation.value),
        mean=_three(transforms.mean),
        std=_three(transforms.std),
    )


def open_clip_preprocess(config: Mapping[str, Any]) -> Preprocess:
    """open_clip's `visual.preprocess_cfg`."""
    return Preprocess(
        size=_pair(config["size"]),
        mode="squash" if config.get("resize_mode") == "squash" else "crop",
        interpolation=_interpolation(config.get("interpolation")),
        mean=_three(config["mean"]),
        std=_three(config["std"]),
    )


def processor_settings(settings: Mapping[str, Any]) -> Preprocess:
    """The settings of a transformers image processor, as in `preprocessor_config.json`.

    Raises FinerCAMError for settings that cannot be used.

    >>> processor_settings({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}).crop_ratio
    0.875
    """
    try:
        size, mode, ratio = _processor_geometry(settings)
        mean, std = _processor_pixels(settings)
        resample = settings.get("resample", 2)
        return Preprocess(size, mode, ratio, _interpolation(resample), _three(mean), _three(std))
    except FinerCAMError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise FinerCAMError(f"the settings of an image processor cannot be used: {error}"[:300]) from error


def _processor_geometry(settings: Mapping[str, Any]) -> tuple[tuple[int, int], str, float]:
    """Size (H, W), mode and crop ratio."""
    resized, crop = _sides(settings.get("size")), _sides(settings.get("crop_size"))
    if settings.get("crop_pct") and resized:
        # ConvNeXt's processor crops from size / crop_pct below 384 pixels, and squashes from there on.
        square = (resized[0], resized[0])
        return (square, "crop", settings["crop_pct"]) if resized[0] < 384 else (square, "squash", 1.0)
    mode = "crop" if len(resized) == 1 else "squash"
    if settings.get("do_center_crop") and crop:
        size = (crop[0], crop[-1])
        return size, mode, size[0] / resized[0] if resized and settings.get("do_resize", True) else 1.0
    if resized:
        # The first ViT processors wrote one number for both sides.
        mode = "squash" if isinstance(settings["size"], int) else mode
        return (resized[0], resized[-1]), mode, 1.0
    raise FinerCAMError(f"an image processor without a size: {dict(settings)!r:.200}")


def _processor_pixels(settings: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Mean and deviation: `(255 u · factor − offset − mean) / std` in terms of u in [0, 1]."""
    scale = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    offset = 1.0 if settings.get("rescale_offset") else 0.0
    normalised = settings.get("do_normalize", True)
    means = settings.get("image_mean") or (0.5,) * 3 if normalised else (0.0,) * 3
    stds = settings.get("image_std") or (0.5,) * 3 if normalised else (1.0,) * 3
    if settings.get("include_top"):  # EfficientNet's processor divides by the deviation a second time
        stds = [std * second for std, second in zip(stds, settings["image_std"], strict=True)]
    return [(mean + offset) / scale for mean in means], [std / scale for std in stds]


def _sides(size: Any) -> tuple[int, ...]:
    """(H, W) if both sides are set, (short side,) if only that is, () if nothing."""
    if isinstance(size, int):
        return (size,)
    if isinstance(size, Mapping):
        if size.get("height") and size.get("width"):
            return int(size["height"]), int(size["width"])
        short = size.get("shortest_edge")
        return (int(short),) if short else ()
    return tuple(int(side) for side in size) if isinstance(size, (list, tuple)) else ()


def _interpolation(name: Any) -> str:
    """The name of a filter given by Pillow's name or number; bicubic, as timm and open_clip have it, for None."""
    if isinstance(name, int) and 0 <= name < len(_PILLOW):
        return _PILLOW[name]
    return "bicubic" if name is None else str(name)


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
