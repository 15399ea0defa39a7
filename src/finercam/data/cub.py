"""CUB-200-2011: 200 bird species with boxes, 15 keypoints and (a separate archive) segmentations."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from finercam.annotation import Annotation, clip_box
from finercam.data.attributes import read_attributes
from finercam.data.files import SampleList, find_root, numbers, pick, read_grey, safe_path, words
from finercam.data.sample import Sample
from finercam.images import image_size, read_image
from finercam.names import class_id

__all__ = ["CUB"]

Box = tuple[float, float, float, float]


class CUB(SampleList):
    """The published folder `CUB_200_2011` (Wah et al., 2011), splits `train` (5,994), `test` (5,794), `all`.

    `root` is that folder or the one which holds it; `segmentations/` is looked for inside and beside it. Boxes are
    clipped to the picture (one overruns it); only visible keypoints are given; the mask `"object"` is where at
    least half of the annotators agreed (grey ≥ 128). Class names lose their number: "Black footed Albatross".

    Where the attributes were unpacked (`attributes/`), `attribute_difference(c, d)` maps each part to how much two
    species (labels or names) differ in it, see `finercam.data.attributes`; without them there is no such method.
    """

    attribute_difference: Callable[[int | str, int | str], dict[str, float]]

    def __init__(self, root: str | os.PathLike[str], split: str = "test") -> None:
        pick("split", split, ("train", "test", "all"))
        base = find_root("CUB-200-2011", root, ["CUB_200_2011"], ["images.txt", "image_class_labels.txt"])
        numbered = dict(words(base / "classes.txt", 2, 2))
        position = {number: index for index, number in enumerate(numbered)}
        label = dict(words(base / "image_class_labels.txt", 2, 2))
        train = dict(words(base / "train_test_split.txt", 2, 2))
        boxes = _boxes(base / "bounding_boxes.txt")
        points = _keypoints(base / "parts")
        masks = next((d for d in (base / "segmentations", base.parent / "segmentations") if d.is_dir()), None)

        samples, skipped = [], []
        for number, file in words(base / "images.txt", 2, 2):
            if number not in train or label.get(number) not in position:
                skipped.append((file, "has no split or no known class"))
                continue
            if split != "all" and (train[number] == "1") != (split == "train"):
                continue
            try:
                path = safe_path(base / "images", file)
                mask = masks / Path(file).with_suffix(".png") if masks else None
            except ValueError as error:  # FinerCAMError is one too
                skipped.append((file, str(error)))
                continue
            annotate = partial(_annotate, path, boxes.get(number), points.get(number, {}), mask)
            samples.append(Sample(file, position[label[number]], partial(read_image, path, upright=False), annotate))
        classes = [re.sub(r"^\d+\.", "", name).replace("_", " ") for name in numbered.values()]
        super().__init__(f"CUB-200-2011 {split}", base, classes, samples, skipped)
        self.attributes = read_attributes(base, len(classes))
        if self.attributes is not None:
            self.attribute_difference = self._attribute_difference

    def siblings(self, c: int | str) -> tuple[int, ...]:
        """The species (labels) whose names end in the same word, such as all other blackbirds."""
        label = class_id(c, self.classes, len(self.classes))
        last = [name.casefold().rpartition(" ")[2] for name in self.classes]
        return tuple(d for d, word in enumerate(last) if word == last[label] and d != label)

    def _attribute_difference(self, c: int | str, d: int | str) -> dict[str, float]:
        assert self.attributes is not None
        return self.attributes.difference(*(class_id(which, self.classes, len(self.classes)) for which in (c, d)))


def _boxes(path: Path) -> dict[str, Box]:
    found = {}
    for number, *rest in words(path, 5):
        x, y, width, height = numbers(path, rest[:4], f"image {number}")
        found[number] = (x, y, x + width, y + height)
    return found


def _keypoints(folder: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Image number to the visible parts; empty where `parts/` was not unpacked."""
    if not (folder / "part_locs.txt").exists():
        return {}
    name = dict(words(folder / "parts.txt", 2, 2))
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for number, part, *rest in words(folder / "part_locs.txt", 5):
        x, y, visible = numbers(folder / "part_locs.txt", rest[:3], f"image {number}")
        if visible:
            found.setdefault(number, {})[name.get(part, part)] = (x, y)
    return found


def _annotate(path: Path, box: Box | None, points: dict[str, tuple[float, float]], mask: Path | None) -> Annotation:
    width, height = size = image_size(path, upright=False)
    return Annotation(
        box=clip_box(box, size) if box else None,
        masks={"object": read_grey(mask, size) >= 128} if mask else {},
        keypoints={part: (x, y) for part, (x, y) in points.items() if 0 <= x < width and 0 <= y < height},
    )
