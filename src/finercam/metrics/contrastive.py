"""Metrics for pictures in which the pixels that differ between classes c and d are known."""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.metrics.checks import as_maps, as_masks, void_where
from finercam.metrics.localisation import (
    average_precision,
    average_precision_chance,
    energy,
    equal_area_energy,
    mask_share,
    pointing,
    pointing_chance,
)

__all__ = ["contrastive", "contrastive_chance", "regions"]


def regions(discriminative: Tensor, objects: Tensor) -> dict[str, Tensor]:
    """Split the picture into discriminative, shared (object) and background pixels, each `(N, H, W)` bool.

    `discriminative` are the pixels that differ between c and d. They may lie outside the object, for example if d has
    a crest and c has none. Such pixels count as discriminative, not as background.

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
    """Measure how well a map marks the known discriminative pixels; every value `(N,)` in [0, 1].

    - `discriminative_ap` (higher is better): average precision of the map as a detector of these pixels;
    - `discriminative_pointing` (higher): whether the map's maximum is on them, within `tolerance` pixels;
    - `discriminative_energy@5%` (higher): the share of the map's top 5 % of pixels that are on them;
    - `discriminative_energy` (higher): the share of the positive mass that is on them;
    - with `objects`: `shared_energy` and `background_energy` (lower); the three energies add up to 1.

    The first three depend only on the order of the pixels; energies rise if a map is sharpened. All are NaN if no
    pixel differs. Chance levels: `contrastive_chance`. Formulas: `average_precision`, `pointing`, `equal_area_energy`,
    `energy`.

    >>> maps = torch.tensor([[[2.0, 1.0, 1.0]]])
    >>> answer = contrastive(maps, maps == 2.0, maps > 5)
    >>> answer["discriminative_energy"].item(), answer["background_energy"].item()
    (0.5, 0.5)
    """
    values = {
        "discriminative_ap": average_precision(maps, discriminative),
        "discriminative_pointing": pointing(maps, discriminative, tolerance=tolerance),
        "discriminative_energy@5%": equal_area_energy(maps, discriminative, [0.05])[:, 0],
        "discriminative_energy": energy(maps, discriminative),
    }
    if objects is not None:
        parts = regions(as_masks(discriminative, maps), as_masks(objects, maps))
        mass = as_maps(maps).clamp_min(0)
        for name in ("shared", "background"):
            # Unlike `energy`, an empty region has value 0 and not NaN, so that the three add up to 1.
            inside = torch.where(parts[name], mass, 0).sum((1, 2)) / mass.sum((1, 2))
            values[f"{name}_energy"] = void_where(values["discriminative_energy"].isnan(), inside)
    return values


def contrastive_chance(
    discriminative: Tensor, objects: Tensor | None = None, *, tolerance: int = 0
) -> dict[str, Tensor]:
    """The chance level of each value of `contrastive`, `(N,)`: shares of the area, and AP of a random order.

    >>> contrastive_chance(torch.tensor([[[True, False, False, False]]]))["discriminative_energy"].item()
    0.25
    """
    nothing = ~discriminative.flatten(1).bool().any(1)
    levels = {
        "discriminative_ap": average_precision_chance(discriminative),
        "discriminative_pointing": pointing_chance(discriminative, tolerance=tolerance),
        "discriminative_energy@5%": void_where(nothing, mask_share(discriminative)),
        "discriminative_energy": void_where(nothing, mask_share(discriminative)),
    }
    if objects is not None:
        parts = regions(discriminative, objects)
        for name in ("shared", "background"):
            levels[f"{name}_energy"] = void_where(nothing, mask_share(parts[name]))
    return levels
