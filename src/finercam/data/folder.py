"""Plain folders as datasets: class folders with optional masks and boxes, and a flat folder without labels."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from finercam.annotation import Annotation, clip_box
from finercam.data.files import SampleList, numbers, read_grey, read_table, safe_path
from finercam.data.sample import Sample
from finercam.data.source import FolderSource, class_folders, class_name
from finercam.errors import FinerCAMError
from finercam.images import image_size, read_image

__all__ = ["ImageFolder", "PictureFolder"]

Box = tuple[float, float, float, float]


class ImageFolder(SampleList):
    """`root/<class>/**/picture`, or `root/<split>/<class>/**/picture`.

    The class is the name of the folder (runs of blanks become one). With splits the classes are those of `train`
    in alphabetical order, so that a label means the same in each split; a class that only another split has comes
    after them. Without `split`, and where all folders are splits, the first of `SPLITS` is taken. A class without
    pictures keeps its place, and is named in `skipped`, as is a picture outside all class folders.

    Optional, with paths relative to `root` and coordinates in pixels of the upright picture:

    - `masks/<path without ending>.png`: the mask `"object"`;
    - `masks/<path without ending>/<part>.png`: one mask a part (at or above half of the file's maximum is inside);
    - `boxes.csv` with the header `path,x0,y0,x1,y1`: boxes, `x1` and `y1` exclusive, clipped to the picture.
    """

    def __init__(self, root: str | os.PathLike[str], split: str | None = None) -> None:
        source = FolderSource(root, split)
        classes = source.classes()
        samples, skipped = _samples(source, {name: label for label, name in enumerate(classes)})
        name = f"{source.root.name} {source.split}" if source.split else source.root.name
        super().__init__(name, source.root, classes, samples, skipped)


class PictureFolder(SampleList):
    """The pictures that lie directly in one folder, without labels; `masks/` and `boxes.csv` as in ImageFolder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        source = FolderSource(root, flat=True)
        super().__init__(source.root.name, source.root, [], *_samples(source, None))


def _samples(source: FolderSource, position: dict[str, int] | None) -> tuple[list[Sample], list[tuple[str, str]]]:
    """The pictures of a folder, labelled by `position` of their class if there are classes, and what was skipped."""
    boxes, skipped = _boxes(source.root)
    samples = []
    empty = dict.fromkeys(class_name(folder) for folder in class_folders(source.base)) if position else {}
    for entry in source.entries():
        label = None if position is None or entry.label is None else position.get(entry.label)
        if entry.refused is not None:
            skipped.append((entry.path, entry.refused))
        elif position is not None and label is None:
            skipped.append((entry.path, "lies in no class folder"))
        else:
            path = source.root / entry.path
            annotate = partial(_annotate, source.root, path, boxes.get(entry.path))
            samples.append(Sample(entry.path, label, partial(read_image, path), annotate))
            empty.pop(entry.label or "", None)
    return samples, skipped + [(name, "a class without pictures") for name in empty]


def _boxes(root: Path) -> tuple[dict[str, Box], list[tuple[str, str]]]:
    path = root / "boxes.csv"
    found: dict[str, Box] = {}
    skipped: list[tuple[str, str]] = []
    if not path.exists():
        return found, skipped
    for row in read_table(path, ("path", "x0", "y0", "x1", "y1")):
        key = row["path"].replace("\\", "/")
        x0, y0, x1, y1 = numbers(path, (row["x0"], row["y0"], row["x1"], row["y1"]), key)
        try:
            if not safe_path(root, key, follow=False).exists():
                skipped.append((key, "boxes.csv names it, but there is no such picture"))
        except FinerCAMError as error:
            skipped.append((key, f"boxes.csv: {error}"))
            continue
        found[key] = (x0, y0, x1, y1)
    return found, skipped


def _annotate(root: Path, path: Path, box: Box | None) -> Annotation:
    size = image_size(path)
    stem = root / "masks" / path.relative_to(root).with_suffix("")
    masks = {}
    if (whole := stem.parent / f"{stem.name}.png").is_file():
        masks["object"] = _inside(whole, size)
    if stem.is_dir():
        masks |= {part.stem: _inside(part, size) for part in sorted(stem.glob("*.png"))}
    return Annotation(box=clip_box(box, size) if box else None, masks=masks)


def _inside(path: Path, size: tuple[int, int]):
    values = read_grey(path, size)
    return values >= max(1, (int(values.max()) + 1) // 2)  # 0/1 and 0/255 masks alike
