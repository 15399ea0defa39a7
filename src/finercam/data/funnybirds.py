"""FunnyBirds: rendered birds of 50 classes that differ in known parts, with a map of the parts for each picture."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finercam.annotation import Annotation
from finercam.data.files import SampleList, find_root, mask_box, pick, read_json
from finercam.data.sample import Sample
from finercam.errors import FinerCAMError
from finercam.images import read_image

if TYPE_CHECKING:
    import numpy as np

__all__ = ["PART_COLOURS", "FunnyBirds"]

PART_COLOURS = {
    "eye": ((255, 255, 253), (255, 255, 254)),
    "beak": ((255, 255, 0),),
    "foot": ((255, 0, 1), (255, 0, 2)),
    "wing": ((0, 255, 1), (0, 255, 2)),
    "tail": ((0, 0, 255),),
}
"""Colours of the parts in a part map, left and right apart; the names are those of `classes.json`."""

BODY_COLOUR = (170, 170, 170)
"""The colour of the body, which is the same in all classes; other greys are objects of the background."""


class FunnyBirds(SampleList):
    """The published folder (Hesse et al., ICCV 2023), splits `train` and `test`.

    Masks are `"beak"`, `"eye"`, `"foot"`, `"tail"`, `"wing"` (both sides together; a part that cannot be seen has
    no entry) and `"object"`, all of these and the body; the box is the tight one around the object. The parts
    in which two classes differ are known: `discriminative_parts`, `contrast_mask`.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "test") -> None:
        pick("split", split, ("train", "test"))
        wanted = ["classes.json", f"dataset_{split}.json", split]
        base = find_root("FunnyBirds", root, ["FunnyBirds"], wanted)
        self._parts: list[dict[str, Any]] = []
        for index, entry in enumerate(_json(base / "classes.json")):
            if not isinstance(entry, dict) or entry.get("class_idx") != index or not _is_parts(entry):
                raise FinerCAMError(f"{base / 'classes.json'}: entry {index} is not class {index} with its parts")
            self._parts.append(entry["parts"])
        samples = []
        for index, entry in enumerate(_json(base / f"dataset_{split}.json")):
            try:
                label = int(entry["class_idx"])
            except (TypeError, KeyError, ValueError, OverflowError):
                raise FinerCAMError(f"dataset_{split}.json: entry {index} has no class_idx") from None
            file = f"{label}/{index:06d}.png"
            path, parts = base / split / file, base / f"{split}_part_map" / file
            samples.append(
                Sample(f"{split}/{file}", label, partial(read_image, path, upright=False), partial(_annotate, parts))
            )
        classes = [f"bird {index:02d}" for index in range(len(self._parts))]
        super().__init__(f"FunnyBirds {split}", base, classes, samples)

    def discriminative_parts(self, c: int | str, d: int | str) -> tuple[str, ...]:
        """The parts in which classes `c` and `d` (labels or names) differ, by name; none if they are the same."""
        first, second = self._parts[self._class(c)], self._parts[self._class(d)]
        return tuple(sorted(part for part in first.keys() | second.keys() if first.get(part) != second.get(part)))

    def contrast_mask(self, index: int, rival: int | str) -> np.ndarray:
        """The pixels of picture `index` in which its class differs from `rival`: `(H, W)` bool, the parts' masks together.

        All False where none of these parts can be seen, or the rival is the picture's own class. Raises
        FinerCAMError where the part maps were not unpacked.
        """
        import numpy as np

        sample = self[index]
        assert sample.label is not None  # every entry of dataset_*.json has its class
        discriminative = self.discriminative_parts(sample.label, rival)
        part_map = self.root / f"{sample.id.split('/')[0]}_part_map"
        if not part_map.is_dir():
            raise FinerCAMError(f"FunnyBirds: {part_map} is missing; contrast_mask needs the part maps")
        masks = sample.annotation.masks
        height, width = _pixels(part_map / sample.id.split("/", 1)[1]).shape[:2]
        found = [masks[part] for part in discriminative if part in masks]
        return np.logical_or.reduce(found) if found else np.zeros((height, width), bool)

    def _class(self, which: int | str) -> int:
        if isinstance(which, str):
            which = self.classes.index(pick("class", which, self.classes))
        if not 0 <= which < len(self.classes):
            raise FinerCAMError(f"FunnyBirds has classes 0 to {len(self.classes) - 1}, not {which}")
        return int(which)


def _is_parts(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("parts"), dict) and bool(entry["parts"])


def _json(path: Path) -> list[Any]:
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise FinerCAMError(f"{path} is not a JSON list of entries")
    return entries


def _pixels(path: Path) -> np.ndarray:
    import numpy as np

    return np.asarray(read_image(path, upright=False)).astype(np.int16)


def _annotate(path: Path) -> Annotation:
    import numpy as np

    if not path.parents[1].is_dir():
        return Annotation()
    pixels = _pixels(path)
    masks = {}
    for part, colours in PART_COLOURS.items():
        mask = np.logical_or.reduce([(pixels == colour).all(-1) for colour in colours])
        if mask.any():
            masks[part] = mask
    body = (abs(pixels - BODY_COLOUR) <= 2).all(-1)
    whole = np.logical_or.reduce([body, *masks.values()])
    if whole.any():
        masks["object"] = whole
    return Annotation(box=mask_box(whole), masks=masks)
