"""Checks of the inputs that all metrics share."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.errors import FinerCAMError

__all__ = ["as_classes", "as_maps", "as_masks", "finite_maps", "void_where"]


def as_maps(maps: Tensor) -> Tensor:
    """Maps `(N, H, W)` as float32, or as float64 if they are, because half precision cannot sum over an image.

    >>> as_maps(torch.ones(2, 3, 3, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    if maps.ndim != 3 or maps.is_complex():
        raise FinerCAMError(
            f"maps are {maps.dtype} {tuple(maps.shape)}, expected real (N, H, W): squeeze or average the rest."
        )
    return maps.detach() if maps.dtype in (torch.float32, torch.float64) else maps.detach().float()


def as_masks(masks: Tensor, maps: Tensor) -> Tensor:
    """Masks as bool `(N, H, W)`, with the shape and on the device of the maps.

    >>> as_masks(torch.ones(1, 2, 2, dtype=torch.uint8), torch.zeros(1, 2, 2)).dtype
    torch.bool
    """
    if masks.shape != maps.shape:
        raise FinerCAMError(
            f"masks have shape {tuple(masks.shape)}, expected that of the maps, {tuple(maps.shape)}: "
            "bring both to the picture's resolution first."
        )
    return masks.to(device=maps.device, dtype=torch.bool)


def as_classes(classes: int | Tensor | list[int], images: Tensor, *, what: str = "target") -> Tensor:
    """Class ids as `(N,)` or `(N, R)` int64 on the images' device; an int is used for every image.

    >>> as_classes(3, torch.zeros(2, 3, 4, 4)).tolist()
    [3, 3]
    """
    ids = torch.as_tensor(classes, device=images.device)
    if ids.is_floating_point() or ids.dtype == torch.bool:
        raise FinerCAMError(f"{what} is {ids.dtype}, expected integer class ids.")
    ids = ids.long()
    if ids.ndim == 0:
        ids = ids.expand(len(images))
    if ids.ndim > 2 or len(ids) != len(images):
        raise FinerCAMError(
            f"{what} has shape {tuple(ids.shape)} for {len(images)} images, expected an id, (N,) or (N, R)."
        )
    return ids


def finite_maps(maps: Tensor) -> Tensor:
    """Whether each map is finite everywhere, bool `(N,)`; metrics of the other maps are NaN."""
    return maps.isfinite().flatten(1).all(1)


def void_where(undefined: Tensor, values: Tensor) -> Tensor:
    """Values `(N, ...)` with NaN for the pictures that are `undefined` `(N,)`.

    >>> void_where(torch.tensor([True, False]), torch.tensor([1.0, 2.0])).tolist()
    [nan, 2.0]
    """
    return values.masked_fill(undefined.reshape(-1, *[1] * (values.ndim - 1)), torch.nan)
