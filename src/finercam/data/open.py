"""From a dataset's string, as typed on the command line, to the dataset."""

from __future__ import annotations

import inspect
import os
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from finercam.data.sample import ImageDataset
from finercam.errors import FinerCAMError, suggest

__all__ = ["READERS", "open_dataset"]

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
    "fieldguide": ("finercam.data.fieldguide", "Fieldguide"),
}
"""The word before the colon, and the class that reads it (imported when it is asked for)."""

FIELDGUIDE_COUNT = 500
"""Pictures of `fieldguide` where no count is given."""

# A folder is of the first kind of which every pattern matches something in it.
_MARKS = {
    "cub": ("images.txt", "image_class_labels.txt"),
    "cars": ("devkit/cars_meta.mat",),
    "aircraft": ("images_variant_*.txt",),
    "fishvista": ("classification_*.csv", "segmentation_*.csv"),
    "pets": ("annotations/trainval.txt", "images"),
    "funnybirds": ("classes.json", "dataset_*.json"),
}


def open_dataset(text: str | os.PathLike[str], split: str | None = None, **options: Any) -> ImageDataset:
    """The dataset that a string names: `kind:path?option=value`, a path that its files tell, or `fieldguide`.

    - `cub:/data/CUB_200_2011`, `cars:…`, `aircraft:…?level=family`, `birds525:…`,
      `fishvista:…?task=segmentation`, `pets:…`, `funnybirds:…`;
    - a path: one of these by its files, a folder of class folders, a folder of pictures, or a list file;
      `str(dataset)` says which it was taken for;
    - `fieldguide` or `fieldguide:COUNT?seed=7`: the built-in benchmark, 500 pictures if no COUNT is given.

    `split` and `options` go to the reader, and count for more than what the string says. Raises FinerCAMError for
    a word, path, split or option that is not known.

    >>> open_dataset("cub:/nowhere", split="train")
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: CUB-200-2011: /nowhere is not a folder
    """
    kind, place, asked = _parse(os.fspath(text))
    asked |= {"split": split} if split is not None else {}
    asked |= options
    if kind == "fieldguide":
        asked = {"count": place or FIELDGUIDE_COUNT} | asked
    elif not place:
        raise FinerCAMError(f"dataset {os.fspath(text)!r} names no path; write {kind}:PATH")
    path = Path(place).expanduser()
    if not kind:
        kind, path = _recognise(path)
    module, name = READERS[kind]
    reader = getattr(import_module(module), name)
    arguments = _converted(kind, reader, asked)
    return reader(**arguments) if kind == "fieldguide" else reader(path, **arguments)


def _parse(text: str) -> tuple[str, str, dict[str, Any]]:
    """`(kind or "", path, options)`; a file's own colon or question mark is left alone where the file exists."""
    if _there(text):
        return "", text, {}
    body, _, query = text.partition("?")
    try:
        asked: dict[str, Any] = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    except ValueError:
        raise FinerCAMError(f"dataset {text!r}: {query!r} is not option=value&option=value") from None
    kind, colon, place = body.partition(":")
    if body == "fieldguide":
        return "fieldguide", "", asked
    if not colon or len(kind) == 1 or "/" in kind or "\\" in kind:  # "C:\birds" is a path
        return "", body, asked
    if kind not in READERS:
        raise FinerCAMError(f"no dataset reader {kind!r}; there are {', '.join(READERS)}.{suggest(kind, READERS)}")
    return kind, place, asked


def _there(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, RuntimeError, ValueError):  # too long for a file name, the home of nobody
        return False


def _recognise(path: Path) -> tuple[str, Path]:
    """Which kind of dataset lies at a path (itself, or up to two folders down), by its files."""
    from finercam.data.files import PICTURE_ENDINGS, pictures_under
    from finercam.data.folder import class_folders

    if path.is_file():
        if path.suffix.lower() in PICTURE_ENDINGS:
            raise FinerCAMError(f"{path} is one picture; give a folder, or a list file with its path in it")
        return "list", path
    if not path.is_dir():
        raise FinerCAMError(f"{path} does not exist; give a path, or one of {', '.join(READERS)} before a colon")
    below = class_folders(path)[:20]  # enough for any dataset's own folders, few of one with many classes
    for place in (path, *below, *(folder for first in below for folder in class_folders(first)[:20])):
        for kind, patterns in _MARKS.items():
            if all(any(place.glob(pattern)) for pattern in patterns):
                return kind, place
    loose = any(entry.suffix.lower() in PICTURE_ENDINGS for entry in path.iterdir() if entry.is_file())
    if any(pictures_under(folder) for folder in class_folders(path)):
        return "folder", path
    if loose:
        return "pictures", path
    looked = "; ".join(f"{kind}: {' and '.join(patterns)}" for kind, patterns in _MARKS.items())
    raise FinerCAMError(
        f"{path} holds no dataset known here; looked for {looked}; class folders with pictures; pictures"
    )


def _converted(kind: str, reader: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """Options by name, their strings turned into the type of the reader's default."""
    parameters = list(inspect.signature(reader).parameters.items())
    if kind != "fieldguide":
        parameters = parameters[1:]  # the path
    known = {name: parameter.default for name, parameter in parameters}
    arguments = {}
    for name, value in asked.items():
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
