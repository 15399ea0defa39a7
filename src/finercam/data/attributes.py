"""How much two species differ, part by part: from the attributes that people saw in photographs of CUB-200-2011."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from finercam.data.files import numbers, words
from finercam.errors import FinerCAMError

__all__ = ["KEYPOINT_PARTS", "PARTS", "Attributes", "read_attributes"]

PARTS = (
    *("back", "beak", "belly", "breast", "crown", "forehead"),
    *("eyes", "legs", "nape", "tail", "throat", "wings"),
)
"""Parts that have both keypoints and attributes."""

KEYPOINT_PARTS = {part: part for part in PARTS} | {
    f"{side} {part.removesuffix('s')}": part for side in ("left", "right") for part in ("eyes", "legs", "wings")
}
"""The part that a keypoint of an annotation belongs to: "left eye" and "right eye" to "eyes"."""

_KINDS = re.compile(r"has_(?:upper_|under_)?([a-z]+)_(?:color|pattern|shape)")
_PART_OF = {part: part for part in PARTS} | {"bill": "beak", "eye": "eyes", "leg": "legs", "wing": "wings"}


class Attributes:
    """Frequencies `(species, attributes)` in percent, and the columns of each attribute group of each part."""

    def __init__(self, frequencies: np.ndarray, groups: dict[str, list[list[int]]]) -> None:
        self.frequencies, self.groups = frequencies, groups

    def difference(self, c: int, d: int) -> dict[str, float]:
        """How much species `c` and `d` differ in each part, in [0, 1].

        For each group of attributes of the part (colour, pattern, shape) both species' frequencies are normalised to
        sum to 1; the difference is the largest total-variation distance, ½ Σ |p − q|, over the groups. A group that
        nobody described for one of the species is left out.
        """
        found = {}
        for part, groups in self.groups.items():
            pairs = [self.frequencies[np.ix_([c, d], columns)] for columns in groups]
            shares = [pair / pair.sum(1, keepdims=True) for pair in pairs if (pair.sum(1) > 0).all()]
            found[part] = max((float(abs(p - q).sum()) / 2 for p, q in shares), default=0.0)
        return found


def read_attributes(base: Path, count: int) -> Attributes | None:
    """The attributes of `count` species of a CUB folder; None where their files were not unpacked.

    `attributes.txt` may lie in `attributes/`, in `base` or beside it, as in the published archive. Raises
    FinerCAMError for tables that do not fit together.
    """
    table = base / "attributes" / "class_attribute_labels_continuous.txt"
    places = (base / "attributes", base, base.parent)
    names = next((file for place in places if (file := place / "attributes.txt").is_file()), None)
    if names is None or not table.is_file():
        return None
    columns: dict[str, dict[str, list[int]]] = {}
    listed = [name for _, name in words(names, 2, 2)]
    for column, name in enumerate(listed):
        group = name.partition("::")[0]
        kind = _KINDS.fullmatch(group)
        if kind and kind[1] in _PART_OF:
            columns.setdefault(_PART_OF[kind[1]], {}).setdefault(group, []).append(column)
    rows = [numbers(table, row, f"line {line}") for line, row in enumerate(words(table, 1), 1)]
    if len(rows) != count or any(len(row) != len(listed) for row in rows):
        raise FinerCAMError(f"{table} is not {count} lines, one a species, of {len(listed)} frequencies each")
    groups = {part: list(columns[part].values()) for part in PARTS if part in columns}
    return Attributes(np.array(rows).clip(min=0), groups)
