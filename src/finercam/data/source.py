"""Sources of pictures: a folder, a list or a dataset reader, as a stream in a fixed order."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Protocol

from finercam.data.files import safe_path
from finercam.data.lists import read_rows
from finercam.errors import FinerCAMError, suggest
from finercam.images import ENDINGS, read_image
from finercam.io import content_hash, one_line

if TYPE_CHECKING:
    from PIL import Image

    from finercam.data.sample import ImageDataset

__all__ = [
    "MAX_BYTES", "SPLITS", "Content", "FolderSource", "ListSource", "Listed", "NoPicture", "ReaderSource", "Source",
    "can_pass", "class_folders", "class_name",
]  # fmt: skip

MAX_BYTES = 1 << 29
"""A file larger than this is not read (half a GiB; the largest picture that is decoded has a quarter of it)."""

SPLITS = ("test", "val", "valid", "validation", "train")
"""Names of folders that are splits, in the order in which one is taken by default."""

_LASTING = {errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO}
"""Errors of the system that say something about the path itself."""


def can_pass(error: BaseException | None) -> bool:
    """Whether an error, or its cause, is one of the system that may not happen again: a disk, the network, rights.

    >>> can_pass(PermissionError(13, "Permission denied")), can_pass(OSError("broken data stream"))
    (True, False)
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in _LASTING:
            return not isinstance(error, FileNotFoundError)
        error = error.__cause__
    return False


