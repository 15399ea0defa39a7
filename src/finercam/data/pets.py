"""Oxford-IIIT Pet: 37 breeds of cats and dogs, each picture with a trimap."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from finercam.annotation import Annotation
from finercam.data.files import SampleList, find_root, mask_box, pick, read_grey, safe_path, words
from finercam.data.sample import Sample
from finercam.errors import FinerCAMError
from finercam.images import image_size, read_image

__all__ = ["Pets"]

_BACKGROUND, _BORDER = 2, 3


class Pets(SampleList):
    """The published folders `images/` and `annotations/` (Parkhi et al., 2012), splits `trainval` and `test`.

    The mask `"object"` is the trimap's foreground with its border, the band around the animal's edge
    (`border=False` leaves that out); the box is the tight one around it. `train` is another word for `trainval`.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "test", border: bool = True) -> None:
        listing = "trainval" if split == "train" else pick("split", split, ("trainval", "test"))
        base = find_root("Oxford-IIIT Pet", root, ["oxford-iiit-pet"], ["images", f"annotations/{listing}.txt"])
        rows = list(words(base / "annotations" / f"{listing}.txt", 2))
        named: dict[int, str] = {}
        samples, skipped = [], []
        for stem, number, *_ in rows:
            breed = stem.rpartition("_")[0].replace("_", " ")
            try:
                label = _label(number)
                path = safe_path(base / "images", f"{stem}.jpg")
            except ValueError as error:  # FinerCAMError is one too
                skipped.append((stem, str(error)))
                continue
            if named.setdefault(label, breed) != breed:
                raise FinerCAMError(f"Oxford-IIIT Pet: class {number} is {named[label]!r} and also {breed!r}")
            annotate = partial(_annotate, path, base / "annotations" / "trimaps" / f"{stem}.png", border)
            samples.append(Sample(f"images/{stem}.jpg", label, partial(read_image, path, upright=False), annotate))
        classes = [named.get(label, f"class {label + 1}") for label in range(max(named, default=-1) + 1)]
        super().__init__(f"Oxford-IIIT Pet {listing}", base, classes, samples, skipped)


def _label(number: str) -> int:
    label = int(number) - 1
    if not 0 <= label < 10_000:  # a name is made for every class up to the highest
        raise FinerCAMError(f"class {label + 1:.3g} is not one of a few dozen breeds, counted from 1")
    return label


def _annotate(path: Path, trimap: Path, border: bool) -> Annotation:
    if not trimap.parent.is_dir():
        return Annotation()
    values = read_grey(trimap, image_size(path, upright=False))
    if not 1 <= values.min() <= values.max() <= _BORDER:
        raise FinerCAMError(f"{trimap} is not a trimap: it has values outside 1, 2, 3")
    inside = values != _BACKGROUND if border else values == 1
    return Annotation(box=mask_box(inside), masks={"object": inside} if inside.any() else {})
