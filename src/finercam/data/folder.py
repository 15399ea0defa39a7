"""Plain folders: class folders with optional masks and boxes, and a flat folder of pictures without labels."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from finercam.annotation import Annotation
from finercam.data.files import (
    SampleList,
    clip_box,
    numbers,
    pictures_under,
    read_grey,
    read_table,
    safe_path,
)
from finercam.data.sample import Sample
from finercam.errors import FinerCAMError, suggest

__all__ = ["SPLITS", "ImageFolder", "PictureFolder", "class_folders"]

SPLITS = ("test", "val", "valid", "validation", "train")
"""Folder names taken for splits, in the order in which one is taken when none is asked for."""

Box = tuple[float, float, float, float]


class ImageFolder(SampleList):
    """`root/<class>/**/picture`, or `root/<split>/<class>/**/picture`.

    The class is the name of the folder (runs of blanks become one). With splits the classes are those of `train`
    in alphabetical order, so that a label means the same in each split; a class that only another split has comes
    after them. Without `split`, and where all folders are splits, the first of `SPLITS` is taken. A class without
    pictures keeps its place and is named in `skipped`.

    Optional, with paths relative to `root` and coordinates in pixels of the upright picture:

    - `masks/<path without ending>.png`: the mask `"object"`;
    - `masks/<path without ending>/<part>.png`: one mask a part (at or above half of the file's maximum is inside);
    - `boxes.csv` with the header `path,x0,y0,x1,y1`: boxes, `x1` and `y1` exclusive, clipped to the picture.
    """

    def __init__(self, root: str | os.PathLike[str], split: str | None = None) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FinerCAMError(f"{root} is not a folder")
        base, split = _split_folder(root, split)
        folders = class_folders(base)
        classes = [_plain(folder.name) for folder in folders]
        if split and (root / "train").is_dir():
            classes = [_plain(folder.name) for folder in class_folders(root / "train")] + classes
        classes = list(dict.fromkeys(classes))
        boxes, skipped = _boxes(root)
        samples = []
        for folder in folders:
            found = pictures_under(folder)
            label = classes.index(_plain(folder.name))
            samples += [_sample(root, path, label, boxes) for path in found]
            if not found:
                skipped.append((folder.name, "a class without pictures"))
        super().__init__(f"{root.name}{f' {split}' if split else ''}", root, classes, samples, skipped)


class PictureFolder(SampleList):
    """The pictures that lie directly in one folder, without labels; `masks/` and `boxes.csv` as in ImageFolder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        root = Path(root)
        if not root.is_dir():
            raise FinerCAMError(f"{root} is not a folder")
        boxes, skipped = _boxes(root)
        samples = [_sample(root, path, None, boxes) for path in pictures_under(root) if path.parent == root]
        super().__init__(root.name, root, [], samples, skipped)


def class_folders(base: Path) -> list[Path]:
    """The folders in `base` that can be classes, by name."""
    folders = (entry for entry in base.iterdir() if entry.is_dir())
    return sorted(entry for entry in folders if entry.name != "masks" and not entry.name.startswith("."))


def _plain(name: str) -> str:
    return " ".join(name.split())


def _split_folder(root: Path, split: str | None) -> tuple[Path, str | None]:
    names = [folder.name for folder in class_folders(root)]
    if split is None:
        if not names or not set(names) <= set(SPLITS):
            return root, None
        split = next(name for name in SPLITS if name in names)
    same = ("val", "valid", "validation")
    for name in (split, *(same if split in same else ())):
        if name in names:
            return root / name, name
    here = [name for name in SPLITS if name in names]
    raise FinerCAMError(
        f"{root} has no split {split!r}; it has {', '.join(here) or 'no split folders'}.{suggest(split, here)}"
    )


def _sample(root: Path, path: Path, label: int | None, boxes: dict[str, Box]) -> Sample:
    key = path.relative_to(root).as_posix()
    return Sample(key, label, partial(_open, path), partial(_annotate, root, path, boxes.get(key)))


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


def _open(path: Path):
    from finercam.images import read_image

    return read_image(path)


def _annotate(root: Path, path: Path, box: Box | None) -> Annotation:
    from finercam.images import image_size

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
