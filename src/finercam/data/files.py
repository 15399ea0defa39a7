"""Shared by the dataset readers: finding files, refusing paths that leave the root, reading tables and masks."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finercam.data.sample import Sample
from finercam.errors import FinerCAMError, suggest
from finercam.images import image_size, read_image
from finercam.io import one_line

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "SampleList",
    "find_root",
    "mask_box",
    "numbers",
    "pick",
    "read_grey",
    "read_json",
    "read_lines",
    "read_table",
    "safe_path",
    "words",
]


class SampleList:
    """A dataset that is a list of samples: `len(data)`, `data[i]`, `print(data)`.

    `skipped` are the entries that gave no sample, each with the reason. A picture that is listed but missing or
    broken *is* a sample: opening it raises FinerCAMError, and the rest of the dataset stays usable.
    """

    def __init__(
        self,
        name: str,
        root: Path,
        classes: list[str],
        samples: list[Sample],
        skipped: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.name, self.root, self.classes, self.samples = name, root, classes, samples
        self.skipped = list(skipped)
        if not samples:
            raise FinerCAMError(f"{name}: no pictures under {root}{self._first_skipped()}")
        for sample in samples:
            if sample.label is not None and classes and not 0 <= sample.label < len(classes):
                raise FinerCAMError(
                    f"{name}: {sample.id} has class {sample.label}, but there are {len(classes)} classes"
                )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def __iter__(self) -> Iterator[Sample]:
        return iter(self.samples)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"

    def __str__(self) -> str:
        return (
            f"{self.name}: {len(self):,} pictures, {len(self.classes):,} classes, in {self.root}"
            f"{self._first_skipped()}"
        )

    def _first_skipped(self) -> str:
        if not self.skipped:
            return ""
        entry, reason = self.skipped[0]
        return f" ({len(self.skipped):,} skipped; the first: {entry}: {reason})"


def find_root(name: str, given: str | os.PathLike[str], inside: Iterable[str], wanted: Iterable[str]) -> Path:
    """The folder that holds all the `wanted` files: `given` itself or one of the subfolders `inside` of it."""
    wanted = tuple(wanted)
    given = Path(given)
    if not given.is_dir():
        raise FinerCAMError(f"{name}: {given} is not a folder")
    for place in (given, *(given / sub for sub in inside)):
        if all((place / part).exists() for part in wanted):
            return place
    missing = [part for part in wanted if not (given / part).exists()]
    raise FinerCAMError(f"{name}: {given} lacks {', '.join(missing)}; give the folder that holds them")


def pick(what: str, given: str, known: Iterable[str]) -> str:
    """`given` if it is one of `known`, else FinerCAMError with the nearest.

    >>> pick("split", "tset", ["train", "test"])
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: split 'tset' is not one of train, test. Did you mean 'test'?
    """
    known = list(known)
    if given in known:
        return given
    raise FinerCAMError(f"{what} {given!r} is not one of {', '.join(known)}.{suggest(str(given), known)}")


def safe_path(root: Path, relative: str, *, follow: bool = True) -> Path:
    """`root / relative`, refused if it is absolute or climbs out of the root.

    Links inside the root may lead elsewhere (image folders often do) unless `follow` is False; then the place
    that they lead to must lie in the root too.
    """
    if not relative or "\0" in relative or any("\ud800" <= letter <= "\udfff" for letter in relative):
        raise FinerCAMError(f"{relative!r} is not a path")
    parts = relative.replace("\\", "/").split("/")
    if relative.startswith(("/", "\\", "~")) or ".." in parts or ":" in parts[0]:
        raise FinerCAMError(f"{relative!r} leads out of {root}; paths must be relative and stay inside")
    path = root / relative
    if not follow:
        try:
            inside = path.resolve().is_relative_to(root.resolve())
        except (OSError, RuntimeError) as error:  # a loop of links
            raise FinerCAMError(f"{relative!r} cannot be followed: {error}") from None
        if not inside:
            raise FinerCAMError(f"{relative!r} leads out of {root} through a link")
    return path


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8. Raises FinerCAMError for a file that cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FinerCAMError(f"{path} does not exist") from None
    except UnicodeDecodeError as error:
        raise FinerCAMError(f"{path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise FinerCAMError(f"{path} cannot be read: {one_line(error)}") from None


def read_lines(path: Path) -> list[str]:
    """The lines of a text file in UTF-8 that are not blank."""
    return [line for line in read_text(path).splitlines() if line.strip()]


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises FinerCAMError for a file that is missing, broken or nested too deeply."""
    text = read_text(path)
    try:
        return json.loads(text)
    except RecursionError:
        raise FinerCAMError(f"{path} is nested too deeply to be read") from None
    except ValueError as error:
        raise FinerCAMError(f"{path} is not readable JSON: {error}") from None


def words(path: Path, at_least: int, at_most: int = 0) -> Iterator[list[str]]:
    """Each line of a space-separated table as words; the last of `at_most` words keeps its spaces.

    Raises FinerCAMError naming the file and the line that has fewer than `at_least` words.
    """
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith("#"):
            continue
        row = line.split(maxsplit=at_most - 1 if at_most else -1)
        if len(row) < at_least:
            raise FinerCAMError(f"{path} line {number}: {line.strip()!r} has fewer than {at_least} fields")
        yield [entry.strip() for entry in row]


def read_table(path: Path, needed: Iterable[str], delimiter: str = ",") -> list[dict[str, str]]:
    """The rows of a CSV file with a header. Raises FinerCAMError for a missing column or a broken row."""
    lines = read_lines(path)
    reader = csv.DictReader(lines, delimiter=delimiter)
    try:
        columns = reader.fieldnames or []
        missing = [column for column in needed if column not in columns]
        if missing:
            raise FinerCAMError(
                f"{path} lacks the column {', '.join(missing)}; it has {', '.join(columns) or 'none'}"
            )
        rows = []
        for row in reader:
            if None in row or any(row[column] is None for column in needed):
                raise FinerCAMError(f"{path} line {reader.line_num}: not as many fields as the header has")
            rows.append(row)
        return rows
    except csv.Error as error:
        raise FinerCAMError(f"{path} line {reader.line_num}: {error}") from None


def numbers(path: Path, entries: Iterable[str], what: str) -> tuple[float, ...]:
    """Fields as finite floats, or FinerCAMError naming file and entry."""
    entries = tuple(entries)
    try:
        values = tuple(float(entry) for entry in entries)
    except ValueError:
        values = (float("nan"),)
    if not all(abs(value) < 1e12 for value in values):  # also false for NaN
        raise FinerCAMError(f"{path}: {what} has {', '.join(entries)} where numbers were expected")
    return values


def mask_box(mask: np.ndarray) -> tuple[float, float, float, float] | None:
    """The tight box around a boolean mask `(H, W)`, None where it is empty."""
    import numpy as np

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)


def read_grey(path: Path, size: tuple[int, int]) -> np.ndarray:
    """A mask file as grey levels or palette indices, uint8 `(H, W)`; FinerCAMError unless it fits `size`."""
    import numpy as np
    from PIL import Image

    if (found := image_size(path, upright=False)) != size:
        raise FinerCAMError(f"{path} is {found[0]}×{found[1]}, but its picture is {size[0]}×{size[1]}")
    with Image.open(path) as image:
        if image.mode in ("P", "L"):  # indices, which a conversion to RGB would turn into colours
            try:
                return np.array(image)
            except Exception as error:
                raise FinerCAMError(f"{path}: broken mask: {error}") from error
    return np.array(read_image(path, background=(0, 0, 0), upright=False).convert("L"))
