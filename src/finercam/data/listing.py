"""A list file as a dataset: one picture a row, with or without its class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from finercam.annotation import Annotation, clip_box
from finercam.data.files import SampleList, numbers, read_lines
from finercam.data.labels import label_ids
from finercam.data.sample import Sample
from finercam.data.source import Listed, ListSource
from finercam.images import image_size, read_image

__all__ = ["ListFile"]


class ListFile(SampleList):
    """A CSV, TSV, text or Parquet file with the path of a picture in each row, relative to `root` (the list's folder).

    `finercam.data.lists` says how it is read, `finercam.data.labels` what its labels mean: class ids if all are whole
    numbers, and class names otherwise. `classes` are names in the order of the ids (a list of them, or a text file with
    one a line). A path that is absolute, climbs out of `root` or leaves it through a link is skipped with its reason,
    and so is a picture that was listed before.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        classes: str | os.PathLike[str] | Sequence[str] | None = None,
    ) -> None:
        source = ListSource(path, root)
        followed: dict[str, Listed] = {}
        skipped: list[tuple[str, str]] = []
        for entry in source.entries():
            if entry.refused is None and entry.path in followed:
                skipped.append((entry.path, "listed twice; the first line counts"))
            elif entry.refused is None:
                followed[entry.path] = entry
            else:
                skipped.append((entry.path, entry.refused))
        labels, names = label_ids([entry.label for entry in followed.values()], _names(classes), path)
        samples = []
        for entry, label in zip(followed.values(), labels, strict=True):
            place = source.place(entry.path)
            annotate = partial(_annotate, place, _box(source.path, entry)) if entry.box else Annotation
            samples.append(Sample(entry.path, label, partial(read_image, place), annotate))
        super().__init__(source.path.name, source.root, names, samples, skipped)


def _names(classes: str | os.PathLike[str] | Sequence[str] | None) -> list[str]:
    if isinstance(classes, str | os.PathLike):
        return [line.strip() for line in read_lines(Path(classes))]
    return list(classes or ())


def _box(path: Path, entry: Listed) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = numbers(path, entry.box or (), entry.path)
    return x0, y0, x1, y1


def _annotate(path: Path, box: tuple[float, float, float, float]) -> Annotation:
    return Annotation(box=clip_box(box, image_size(path)))
