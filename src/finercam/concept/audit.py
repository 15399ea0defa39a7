"""Does a classifier's evidence lie where a trait is? Agreement of its contrast maps with concept maps, over chance.

The examination of Finer-CAM's section 4.3: a classifier that tells c from d by the trait that does tell them apart
has its contrast map where an image–text model sees that trait.
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
    """Cosine of the positive parts of two maps `(…, h, w)`, in [0, 1]; 0 where a map has none.

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
    """Spearman's correlation of two signed maps `(…, h, w)`, in [-1, 1], equal values sharing their mean rank.

    >>> round(rank_correlation(torch.tensor([[1.0, 5.0, 9.0]]), torch.tensor([[2.0, 2.5, 40.0]])).item(), 4)
    1.0
    """
    return _dot(_ranks(one), _ranks(other))


MEASURES = {"cosine": cosine, "energy_overlap": energy_overlap, "rank_correlation": rank_correlation}


@dataclass(frozen=True)
class Agreement:
    """How far a classifier's evidence agrees with one trait, the mean over pictures, and what chance gives.

    `chance` and `p` are of the measure that the traits are ranked by: its mean over shifted maps, and the share of
    shifts at which the trait agrees at least as well as it does in its place, `(1 + hits) / (1 + shifts)`.
    """

    trait: str
    cosine: float
    energy_overlap: float
    rank_correlation: float
    chance: float
    p: float

    def excess(self, by: str = "cosine") -> float:
        """The measure over its chance level."""
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
    """Traits by how far the evidence agrees with them beyond chance, the best first.

    `classifier_maps (N, h, w)` are signed contrast maps of N pictures, `concept_maps (N, T, h', w')` those of T traits
    in the same pictures. The baseline shifts the classifier's map against the trait's, over the edges, which keeps
    what each looks like and breaks only that they are of the same place; shuffled pixels would be beaten by any two
    smooth maps.

    Raises FinerCAMError for shapes that do not go together.

    >>> spot = torch.zeros(1, 8, 8); spot[0, 2, 2] = 1
    >>> [found.trait for found in audit(spot, torch.stack([spot.roll(3, 2), spot], 1), ["tail", "beak"])]
    ['beak', 'tail']
    """
    if by not in MEASURES:
        raise FinerCAMError(f"by={by!r}: expected one of {', '.join(MEASURES)}")
    classifier_maps, concept_maps = _on_one_grid(classifier_maps, concept_maps, len(traits))
    found = agreement(classifier_maps, concept_maps)
    baseline = shifts(classifier_maps, concept_maps, by, permutations, seed).mean(1)  # (S, T)
    rows = []
    for t, trait in enumerate(traits):
        values = {name: float(found[name][:, t].mean()) for name in MEASURES}
        hits = int((baseline[:, t] >= values[by]).sum())
        rows.append(
            Agreement(trait, **values, chance=float(baseline[:, t].mean()), p=(1 + hits) / (1 + permutations))
        )
    return sorted(rows, key=lambda row: -row.excess(by))


def agreement(classifier_maps: Tensor, concept_maps: Tensor) -> dict[str, Tensor]:
    """Every measure of maps `(N, h, w)` against `(N, T, h, w)`: `(N, T)` each."""
    return {name: measure(classifier_maps[:, None], concept_maps) for name, measure in MEASURES.items()}


def shifts(classifier_maps: Tensor, concept_maps: Tensor, by: str, count: int, seed: int) -> Tensor:
    """A measure at `count` random shifts of the classifier's maps over the edges, none of them zero: `(count, N, T)`."""
    profile, compare = _STEPS[by]
    height, width = classifier_maps.shape[-2:]
    generator = torch.Generator().manual_seed(seed)
    places = 1 + torch.randperm(height * width - 1, generator=generator)
    places = places.repeat(-(-count // max(len(places), 1)))[:count].tolist()
    # A profile moves with its map, so each map is looked at once and not at every shift.
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
        raise FinerCAMError(f"maps of {size[0]}x{size[1]} have no place to be shifted to; take a finer layer")
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
    """Ranks of the places, equal values sharing the mean of theirs, less their mean, as a vector of length 1."""
    ranks = mean_ranks(maps.flatten(-2)).to(maps.dtype)
    return _unit(ranks - ranks.mean(-1, keepdim=True))


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(-1)


def _common(one: Tensor, other: Tensor) -> Tensor:
    return torch.minimum(one, other).sum(-1)


_STEPS = {"cosine": (_direction, _dot), "energy_overlap": (_share, _common), "rank_correlation": (_ranks, _dot)}
"""Each measure in two steps: what is taken of a map by itself, `(…, h·w)`, and how two of those compare."""
