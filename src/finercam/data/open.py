"""From the string that names a dataset, as typed on the command line, to the dataset or its source."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from finercam.data.sample import ImageDataset
from finercam.data.source import FolderSource, ListSource, ReaderSource, Source, class_folders
from finercam.errors import FinerCAMError, suggest
from finercam.images import ENDINGS

__all__ = ["READERS", "open_dataset", "open_source", "parse_dataset"]

READERS = {
    "cub": ("finercam.data.cub", "CUB"),
    "cars": ("finercam.data.cars", "Cars"),
    "aircraft": ("finercam.data.aircraft", "Aircraft"),
    "birds525": ("finercam.data.birds525", "Birds525"),
    "fishvista": ("finercam.data.fishvista", "FishVista"),
    "pets": ("finercam.data.pets", "Pets"),
    "funnybirds": ("finercam.data.funnybirds", "FunnyBirds"),
    "folder": ("finercam.data.folder", "ImageFolder"),
    "pictures": ("finercam.data.folder", "PictureFolder"),
    "list": ("finercam.data.listing", "ListFile"),
    "parquet": ("finercam.data.listing", "ListFile"),
    "fieldguide": ("finercam.data.fieldguide", "Fieldguide"),
}
"""The word before the colon, and the class that reads it (imported when it is needed)."""

FIELDGUIDE_COUNT = 500
"""Pictures of `fieldguide` where no count is given."""

# A folder is of the first kind whose patterns all match something in it.
_MARKS = {
    "cub": ("images.txt", "image_class_labels.txt"),
    "cars": ("devkit/cars_meta.mat",),
    "aircraft": ("images_variant_*.txt",),
    "fishvista": ("classification_*.csv", "segmentation_*.csv"),
    "pets": ("annotations/trainval.txt", "images"),
    "funnybirds": ("classes.json", "dataset_*.json"),
}


def open_dataset(text: str | os.PathLike[str], split: str | None = None, **options: Any) -> ImageDataset:
    """The dataset that a string names: `kind:path?option=value`, a path whose files say what it is, or `fieldguide`.

    - `cub:/data/CUB_200_2011`, `cars:…`, `aircraft:…?level=family`, `birds525:…`,
      `fishvista:…?task=segmentation`, `pets:…`, `funnybirds:…`;
    - a path: one of these by its files, a folder of class folders, a folder of pictures, or a list file;
      `str(dataset)` says how it was read;
    - `fieldguide` or `fieldguide:COUNT?seed=7`: the built-in benchmark, 500 pictures if no COUNT is given.

    `split` and `options` go to the reader, and override what the string says. Raises FinerCAMError for a kind, path,
    split or option that is not known.

    >>> open_dataset("cub:/nowhere", split="train")
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: CUB-200-2011: /nowhere is not a folder
    """
    kind, place, given = _located(text)
    given |= ({"split": split} if split is not None else {}) | options
    if kind == "fieldguide":
        given = {"count": place or FIELDGUIDE_COUNT} | given
    module, name = READERS[kind]
    reader = getattr(import_module(module), name)
    arguments = _converted(kind, reader, given)
    return reader(**arguments) if kind == "fieldguide" else reader(Path(place), **arguments)


def open_source(text: str | os.PathLike[str], split: str | None = None) -> Source:
    """The pictures of a dataset as a stream; `text` as in `open_dataset`.

    Folders and lists are walked without being held in memory. `list:FILE?root=FOLDER` has paths below another folder
    than the file's own. Raises FinerCAMError as `open_dataset` does.
    """
    kind, place, options = _located(text)
    options |= {"split": split} if split is not None else {}
    if kind in ("list", "parquet") and set(options) <= {"root"}:
        path = Path(place)
        if not path.is_file():
            raise FinerCAMError(f"{path} is not a file")
        return ListSource(path, options.get("root"))
    if kind == "folder" and set(options) <= {"split"}:
        return FolderSource(place, options.get("split"))
    if kind == "pictures" and not options:
        return FolderSource(place, flat=True)
    return ReaderSource(open_dataset(text, split))


def parse_dataset(text: str) -> tuple[str, str, dict[str, Any]]:
    """`(kind or "", path, options)` of a dataset's string; an existing file may have a colon or question mark in it."""
    if _exists(text):
        return "", text, {}
    body, _, query = text.partition("?")
    try:
        options: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise FinerCAMError(f"dataset {text!r}: {query!r} is not option=value&option=value") from None
    kind, colon, place = body.partition(":")
    if body == "fieldguide":
        return "fieldguide", "", options
    if not colon or len(kind) == 1 or "/" in kind or "\\" in kind:  # "C:\birds" is a path
        return "", body, options
    if kind not in READERS:
        raise FinerCAMError(f"no dataset reader {kind!r}; there are {', '.join(READERS)}.{suggest(kind, READERS)}")
    return kind, place, options


