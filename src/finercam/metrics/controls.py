"""Control maps that do not depend on the question; a method should score better than these."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.metrics.checks import as_maps

__all__ = ["gaussian_map", "random_map", "shuffled_map", "uniform_map"]


def uniform_map(count: int, size: tuple[int, int]) -> Tensor:
    """Maps of ones, `(N, H, W)`, whose energy and pointing are exactly the chance level.

    >>> uniform_map(1, (1, 2)).tolist()
    [[[1.0, 1.0]]]
    """
    return torch.ones(count, *size)


def gaussian_map(count: int, size: tuple[int, int], *, sigma: float = 0.25) -> Tensor:
    """A Gaussian at the centre, `(N, H, W)`, with peak 1; `sigma` is its standard deviation as a share of each side.

    Photographers centre their subject, so this map often localises it by chance.

    >>> gaussian_map(1, (3, 3))[0, 1, 1].item()
    1.0
    """
    if sigma <= 0:
        raise FinerCAMError(f"sigma is {sigma}, expected a positive share of the picture's side, such as 0.25.")
    y, x = ((torch.arange(side) - (side - 1) / 2) / (sigma * side) for side in size)
    return torch.exp(-(y[:, None] ** 2 + x**2) / 2).expand(count, *size).clone()


def random_map(count: int, size: tuple[int, int], *, seed: int | Sequence[int] = 0) -> Tensor:
    """Uniform noise in [0, 1), `(N, H, W)`; picture i has the seed `seed + i`, or `seed[i]`.

    A seed for each picture makes the result independent of the batches.

    >>> torch.equal(random_map(2, (4, 4), seed=5)[1], random_map(1, (4, 4), seed=6)[0])
    True
    """
    return torch.stack([torch.rand(size, generator=generator) for generator in _generators(seed, count)])


def shuffled_map(maps: Tensor, *, seed: int | Sequence[int] = 0) -> Tensor:
    """The maps `(N, H, W)` with their pixels in random order; seeds as in `random_map`.

    >>> shuffled_map(torch.arange(4.0).reshape(1, 2, 2)).sum().item()
    6.0
    """
    as_maps(maps)
    pixels = maps[0].numel() if len(maps) else 0
    rows = [
        row.flatten()[torch.randperm(pixels, generator=generator).to(maps.device)]
        for row, generator in zip(maps, _generators(seed, len(maps)), strict=True)
    ]
    return torch.stack(rows).reshape(maps.shape) if rows else maps.clone()


def _generators(seed: int | Sequence[int], count: int) -> list[torch.Generator]:
    seeds = [seed + i for i in range(count)] if isinstance(seed, int) else list(seed)
    if len(seeds) != count:
        raise FinerCAMError(
            f"{len(seeds)} seeds for {count} pictures: give one for each, or a single one to count from."
        )
    return [torch.Generator().manual_seed(int(one)) for one in seeds]
