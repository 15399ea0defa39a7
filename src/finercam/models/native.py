"""Native resolution: a classifier that takes each picture at its own shape, as the paper does (`?native=1000`)."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from finercam.errors import FinerCAMError
from finercam.images import Preprocess
from finercam.io import one_line
from finercam.models.loaded import LoadedModel
from finercam.models.openclip import ImageTower
from finercam.models.towers import OpenClipTower, is_open_clip_vit

__all__ = ["MAX_SIDE", "any_size", "at_native_size", "encoder", "longest_side", "native_preprocess"]

MAX_SIDE = 1000
"""Pixels of the longest side by default, as in the paper."""


def longest_side(text: str, options: Mapping[str, Any]) -> int | None:
    """The longest side in pixels that a model string's `?native` or `?native=1000` sets; None without it.

    >>> longest_side("timm/resnet18?native", {"native": True})
    1000
    """
    wanted = options.get("native", False)
    if wanted is None or isinstance(wanted, bool):
        return MAX_SIDE if wanted else None
    if not isinstance(wanted, int) or wanted < 1:
        raise FinerCAMError(f"model {text!r:.200}: native={wanted!r:.80} is not the longest side in pixels, as 1000")
    return wanted


def at_native_size(text: str, loaded: LoadedModel, max_side: int) -> LoadedModel:
    """The same classifier on pictures of any shape: position embeddings interpolated, sides of whole patches.

    Raises FinerCAMError, one line, for a model that is fixed to its size.
    """
    if loaded.preprocess.mode == "native":  # a folder that was saved so
        return replace(loaded, preprocess=replace(loaded.preprocess, max_side=max_side))
    model = any_size(loaded.model).eval()
    preprocess = native_preprocess(loaded.preprocess, max_side, _patch(model))
    _try(text, model, preprocess.multiple, loaded.preprocess.size)
    return replace(loaded, model=model, preprocess=preprocess)


def native_preprocess(preprocess: Preprocess, max_side: int, patch: int) -> Preprocess:
    """The preprocessing at each picture's own shape; `patch` 1 where there are none, as in CNNs."""
    multiple = patch if patch > 1 else 32  # a CNN's last stride: nothing is cut off
    return replace(preprocess, size=None, mode="native", crop_ratio=1.0, max_side=max_side, multiple=multiple)


def any_size(model: nn.Module) -> nn.Module:
    """Let a ViT take images of other sizes than its own, where its library allows it; logits at its own size stay.

    The model is changed in place, or wrapped in one that interpolates for it (open_clip's own ViT).
    """
    if isinstance(model, ImageTower) and is_open_clip_vit(model.visual):
        model.visual = OpenClipTower(model.visual, "own")
    for module in model.modules():
        if getattr(module, "dynamic_img_size", None) is False:
            _timm_any_size(module)
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:  # transformers
        model.register_forward_pre_hook(_interpolating, with_kwargs=True)
    return model


def encoder(model: nn.Module) -> nn.Module:
    """The encoder of a classifier: the tower out of its wrapper (open_clip), or the model without its classifier (timm)."""
    if isinstance(model, ImageTower):
        return any_size(model.visual)
    if hasattr(model, "reset_classifier"):
        reset: Any = model.reset_classifier
        reset(0)
    return model


def _timm_any_size(module: Any) -> None:
    """What timm's `dynamic_img_size=True` does when a ViT is made, for one that exists."""
    from timm.layers.format import Format
    from timm.models.vision_transformer import VisionTransformer

    if isinstance(module, VisionTransformer):
        module.dynamic_img_size = True
        embed: Any = module.patch_embed
        embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def _interpolating(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return args, {"interpolate_pos_encoding": True, **kwargs}


def _patch(model: nn.Module) -> int:
    """The side of a plain ViT's patches; else 1.

    Smaller patches are those of networks in stages (Swin), which divide the grid further.
    """
    for module in model.modules():
        side: Any = getattr(module, "patch_size", None)
        sides = side if isinstance(side, tuple | list) else (side,)
        if all(isinstance(s, int) for s in sides) and min(sides) >= 7:
            return max(sides)
    return 1


def _try(text: str, model: nn.Module, multiple: int, size: tuple[int, int] | None) -> None:
    """Run one small oblong image; a model that is fixed to its size fails on it."""
    odd = -(-96 // multiple) | 1  # n·(n + 2) patches are never a square, and n no whole number of windows
    first = next(iter(model.parameters()), torch.empty(0))
    images = torch.zeros(1, 3, odd * multiple, (odd + 2) * multiple, device=first.device, dtype=first.dtype)
    try:
        with torch.no_grad():
            model(images)
    except Exception as error:
        fixed = "one size" if size is None else f"{size[0]}x{size[1]} pixels"
        raise FinerCAMError(
            f"model {text!r:.200} takes {fixed} only, so leave ?native out: {one_line(error)}"
        ) from error