def _located(text: str | os.PathLike[str]) -> tuple[str, str, dict[str, Any]]:
    """`(kind, path, options)`; the kind by the files that are there, if the string does not say it."""
    kind, place, options = parse_dataset(os.fspath(text))
    if kind == "fieldguide":
        return kind, place, options
    if not place:
        raise FinerCAMError(f"dataset {os.fspath(text)!r} names no path; write {kind}:PATH")
    path = Path(place).expanduser()
    if not kind:
        kind, path = _recognise(path)
    return kind, str(path), options


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a file name, the home of nobody
        return False


def _recognise(path: Path) -> tuple[str, Path]:
    """The kind of dataset at a path (or up to two folders below it), recognised by its files."""
    if path.is_file():
        if path.suffix.lower() in ENDINGS:
            raise FinerCAMError(f"{path} is one picture; give a folder, or a list file with its path in it")
        return "list", path
    if not path.is_dir():
        raise FinerCAMError(f"{path} does not exist; give a path, or one of {', '.join(READERS)} before a colon")
    below = class_folders(path)[:20]  # enough for any dataset's own folders, few of one with many classes
    for place in (path, *below, *_inside(below)):
        for kind, patterns in _MARKS.items():
            if all(any(place.glob(pattern)) for pattern in patterns):
                return kind, place
    for kind, is_flat in (("folder", False), ("pictures", True)):
        found = FolderSource(path, flat=is_flat).entries()
        if any(entry.refused is None and (is_flat or entry.label is not None) for entry in found):
            return kind, path
    looked = "; ".join(f"{kind}: {' and '.join(patterns)}" for kind, patterns in _MARKS.items())
    raise FinerCAMError(
        f"{path} holds no dataset known here; looked for {looked}; class folders with pictures; pictures"
    )


def _inside(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        with suppress(FinerCAMError):  # a folder that cannot be read is reported when its pictures are listed
            yield from class_folders(folder)[:20]


def _converted(kind: str, reader: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Options by name, with strings converted to the type of the reader's default."""
    parameters = list(inspect.signature(reader).parameters.items())
    if kind != "fieldguide":
        parameters = parameters[1:]  # the path
    known = {name: parameter.default for name, parameter in parameters}
    arguments = {}
    for name, value in given.items():
        if name not in known:
            raise FinerCAMError(
                f"{kind} has no option {name!r} (it has {', '.join(known) or 'none'}).{suggest(name, known)}"
            )
        arguments[name] = _typed(kind, name, value, known[name])
    return arguments


def _typed(kind: str, name: str, value: Any, default: Any) -> Any:
    if not isinstance(value, str) or isinstance(default, str):
        return value
    if isinstance(default, bool):
        answers = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
        if value.lower() not in answers:
            raise FinerCAMError(f"{kind}: {name}={value!r} is not true or false")
        return answers[value.lower()]
    if isinstance(default, int) or default is inspect.Parameter.empty:
        try:
            return int(value)
        except ValueError:
            raise FinerCAMError(f"{kind}: {name}={value!r} is not a whole number") from None
    return value
