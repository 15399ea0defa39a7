"""What a caller writes for classes and groups of classes, as ids."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finercam.core.groups import NO_GROUPS, Groups
from finercam.errors import FinerCAMError
from finercam.names import class_id, label

__all__ = ["NamedGroups", "Names", "checked_groups"]

NamedGroups = tuple[tuple[str, frozenset], ...]

UNKNOWN = 2**40
"""Stands for the number of classes until the model has run; no id of a class is as large."""


def checked_groups(given: Any) -> NamedGroups:
    """Groups with their names, from a mapping of names to classes, of classes to names, or a CSV file of two columns.

    `{"Pippin": ["Plain Pippin", "Royal Pippin"]}` and `{"Plain Pippin": "Pippin", "Royal Pippin": "Pippin"}` mean the
    same. In a CSV file the first column has the classes and the second the groups, under a line of headings.

    >>> checked_groups({"wren": "small", "robin": "small", "crow": "large"})[0][0]
    'small'
    """
    if isinstance(given, (str, os.PathLike)):
        given = _table(Path(given))
    if not isinstance(given, Mapping) or not given:
        raise FinerCAMError(f"groups={given!r}: expected a mapping from names to classes, or from classes to names")
    if all(isinstance(value, str) for value in given.values()):
        turned: dict[str, list[Any]] = {}
        for one, name in given.items():
            turned.setdefault(name, []).append(one)
        given = turned
    for name, members in given.items():
        if (
            not isinstance(name, str)
            or isinstance(members, str)
            or not isinstance(members, (Sequence, Set))
            or not members
        ):
            raise FinerCAMError(f"groups: {name!r} has {members!r}; expected a name (str) with a list of classes")
    return tuple((name, frozenset(members)) for name, members in given.items())


def _table(file: Path) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened:
            rows = [row for row in csv.reader(opened) if row][1:]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FinerCAMError(f"{file}: cannot be read as a CSV file of classes and groups: {error}") from error
    if not rows or any(len(row) < 2 for row in rows):
        raise FinerCAMError(f"{file}: expected lines 'class,group' under a line of headings")
    return {row[0].strip(): row[1].strip() for row in rows}


@dataclass
class Names:
    """Class names `(K,)` and named groups of one question, and the groups that it used so far."""

    class_names: Sequence[str] | None
    num_classes: int | None
    named: NamedGroups = ()
    groups: Groups = NO_GROUPS

    @property
    def count(self) -> int:
        return UNKNOWN if self.num_classes is None else self.num_classes

    def id_of(self, given: Any, what: str) -> int:
        """The id of a class, of a set of classes, or of a group by its name. A class comes before a group of its name."""
        if isinstance(given, frozenset):
            name = next((name for name, members in self.named if members == given), None)
            return self._group(given, name, what)
        if isinstance(given, str) and given not in (self.class_names or ()):
            for name, members in self.named:
                if name.casefold() == given.strip().casefold():
                    return self._group(members, name, what)
        return class_id(given, self.class_names, self.num_classes, what)

    def _group(self, members: frozenset, name: str | None, what: str) -> int:
        if not members:
            raise FinerCAMError(f"{what} is an empty set; expected the classes that count as one")
        ids = sorted({self._class(one, what) for one in members})
        if len(ids) == self.num_classes:
            raise FinerCAMError(f"{what}: the set holds every class, so that nothing is left to hold against it")
        return self._with(ids, name or " or ".join(label(one, self.class_names) for one in ids))

    def _class(self, one: Any, what: str) -> int:
        """The id of a class of a group; a number in a CSV file is an id if no class has that name."""
        number = isinstance(one, str) and one.isdecimal() and one not in (self.class_names or ())
        return class_id(int(one) if number else one, self.class_names, self.num_classes, what)

    def _with(self, ids: Sequence[int], name: str) -> int:
        self.groups, index = self.groups.with_group(ids, name, self.count)
        return index

    def apart(self, targets: Sequence[int], rows: Sequence[Sequence[int]], first: int = 0) -> list[list[int]]:
        """The rivals of each sample. A group with the target's classes in it means its other classes.

        Raises FinerCAMError where target and rival overlap in another way.
        """
        return [
            [self._apart(target, rival, sample) for rival in row]
            for sample, (target, row) in enumerate(zip(targets, rows, strict=True), first)
        ]

    def _apart(self, target: int, rival: int, sample: int) -> int:
        own, other = (set(self.groups.of(index, self.count)) for index in (target, rival))
        if not own & other or target == rival:
            return rival  # a target that is its own rival is refused with the rest of the question
        if own < other:
            name = self.groups.named(rival, self.count)
            return self._with(
                sorted(other - own), f"other {name}" if " or " not in name else self._listed(other - own)
            )
        raise FinerCAMError(
            f"sample {sample}: target and rival share {self._listed(own & other)}; name each class on one side only"
        )

    def _listed(self, ids: Set[int]) -> str:
        return " or ".join(label(one, self.class_names) for one in sorted(ids))

    def likeliest_rivals(self, target: int, logits: Tensor, count: int) -> Tensor:
        """The ids of the likeliest rivals of a target that may be a group, for logits `(K,)`.

        Of a group with a name, these are the other groups with names; else classes.
        """
        own = set(self.groups.of(target, self.count))
        by_name = target >= self.count and self.groups.named(target, self.count) in {name for name, _ in self.named}
        others = [self.id_of(name, "group") for name, _ in self.named] if by_name else list(range(len(logits)))
        free = [index for index in dict.fromkeys(others) if not own & set(self.groups.of(index, self.count))]
        if not free:
            raise FinerCAMError("no class is left outside of the target's group; name its rival with against=")
        scores = self.groups.logits(logits[None])[0][free]
        return torch.tensor(free)[scores.sort(descending=True, stable=True).indices[:count]]
