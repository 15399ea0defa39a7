"""A list file: one picture a line, with or without its class."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from finercam.annotation import Annotation
from finercam.data.files import SampleList, clip_box, numbers, read_lines, safe_path
from finercam.data.sample import Sample
from finercam.errors import FinerCAMError, suggest

__all__ = ["ListFile"]

_PATH = ("path", "file", "filename", "file_name", "image")
_LABEL = ("label", "class", "species", "target")
_BOX = ("x0", "y0", "x1", "y1")

Box = tuple[float, float, float, float]


class ListFile(SampleList):
    """A CSV, TSV or plain text file with `path[,label]` a line, paths relative to `root` (the list's folder).

    A header is optional; with one, the columns are found by name (`path`, `label`, and a box `x0,y0,x1,y1`).
    Labels are class names; where all are whole numbers of at most six digits they are taken as labels, and `classes`
    stays empty unless given (a list of names, or a text file with one a line). A blank label, or −1, is not known
    (None). Lines that begin with `#` are comments. A path that is absolute, climbs out of `root` or leaves it through a link is
    skipped with its reason.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        classes: str | os.PathLike[str] | Sequence[str] | None = None,
    ) -> None:
        path = Path(path)
        base = Path(root) if root is not None else path.parent
        header, rows = _rows(path)
        texts = [row[header["label"]] if "label" in header else "" for row in rows]
        labels, names = _labels(texts, _names(classes), path)
        samples, skipped, seen = [], [], set()
        for row, label in zip(rows, labels, strict=True):
            file = row[header["path"]]
            try:
                place = safe_path(base, file, follow=False)
            except FinerCAMError as error:
                skipped.append((file, str(error)))
                continue
            key = place.relative_to(base).as_posix()
            if key in seen:
                skipped.append((key, "listed twice; the first line counts"))
                continue
            seen.add(key)
            box = _box(path, row, header, file)
            samples.append(Sample(key, label, partial(_open, place), partial(_annotate, place, box)))
        super().__init__(path.name, base, names, samples, skipped)


def _rows(path: Path) -> tuple[dict[str, int], list[list[str]]]:
    """Where the columns are, and the rows, each as wide as the header needs."""
    lines = [line for line in read_lines(path) if not line.startswith("#")]
    if not lines:
        raise FinerCAMError(f"{path} is an empty list; it needs one picture's path a line")
    tabs = path.suffix.lower() == ".tsv" or (path.suffix.lower() != ".csv" and "\t" in lines[0])
    try:
        rows = [[entry.strip() for entry in row] for row in csv.reader(lines, delimiter="\t" if tabs else ",")]
    except csv.Error as error:
        raise FinerCAMError(f"{path}: {error}") from None
    first = [entry.lower() for entry in rows[0]]
    header = {"path": 0}
    if first[0] in _PATH or (len(first) > 1 and set(first) & set(_PATH) and set(first) & set(_LABEL)):
        header = {"path": next(first.index(name) for name in _PATH if name in first)}
        label = [first.index(name) for name in _LABEL if name in first]
        header |= {"label": label[0]} if label else {}
        header |= {name: first.index(name) for name in _BOX} if set(_BOX) <= set(first) else {}
        rows = rows[1:]
    elif len(rows[0]) > 1:
        header["label"] = 1
    width = max(header.values()) + 1
    return header, [row + [""] * (width - len(row)) for row in rows]


def _names(classes: str | os.PathLike[str] | Sequence[str] | None) -> list[str]:
    if classes is None:
        return []
    if isinstance(classes, str | os.PathLike):
        return [line.strip() for line in read_lines(Path(classes))]
    return list(classes)


def _labels(texts: list[str], names: list[str], path: Path) -> tuple[list[int | None], list[str]]:
    """One label a row, and the class names."""
    given = {text for text in texts if text}
    if all(re.fullmatch("-?[0-9]{1,6}", text) for text in given):
        labels = [int(text) if text and int(text) >= 0 else None for text in texts]
        return labels, names
    if names:
        unknown = sorted(given - set(names))
        if unknown:
            raise FinerCAMError(
                f"{path}: class {unknown[0]!r} is not among the {len(names)} classes given."
                f"{suggest(unknown[0], names)}"
            )
    names = names or sorted(given)
    position = {name: index for index, name in enumerate(names)}
    return [position[text] if text else None for text in texts], names


def _box(path: Path, row: list[str], header: dict[str, int], file: str) -> Box | None:
    if "x0" not in header or not row[header["x0"]]:
        return None
    x0, y0, x1, y1 = numbers(path, [row[header[name]] for name in _BOX], file)
    return x0, y0, x1, y1


def _open(path: Path):
    from finercam.images import read_image

    return read_image(path)


def _annotate(path: Path, box: Box | None) -> Annotation:
    from finercam.images import image_size

    return Annotation(box=clip_box(box, image_size(path)) if box else None)
