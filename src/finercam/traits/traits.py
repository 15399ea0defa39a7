"""Traits that tell two classes apart: groups of lit regions, what they weigh, and how far they can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.traits.cluster import centres_of, groups_of
from finercam.traits.sights import ClassSights, Sights

__all__ = ["SIGNIFICANT", "Pair", "Side", "Spot", "Trait", "compare"]

SIGNIFICANT = 1.645
"""Standard scores above this are seen by chance once in twenty times."""
LIKE = 0.4
"""A place whose features have a smaller cosine with a trait does not look like it."""
LEAST_SHARE = 0.02
"""A group with a smaller share of the evidence is no trait."""


@dataclass(frozen=True)
class Spot:
    """A place in a photo: its index among the class's photos, x and y in shares of the model's input, and its share.

    `lit` is false where the place only looks most like the trait and has no evidence of its own; `whole` is true where
    no place looks like it, so that only the photo itself can be shown.
    """

    photo: int
    x: float
    y: float
    share: float
    lit: bool = True
    whole: bool = False


@dataclass(frozen=True)
class Side:
    """A trait on the photos of one of the two classes.

    `photos` of `count` show it, with `share` of all evidence for the class. Of the photos with removal, `margin` is the
    mean margin, `without` what is left of it without the trait's pixels, and `control` without as many pixels at random
    places; NaN where nothing was removed.
    """

    count: int
    photos: int
    share: float
    margin: float
    without: float
    control: float
    spots: tuple[Spot, ...] = ()


@dataclass(frozen=True)
class Trait:
    """A group of regions with like features, on the photos of both classes.

    `share` is its part of the evidence of both sides, `margin_share` the part of the mean margin that is lost without
    it. `halves` are standard scores, one for each half of the photos, of how much more evidence for the first class it
    carries on that class's photos than on the rival's; a trait is `consistent` if both are above `SIGNIFICANT`.
    `removal` is the standard score of its drop of the margin over that of random places. `name` may be empty;
    `name_share` is how much of the names' weight it has.
    """

    share: float
    margin_share: float
    drop: float
    halves: tuple[float, float]
    removal: float
    target: Side
    rival: Side
    name: str = ""
    name_share: float = 0.0

    @property
    def consistent(self) -> bool:
        return min(self.halves) > SIGNIFICANT

    @property
    def confirmed(self) -> bool:
        """Whether its removal lowers the margin more than that of random places."""
        return self.removal > SIGNIFICANT

    @property
    def shown_by(self) -> str:
        """ "target", "rival" or "both": on whose photos its evidence lies; at least a fifth makes it both."""
        whole = self.target.share + self.rival.share
        part = self.target.share / whole if whole else 0.5
        return "both" if 0.2 <= part <= 0.8 else ("target" if part > 0.5 else "rival")


@dataclass(frozen=True)
class Pair:
    """Two classes by id and what tells them apart, the strongest consistent trait first."""

    target: int
    rival: int
    traits: tuple[Trait, ...]
    named_by: str = ""
    counts: tuple[int, int] = (0, 0)
    margins: tuple[float, float] = (0.0, 0.0)
    layers: tuple[str, ...] = field(default=())

    @property
    def consistent(self) -> tuple[Trait, ...]:
        return tuple(trait for trait in self.traits if trait.consistent)


def compare(target: ClassSights, rival: ClassSights) -> Pair:
    """The traits of two classes from what their photos show against each other.

    Raises FinerCAMError where one of them has fewer than two photos, or was not compared with the other.
    """
    for one, other in ((target, rival), (rival, target)):
        if len(one) < 2:
            raise FinerCAMError(f"class {one.target} has {len(one)} usable photos, and traits need at least 2")
        if other.target not in one.of:
            raise FinerCAMError(f"the photos of class {one.target} were not compared with class {other.target}")
    table = _Table.of(target, rival)
    traits = [table.trait(group) for group in range(len(table.centres))]
    kept = [trait for trait in traits if trait.share >= LEAST_SHARE]
    kept.sort(key=lambda trait: (not trait.consistent, -trait.drop))
    return Pair(
        target.target,
        rival.target,
        tuple(kept),
        target.named_by or rival.named_by,
        (len(target), len(rival)),
        (float(target.margin[rival.target].mean()), float(rival.margin[target.target].mean())),
        tuple(target.layers),
    )


@dataclass(frozen=True)
class _Table:
    """All regions of both sides: `side (R,)` is 0 on the target's photos and 1 on the rival's."""

    sides: tuple[ClassSights, ClassSights]
    rows: Sights
    side: Tensor
    group: Tensor
    centres: Tensor
    middle: Tensor
    names: list[str]

    @classmethod
    def of(cls, target: ClassSights, rival: ClassSights) -> _Table:
        both = (target.of[rival.target], rival.of[target.target])
        names = list(dict.fromkeys([*target.names, *rival.names]))
        joined = {name: torch.cat([getattr(one, name) for one in both]) for name in vars(both[0]) if name != "named"}
        named = torch.cat(
            [_in_order(one.named, of.names, names) for one, of in zip(both, (target, rival), strict=True)]
        )
        rows = Sights(named=named, **joined)
        side = torch.cat([torch.full((len(one),), at) for at, one in enumerate(both)])
        own = rows.sign > 0
        middle = rows.features[own].mean(0) if bool(own.any()) else rows.features.sum(0)
        features = F.normalize(rows.features - middle, dim=1)
        groups = groups_of(features[own], rows.share[own])
        centres = centres_of(features[own], rows.share[own], groups)
        group = torch.full((len(rows),), -1)
        group[own] = groups
        if len(centres):
            group[~own] = (features[~own] @ centres.T).argmax(1)
        return cls((target, rival), rows, side, group, centres, middle, names)

    def trait(self, group: int) -> Trait:
        own = (self.group == group) & (self.rows.sign > 0)
        every = self.rows.share[self.rows.sign > 0].sum()
        falls, controls, before = zip(*(self._falls(own & (self.side == side), side) for side in (0, 1)), strict=True)
        fall, control, margin = torch.cat(falls), torch.cat(controls), torch.cat(before)
        name, name_share = self._name(own)
        sides = [
            self._side(own & (self.side == side), group, side, falls[side], controls[side], before[side])
            for side in (0, 1)
        ]
        return Trait(
            share=float(self.rows.share[own].sum() / every),
            margin_share=_mean(fall) / _mean(margin) if len(margin) and _mean(margin) > 0 else float("nan"),
            drop=_mean(fall),
            halves=(self._score(group, 0), self._score(group, 1)),
            removal=_standard(fall - control),
            target=sides[0],
            rival=sides[1],
            name=name,
            name_share=name_share,
        )

    def _values(self, group: int, side: int) -> Tensor:
        """The evidence for the target in a trait, of each photo of a side `(N,)`; negative if it speaks for the rival."""
        mine = (self.group == group) & (self.side == side)
        signed = self.rows.share[mine] * self.rows.sign[mine] * (1 if side == 0 else -1)
        return torch.zeros(len(self.sides[side])).index_add_(0, self.rows.photo[mine], signed)

    def _score(self, group: int, half: int) -> float:
        """How much more evidence for the target a trait carries on its photos than on the rival's, as a standard score.

        The rank-sum statistic of Mann and Whitney (1947) by its normal approximation, with ties; of every other photo.
        """
        one, other = self._values(group, 0)[half::2], self._values(group, 1)[half::2]
        if not len(one) or not len(other):
            return 0.0
        wins = (one[:, None] > other).double().mean() + (one[:, None] == other).double().mean() / 2
        total = len(one) + len(other)
        ties = torch.cat([one, other]).unique(return_counts=True)[1].double()
        correction = 1 - float((ties**3 - ties).sum()) / max(1, total**3 - total)
        spread = (correction * (total + 1) / (12 * len(one) * len(other))) ** 0.5
        return float((wins - 0.5) / spread) if spread > 0 else 0.0

    def _falls(self, mine: Tensor, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of each photo of a side with removal: the fall of its margin, the same at random places, the margin."""
        sights, other = self.sides[side], self.sides[1 - side].target
        measured = ~self.rows.drop.isnan() & (self.side == side)
        photos = self.rows.photo[measured].unique()
        sums = []
        for values in (self.rows.drop, self.rows.control):
            whole = torch.zeros(len(sights)).index_add_(
                0, self.rows.photo[mine & measured], values[mine & measured].float()
            )
            sums.append(whole[photos])
        return sums[0], sums[1], sights.margin[other][photos]

    def _side(self, mine: Tensor, group: int, side: int, fall: Tensor, control: Tensor, margin: Tensor) -> Side:
        sights = self.sides[side]
        every = self.rows.share[(self.rows.sign > 0) & (self.side == side)].sum()
        before = _mean(margin)
        return Side(
            len(sights),
            len(self.rows.photo[mine].unique()),
            float(self.rows.share[mine].sum() / every) if float(every) else 0.0,
            before,
            before - _mean(fall),
            before - _mean(control),
            self._spots(mine, group, side),
        )

    def _spots(self, mine: Tensor, group: int, side: int, most: int = 4) -> tuple[Spot, ...]:
        """The strongest regions of a trait, one a photo; where no photo is lit, the places that look most like it."""
        order = [at for at in self.rows.share.argsort(descending=True).tolist() if bool(mine[at])]
        best: dict[int, Spot] = {}
        for at in order:
            x, y = self.rows.place[at].tolist()
            best.setdefault(
                int(self.rows.photo[at]), Spot(int(self.rows.photo[at]), x, y, float(self.rows.share[at]))
            )
        lit = list(best.values())[:most]
        if len(lit) < most:
            lit += [spot for spot in self._alike(group, side) if spot.photo not in best][: most - len(lit)]
        return tuple(lit)

    def _alike(self, group: int, side: int) -> list[Spot]:
        grids = self.sides[side].grids
        if grids.shape[1] != self.centres.shape[1]:
            return []
        found = []
        for photo, grid in enumerate(grids):
            features = F.normalize(grid.flatten(1).T - self.middle, dim=1)
            alike = features @ self.centres[group]
            row, column = divmod(int(alike.argmax()), grid.shape[2])
            x, y = (column + 0.5) / grid.shape[2], (row + 0.5) / grid.shape[1]
            found.append(Spot(photo, x, y, 0.0, lit=False, whole=float(alike.max()) < LIKE))
        return found

    def _name(self, own: Tensor) -> tuple[str, float]:
        if not self.names:
            return "", 0.0
        weights = (self.rows.named[own] * self.rows.share[own, None]).sum(0)
        best = int(weights.argmax())
        total = float(weights.sum())
        return (self.names[best], float(weights[best]) / total) if total > 0 else ("", 0.0)


def _in_order(named: Tensor, own: Sequence[str], names: Sequence[str]) -> Tensor:
    ordered = torch.zeros(len(named), len(names))
    for at, name in enumerate(own):
        ordered[:, names.index(name)] = named[:, at]
    return ordered


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else float("nan")


def _standard(values: Tensor) -> float:
    """The mean of some values over its standard error; 0 where there are fewer than two, or no spread."""
    if len(values) < 2:
        return 0.0
    error = float(values.double().std()) / len(values) ** 0.5
    return float(values.double().mean()) / error if error > 0 else 0.0


def plain(value: Any) -> Any:
    """A number for JSON: None for one that is not finite, else rounded to four places."""
    return round(value, 4) if isinstance(value, float) and value == value and abs(value) != float("inf") else None
