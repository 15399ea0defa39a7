"""The photos of each class of a dataset or of a run, and what is known of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from finercam.annotation import Annotation
from finercam.data.labels import is_number, match_classes
from finercam.data.open import open_source
from finercam.data.source import ReaderSource, Source
from finercam.errors import FinerCAMError
from finercam.io import content_hash

__all__ = ["Album", "Photo", "open_album"]


@dataclass(frozen=True)
class Photo:
    """A photo by its place in the list of its source, and its path there."""

    position: int
    path: str


@dataclass
class Album:
    """The photos of each class id; `text` and `split` name the data, and `run` is the run whose maps are used, if any."""

    source: Source
    of_class: dict[int, list[Photo]]
    text: str
    split: str | None = None
    run: Any = None
    unknown: set[str] = field(default_factory=set)
    """Labels that the model has no class for."""

    def open(self, photo: Photo) -> Image.Image:
        """The photo (RGB). Raises NoPicture."""
        return self.source.open(photo.position, photo.path).image

    def annotation(self, photo: Photo) -> Annotation:
        """What the dataset knows of a photo; nothing where it knows nothing or cannot read it."""
        if not isinstance(self.source, ReaderSource):
            return Annotation()
        try:
            return self.source.dataset[photo.position].annotation
        except Exception:  # a dataset may be anybody's code, and a trait without a name is still a trait
            return Annotation()

    def fingerprint(self, label: int) -> str:
        """A hash of the paths, sizes and times of change of a class's photos."""
        state = [(one.path, *self.source.state(one.position, one.path)) for one in self.of_class[label]]
        return content_hash(repr((self.text, self.split, state)))


def open_album(
    data: str | os.PathLike[str],
    names: Sequence[str] | None,
    num_classes: int,
    photos: int,
    split: str | None = None,
) -> Album:
    """The labelled photos of a dataset, or of a folder that `finercam run` wrote; at most `photos` of a class.

    Of a class with more, photos at even steps of the list are taken. Raises FinerCAMError for data without a label that
    the model knows.
    """
    text, run = os.fspath(data), None
    if "://" in text or (Path(text) / "manifest.json").is_file():
        from finercam.run import open_run

        run = open_run(text)
        text, split = run.manifest.data["text"], run.manifest.data.get("split")
    source = open_source(text, split)
    found = _labelled(source) if run is None else _of_run(run)
    album = Album(source, {}, text, split, run)
    whole = list(found)
    ids = _ids({label for _, label in whole}, names, num_classes, text)
    for photo, label in whole:
        known = ids[label]
        if known is None:
            album.unknown.add(label)
        else:
            album.of_class.setdefault(known, []).append(photo)
    if not album.of_class:
        raise FinerCAMError(
            f"{text}: no photo there has a label that is one of the model's classes; labels are needed"
        )
    album.of_class = {label: _spread(album.of_class[label], photos) for label in sorted(album.of_class)}
    return album


def _labelled(source: Source) -> Iterator[tuple[Photo, str]]:
    for position, entry in enumerate(source.entries()):
        if entry.label is not None and entry.refused is None:
            yield Photo(position, entry.path), entry.label


def _of_run(run: Any) -> Iterator[tuple[Photo, str]]:
    for row in run.table(["position", "path", "label", "status"]).to_pylist():
        if row["status"] == "ok" and row["label"] is not None:
            yield Photo(row["position"], row["path"]), row["label"]


def _ids(labels: set[str], names: Sequence[str] | None, num_classes: int, text: str) -> dict[str, int | None]:
    """The class id of each label as written; None for one that the model does not know."""
    if not labels:
        return {}
    if names is None or all(map(is_number, labels)):
        numbers = {label: int(label) if is_number(label) else -1 for label in labels}
        return {label: number if 0 <= number < num_classes else None for label, number in numbers.items()}
    listed = sorted(labels)
    return dict(zip(listed, match_classes(listed, names, dataset=text), strict=True))


def _spread(photos: list[Photo], most: int) -> list[Photo]:
    if len(photos) <= most:
        return photos
    return [photos[at * len(photos) // most] for at in range(most)]
