"""Where the pixels that tell c from d are known: does the map lie on them, or on what both classes share?"""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.metrics.checks import as_maps, as_masks, void_where
from finercam.metrics.localisation import (
    average_precision,
    average_precision_chance,
    energy,
    mask_share,
    pointing,
    pointing_chance,
)

__all__ = ["contrastive", "contrastive_chance", "regions"]


def regions(discriminative: Tensor, objects: Tensor) -> dict[str, Tensor]:
    """Split the picture in three, each `(N, H, W)` bool: discriminative, shared (object) and background
    pixels.

    `discriminative` are the pixels that differ between c and d. They may lie off the object: a crest that c lacks
    and d wears is evidence where there is only sky; those pixels are discriminative, not background.

    >>> parts = regions(torch.tensor([[[True, False, False]]]), torch.tensor([[[False, True, False]]]))
    >>> [parts[name].flatten().int().tolist() for name in parts]
    [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
    """
    known = as_masks(discriminative, discriminative)
    whole = as_masks(objects, discriminative)
    return {"discriminative": known, "shared": whole & ~known, "background": ~whole & ~known}


def contrastive(
    maps: Tensor, discriminative: Tensor, objects: Tensor | None = None, *, tolerance: int = 0
) -> dict[str, Tensor]:
    """What a contrastive map should do on known discriminative pixels; every value `(N,)` in [0, 1].

    - `discriminative_energy` (higher is better): share of the positive mass on the discriminative pixels;
    - `discriminative_pointing` (higher): the map's maximum on them, within `tolerance` pixels;
    - `discriminative_ap` (higher): average precision as their detector;
    - with `objects`: `shared_energy` and `background_energy` (lower); the three energies add up to 1.

    All are NaN where nothing tells c from d. Their chance levels: `contrastive_chance`. See `energy`,
    `pointing`, `average_precision` for formulas.

    >>> maps = torch.tensor([[[2.0, 1.0, 1.0]]])
    >>> answer = contrastive(maps, maps == 2.0, maps > 5)
    >>> answer["discriminative_energy"].item(), answer["background_energy"].item()
    (0.5, 0.5)
    """
    values = {
        "discriminative_energy": energy(maps, discriminative),
        "discriminative_pointing": pointing(maps, discriminative, tolerance=tolerance),
        "discriminative_ap": average_precision(maps, discriminative),
    }
    if objects is not None:
        parts = regions(as_masks(discriminative, maps), as_masks(objects, maps))
        mass = as_maps(maps).clamp_min(0)
        for name in ("shared", "background"):
            # Unlike `energy`, an empty region holds no mass: 0, so that the three still add up to 1.
            inside = torch.where(parts[name], mass, 0).sum((1, 2)) / mass.sum((1, 2))
            values[f"{name}_energy"] = void_where(values["discriminative_energy"].isnan(), inside)
    return values


def contrastive_chance(
    discriminative: Tensor, objects: Tensor | None = None, *, tolerance: int = 0
) -> dict[str, Tensor]:
    """What a map that knows nothing gets, under the names of `contrastive`, `(N,)` each: area shares, and
    AP's chance.

    >>> contrastive_chance(torch.tensor([[[True, False, False, False]]]))["discriminative_energy"].item()
    0.25
    """
    nothing = ~discriminative.flatten(1).bool().any(1)
    levels = {
        "discriminative_energy": void_where(nothing, mask_share(discriminative)),
        "discriminative_pointing": pointing_chance(discriminative, tolerance=tolerance),
        "discriminative_ap": average_precision_chance(discriminative),
    }
    if objects is not None:
        parts = regions(discriminative, objects)
        for name in ("shared", "background"):
            levels[f"{name}_energy"] = void_where(nothing, mask_share(parts[name]))
    return levels