class NoPicture(FinerCAMError):
    """A picture that cannot be read, with the `status` of its row.

    Statuses are "missing", "refused", "unreadable" (its content), and "unavailable": the system could not read the
    file for a cause that can pass, so that the next run tries again.
    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Listed:
    """One entry of a source: a path (or a reader's id), its label as written, and the reason if it is not followed.

    `box` is what a list's box columns hold, as text.
    """

    path: str
    label: str | None = None
    refused: str | None = None
    box: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Content:
    """A decoded picture (RGB), the SHA-256 of what it was decoded from, and the file's size and time of change."""

    image: Image.Image
    digest: str
    bytes: int | None = None
    modified_ns: int | None = None


class Source(Protocol):
    """`entries()` gives the same order each time; `open` and `state` find an entry by position and path."""

    repeats: bool
    """Whether an entry can be listed twice."""

    def entries(self) -> Iterator[Listed]: ...

    def open(self, position: int, path: str) -> Content:
        """The picture of an entry. Raises NoPicture."""
        ...

    def state(self, position: int, path: str) -> tuple[int | None, int | None]:
        """Size and time of change of the entry's file; None where there is no file."""
        ...

    def digest(self, position: int, path: str) -> str | None:
        """SHA-256 of the entry's content now; None where it cannot be read."""
        ...


class _FileSource:
    """Entries that are files below a root."""

    repeats = True
    follow = False
    """Whether links may lead out of the root."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.root)!r})"

    def open(self, position: int, path: str) -> Content:
        content, status = self._read(path)
        try:
            image = read_image(content)
        except FinerCAMError as error:
            reason = str(error).removeprefix(f"{len(content)} bytes given as a picture: ")
            raise NoPicture("unreadable", reason) from error
        return Content(image, content_hash(content), status.st_size, status.st_mtime_ns)

    def state(self, position: int, path: str) -> tuple[int | None, int | None]:
        try:
            status = self.place(path).stat()
        except (OSError, ValueError):  # FinerCAMError is a ValueError
            return None, None
        return status.st_size, status.st_mtime_ns

    def digest(self, position: int, path: str) -> str | None:
        try:
            return content_hash(self._read(path)[0])
        except NoPicture:
            return None

    def place(self, path: str) -> Path:
        """The file of an entry. Raises FinerCAMError for a path that leads out of the root."""
        return safe_path(self.root, path, follow=self.follow)

    def _read(self, path: str) -> tuple[bytes, os.stat_result]:
        """The whole file, read once: what is hashed is what is decoded."""
        try:
            place = self.place(path)
            if not stat.S_ISREG(place.stat().st_mode):  # opening a pipe would wait for ever
                raise NoPicture("unreadable", "is not a regular file")
            with place.open("rb") as file:
                status = os.fstat(file.fileno())
                if status.st_size == 0:
                    raise NoPicture("unreadable", "is empty (0 bytes)")
                if status.st_size > MAX_BYTES:
                    raise NoPicture(
                        "unreadable", f"{status.st_size:,} bytes are more than the limit of {MAX_BYTES:,}"
                    )
                return file.read(), status
        except FileNotFoundError:
            raise NoPicture("missing", "does not exist") from None
        except NoPicture:
            raise
        except FinerCAMError as error:
            raise NoPicture("refused", str(error)) from error
        except (OSError, ValueError, RuntimeError) as error:  # a loop of links, a forbidden folder, an odd name
            status = "unavailable" if can_pass(error) else "unreadable"
            raise NoPicture(status, f"cannot be read: {one_line(error)}") from error


class FolderSource(_FileSource):
    """Every picture below a folder, sorted by name; its class is the folder below the root (or its split) it lies in.

    If all folders are splits, `split` is the first of `SPLITS` by default. `flat`: only what lies in the folder itself,
    without classes. Names are sorted folder by folder, so that only one folder's names are in memory at a time. Linked
    folders are followed, each once; hidden files and the folder `masks` are left out.
    """

    repeats = False
    follow = True

    def __init__(self, root: str | os.PathLike[str], split: str | None = None, *, flat: bool = False) -> None:
        super().__init__(Path(root))
        if not self.root.is_dir():
            raise FinerCAMError(f"{root} is not a folder")
        self.flat = flat
        self.base, self.split = (self.root, None) if flat else _split_folder(self.root, split)

    def classes(self) -> list[str]:
        """The class names of the split's folders, those of the split `train` first, so that all splits agree."""
        first = [self.root / "train"] if self.split and (self.root / "train").is_dir() else []
        folders = [folder for base in (*first, self.base) for folder in class_folders(base)]
        return list(dict.fromkeys(class_name(folder) for folder in folders))

    def entries(self) -> Iterator[Listed]:
        yield from self._within(self.base, None, set())

    def _within(self, folder: Path, label: str | None, seen: set[tuple[int, int]]) -> Iterator[Listed]:
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:  # a link back to where the walk has been
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as found:
                names = sorted((entry.name, _is_folder(entry)) for entry in found)
        except OSError as error:
            yield self._listed(folder, label, f"folder cannot be read: {one_line(error)}")
            return
        is_top = folder == self.base
        for name, is_folder in names:
            path = folder / name
            if name.startswith("."):  # "._x.jpg" are the resource forks that macOS leaves in archives
                continue
            if is_folder:
                if not self.flat and not (is_top and name == "masks"):
                    yield from self._within(path, class_name(path) if is_top else label, seen)
            elif path.suffix.lower() in ENDINGS:
                yield self._listed(path, label)

    def _listed(self, path: Path, label: str | None, refused: str | None = None) -> Listed:
        text = path.relative_to(self.root).as_posix()
        if (shown := _readable(text)) != text:
            return Listed(shown, None, refused or "its name is not UTF-8; rename it")
        return Listed(text, label, refused)


class ListSource(_FileSource):
    """A list file (see `finercam.data.lists`) of paths below `root`, by default the list's own folder."""

    def __init__(self, path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path)
        super().__init__(self.path.parent if root is None else Path(root).expanduser())
        if not self.root.is_dir():
            raise FinerCAMError(f"{path}: root {str(self.root)!r} is not a folder")

    def entries(self) -> Iterator[Listed]:
        for path, label, box in read_rows(self.path):
            label = None if label is None or "\0" in label else _readable(label)
            try:
                safe_path(self.root, path, follow=False)
            except FinerCAMError as error:
                yield Listed(_readable(path), label, str(error), box)
            else:
                yield Listed(PurePosixPath(path.replace("\\", "/")).as_posix(), label, None, box)


class ReaderSource:
    """A dataset of `finercam.data`; the hash is of the file's bytes where its id is one, else of the pixels."""

    repeats = False

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def __repr__(self) -> str:
        return f"ReaderSource({self.dataset!r})"

    def entries(self) -> Iterator[Listed]:
        classes = self.dataset.classes
        for index in range(len(self.dataset)):
            sample = self.dataset[index]
            label = sample.label
            named = classes[label] if label is not None and label < len(classes) else label
            yield Listed(sample.id, None if named is None else str(named))

    def open(self, position: int, path: str) -> Content:
        sample = self.dataset[position]
        try:
            image = sample.open()
        except FileNotFoundError:
            raise NoPicture("missing", "does not exist") from None
        except Exception as error:  # a dataset may be anybody's code
            reason = one_line(error)
            status = "missing" if reason.endswith("does not exist") else "unreadable"
            raise NoPicture("unavailable" if can_pass(error) else status, reason) from error
        file = self._file(path)
        if file is None:
            return Content(image, content_hash(f"{image.mode} {image.size}", image.tobytes()))
        return Content(image, content_hash(file.read_bytes()), *self.state(position, path))

    def state(self, position: int, path: str) -> tuple[int | None, int | None]:
        file = self._file(path)
        if file is None:
            return None, None
        status = file.stat()
        return status.st_size, status.st_mtime_ns

    def digest(self, position: int, path: str) -> str | None:
        try:
            return self.open(position, path).digest
        except NoPicture:
            return None

    def _file(self, path: str) -> Path | None:
        root = getattr(self.dataset, "root", None)
        file = None if root is None else Path(root) / path
        return file if file is not None and file.is_file() else None


def class_folders(base: Path) -> list[Path]:
    """The folders in `base` that can be classes, by name. Raises FinerCAMError for a folder that cannot be read."""
    try:
        folders = [entry for entry in base.iterdir() if entry.is_dir()]
    except OSError as error:
        raise FinerCAMError(f"{base} cannot be read: {one_line(error)}") from None
    return sorted(entry for entry in folders if entry.name != "masks" and not entry.name.startswith("."))


def class_name(folder: Path) -> str:
    """The class of a folder: its name, with runs of blanks as one."""
    return _readable(" ".join(folder.name.split()))


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


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _readable(text: str) -> str:
    """The text with escapes in the place of bytes that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode()
