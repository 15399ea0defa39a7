"""FGVC-Aircraft: 10,000 photographs labelled by variant, family and manufacturer, with boxes."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from finercam.annotation import Annotation, clip_box
from finercam.data.files import SampleList, find_root, numbers, pick, read_lines, safe_path, words
from finercam.data.sample import Sample
from finercam.errors import FinerCAMError
from finercam.images import image_size, read_image

__all__ = ["BANNER", "Aircraft"]

BANNER = 20
"""Height in pixels of the strip with the photographer's name at the bottom of every picture."""

Box = tuple[float, float, float, float]
_LISTS = {"variant": "variants.txt", "family": "families.txt", "manufacturer": "manufacturers.txt"}


class Aircraft(SampleList):
    """FGVC-Aircraft 2013b (Maji et al., 2013): `level` variant (100), family (70) or manufacturer (41).

    Splits `train` (3,334), `val` (3,333), `trainval`, `test` (3,333). `root` is `fgvc-aircraft-2013b`, its `data`
    folder or the folder that holds it. The banner at the bottom is cut off unless `banner=True`. Boxes count
    pixels from 1 with both ends inside; here they start at 0 with `x1`, `y1` exclusive.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str = "test",
        level: str = "variant",
        banner: bool = False,
    ) -> None:
        pick("split", split, ("train", "val", "trainval", "test"))
        pick("level", level, _LISTS)
        listing = f"images_{level}_{split}.txt"
        base = find_root("FGVC-Aircraft", root, ["data", "fgvc-aircraft-2013b/data"], ["images", listing])
        rows = list(words(base / listing, 2, 2))
        if (base / _LISTS[level]).exists():
            classes = [line.strip() for line in read_lines(base / _LISTS[level])]
        else:
            classes = sorted({name for _, name in rows})
        position = {name: index for index, name in enumerate(classes)}
        boxes = _boxes(base / "images_box.txt")
        samples, skipped = [], []
        for number, name in rows:
            if name not in position:
                skipped.append((number, f"{name!r} is not in {_LISTS[level]}"))
                continue
            try:
                path = safe_path(base / "images", f"{number}.jpg")
            except FinerCAMError as error:
                skipped.append((number, str(error)))
                continue
            cut = 0 if banner else BANNER
            annotate = partial(_annotate, path, boxes.get(number), cut)
            samples.append(Sample(f"images/{number}.jpg", position[name], partial(_open, path, cut), annotate))
        super().__init__(f"FGVC-Aircraft {level} {split}", base, classes, samples, skipped)


def _boxes(path: Path) -> dict[str, Box]:
    if not path.exists():
        return {}
    found = {}
    for number, *rest in words(path, 5):
        x0, y0, x1, y1 = numbers(path, rest[:4], f"image {number}")
        found[number] = (x0 - 1, y0 - 1, x1, y1)
    return found


def _open(path: Path, cut: int):
    image = read_image(path, upright=False)
    return image.crop((0, 0, image.width, max(1, image.height - cut))) if cut else image


def _annotate(path: Path, box: Box | None, cut: int) -> Annotation:
    width, height = image_size(path, upright=False)
    return Annotation(box=clip_box(box, (width, max(1, height - cut))) if box else None)
