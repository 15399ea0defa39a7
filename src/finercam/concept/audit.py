"""Agreement of a classifier's contrast maps with concept maps of traits, compared with chance.

This follows section 4.3 of the Finer-CAM paper: if a classifier distinguishes c from d by a trait, its contrast map
lies where an image–text model sees that trait.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finercam.core.maps import upsample
from finercam.errors import FinerCAMError
from finercam.metrics.ranks import mean_ranks

__all__ = ["MEASURES", "Agreement", "agreement", "audit", "cosine", "energy_overlap", "rank_correlation", "shifts"]


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """Cosine of the positive parts of two maps `(…, h, w)`, in [0, 1]; 0 if a map has no positive part.

    >>> cosine(torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, -3.0]]))
    tensor(1.)
    """
    return _dot(_direction(one), _direction(other))


def energy_overlap(one: Tensor, other: Tensor) -> Tensor:
    """The share of positive energy that two maps `(…, h, w)` have in common, in [0, 1]: `Σ min(a/Σa, b/Σb)`.

    >>> energy_overlap(torch.tensor([[3.0, 1.0]]), torch.tensor([[1.0, 1.0]]))
    tensor(0.7500)
    """
    return _common(_share(one), _share(other))


def rank_correlation(one: Tensor, other: Tensor) -> Tensor:
    """Spearman's correlation of two signed maps `(…, h, w)`, in [-1, 1]; equal values share their mean rank.

    >>> round(rank_correlation(torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[2.0, 2.5, 40.0]])).item(), 4)
    1.0
    """
    return _dot(_ranks(one), _ranks(other))


MEASURES = {"cosine": cosine, "energy_overlap": energy_overlap, "rank_correlation": rank_correlation}


@dataclass(frozen=True)
class Agreement:
    """Agreement of a classifier's evidence with one trait: means over the images, with the level of chance.

    `chance` and `p` belong to the measure that ranks the traits. `chance` is its mean over shifted maps. `p` is the
    share of shifts with at least the agreement of the unshifted map, `(1 + hits) / (1 + shifts)`.
    """

    trait: str
    cosine: float
    energy_overlap: float
    rank_correlation: float
    chance: float
    p: float

    def excess(self, by: str = "cosine") -> float:
        """The measure minus its chance level."""
        return float(getattr(self, by)) - self.chance


def audit(
    classifier_maps: Tensor,
    concept_maps: Tensor,
    traits: Sequence[str],
    *,
    by: str = "cosine",
    permutations: int = 99,
    seed: int = 0,
) -> list[Agreement]:
    """Traits ranked by how much the evidence agrees with them beyond chance, the best first.

    `classifier_maps (N, h, w)` are signed contrast maps of N images, and `concept_maps (N, T, h', w')` are the maps of
    T traits in the same images. The baseline shifts the classifier's maps cyclically. That keeps the shape of both
    maps and changes only their relative position. Shuffled pixels would be no baseline, because any two smooth maps
    agree better than those.

    Raises FinerCAMError for shapes that do not match.

    >>> spot = torch.zeros(1, 8, 8); spot[0, 2, 2] = 1
    >>> [row.trait for row in audit(spot, torch.stack([spot.roll(3, 2), spot], 1), ["tail", "beak"])]
    ['beak', 'tail']
    """
    if by not in MEASURES:
        raise FinerCAMError(f"by={by!r}: expected one of {', '.join(MEASURES)}")
    classifier_maps, concept_maps = _on_one_grid(classifier_maps, concept_maps, len(traits))
    measured = agreement(classifier_maps, concept_maps)
    baseline = shifts(classifier_maps, concept_maps, by, permutations, seed).mean(1)  # (S, T)
    rows = []
    for t, trait in enumerate(traits):
        values = {name: float(measured[name][:, t].mean()) for name in MEASURES}
        hits = int((baseline[:, t] >= values[by]).sum())
        rows.append(
            Agreement(trait, **values, chance=float(baseline[:, t].mean()), p=(1 + hits) / (1 + permutations))
        )
    return sorted(rows, key=lambda row: -row.excess(by))


def agreement(classifier_maps: Tensor, concept_maps: Tensor) -> dict[str, Tensor]:
    """Every measure between maps `(N, h, w)` and `(N, T, h, w)`, each `(N, T)`."""
    return {name: measure(classifier_maps[:, None], concept_maps) for name, measure in MEASURES.items()}


def shifts(classifier_maps: Tensor, concept_maps: Tensor, by: str, count: int, seed: int) -> Tensor:
    """A measure at `count` random cyclic shifts of the classifier's maps, none of them zero: `(count, N, T)`."""
    profile, compare = _STEPS[by]
    height, width = classifier_maps.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    places = 1 + torch.randperm(height * width - 1, generator=generator)
    places = places.repeat(-(-count // max(len(places), 1)))[:count].tolist()
    # The profile of a shifted map is the shifted profile, so each profile is computed only once.
    moving, fixed = profile(classifier_maps).unflatten(-1, (height, width)), profile(concept_maps)
    moved = (moving.roll((place // width, place % width), dims=(-2, -1)).flatten(-2) for place in places)
    return torch.stack([compare(one[:, None], fixed) for one in moved])


def _on_one_grid(classifier_maps: Tensor, concept_maps: Tensor, count: int) -> tuple[Tensor, Tensor]:
    one, other = tuple(classifier_maps.shape), tuple(concept_maps.shape)
    if len(one) != 3 or len(other) != 4 or one[0] != other[0] or other[1] != count or one[0] == 0:
        raise FinerCAMError(
            f"classifier_maps {one} and concept_maps {other}: expected (N, h, w) and (N, {count}, h', w'), N the same"
        )
    size = max(one[1:], other[2:], key=lambda grid: grid[0] * grid[1])
    if size[0] * size[1] < 2:
        raise FinerCAMError(f"maps of {size[0]}x{size[1]} have no place to shift to; use a finer layer")
    large = upsample(concept_maps.flatten(0, 1).float(), (size[0], size[1])).unflatten(0, (other[0], count))
    return upsample(classifier_maps.float(), (size[0], size[1])), large


def _unit(x: Tensor) -> Tensor:
    x = x / x.abs().amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x / x.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def _direction(maps: Tensor) -> Tensor:
    return _unit(maps.clamp(min=0).flatten(-2))


def _share(maps: Tensor) -> Tensor:
    x = maps.clamp(min=0).flatten(-2)
    x = x / x.amax(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x / x.sum(-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)


def _ranks(maps: Tensor) -> Tensor:
    """Centred ranks of the places as a vector of length 1; equal values share their mean rank."""
    ranks = mean_ranks(maps.flatten(-2)).to(maps.dtype)
    return _unit(ranks - ranks.mean(-1, keepdim=True))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(-1)


def _common(one: Tensor, other: Tensor) -> Tensor:
    return torch.minimum(one, other).sum(-1)


_STEPS = {"cosine": (_direction, _dot), "energy_overlap": (_share, _common), "rank_correlation": (_ranks, _dot)}
"""Each measure in two steps: the profile of one map, `(…, h·w)`, and the comparison of two profiles."""
