"""What a run explains: a folder, a list file, a Parquet file of paths or a dataset reader, as a stream in a fixed order."""

from __future__ import annotations

import csv
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from finercam.data.files import PICTURE_ENDINGS, safe_path
from finercam.data.folder import SPLITS, class_folders
from finercam.errors import FinerCAMError, suggest
from finercam.io import content_hash, one_line

if TYPE_CHECKING:
    from PIL import Image

    from finercam.data.sample import ImageDataset

__all__ = ["MAX_BYTES", "Content", "Listed", "NoPicture", "Source", "can_pass", "open_source"]

MAX_BYTES = 1 << 29
"""A file larger than this is not read (half a GiB; the largest picture that is decoded has a quarter of it)."""

PATHS = ("path", "file", "filename", "file_name", "image_path", "image")
LABELS = ("label", "class", "species", "target")


LASTING = frozenset([errno.ELOOP, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.ENXIO])
"""Errors of the system that say something about the path itself."""


class NoPicture(FinerCAMError):
    """A picture that cannot be had, with the `status` that its row gets."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def can_pass(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is one of the system that may not happen again: a disk, the network, rights.

    >>> can_pass(PermissionError(13, "Permission denied")), can_pass(OSError("broken data stream"))
    (True, False)
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None and error.errno not in LASTING:
            return not isinstance(error, FileNotFoundError)
        error = error.__cause__
    return False


@dataclass(frozen=True)
class Listed:
    """One entry of a source: a path (or a reader's id), its label as written, and why it is not followed, if so."""

    path: str
    label: str | None = None
    refused: str | None = None


@dataclass(frozen=True)
class Content:
    """A decoded picture (RGB), the SHA-256 of what it was decoded from, and the file's size and time of change."""

    image: Image.Image
    digest: str
    bytes: int | None = None
    modified_ns: int | None = None


class Source(Protocol):
    """`entries()` gives the same order each time; `open` and `state` find an entry by position and path."""

    kind: str
    repeats: bool
    """Whether an entry can be listed twice."""

    def entries(self) -> Iterator[Listed]: ...

    def open(self, position: int, path: str) -> Content: ...

    def state(self, position: int, path: str) -> tuple[int | None, int | None]:
        """Size and time of change of the entry's file; None where there is no file."""
        ...

    def digest(self, position: int, path: str) -> str | None:
        """SHA-256 of the entry's content now; None where it cannot be read."""
        ...


class _Files:
    """Entries that are files below a root."""

    kind = "files"
    repeats = True

    def __init__(self, root: Path, follow: bool) -> None:
        self.root, self.follow = root, follow

    def open(self, position: int, path: str) -> Content:
        from finercam.images import read_image

        content, status = self._bytes(path)
        try:
            image = read_image(content)
        except FinerCAMError as error:
            reason = str(error).removeprefix(f"{len(content)} bytes given as a picture: ")
            raise NoPicture("unreadable", reason) from error
        return Content(image, content_hash(content), status.st_size, status.st_mtime_ns)

    def state(self, position: int, path: str) -> tuple[int | None, int | None]:
        try:
            status = self._place(path).stat()
        except (OSError, ValueError, FinerCAMError):
            return None, None
        return status.st_size, status.st_mtime_ns

    def digest(self, position: int, path: str) -> str | None:
        try:
            return content_hash(self._bytes(path)[0])
        except NoPicture:
            return None

    def _bytes(self, path: str) -> tuple[bytes, os.stat_result]:
        """The whole file, read once: what is hashed is what is decoded."""
        try:
            place = self._place(path)
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

    def _place(self, path: str) -> Path:
        return safe_path(self.root, path, follow=self.follow)


class FolderSource(_Files):
    """Every picture below a folder, by name; its class is the folder below `root` (below its split) that it lies in.

    Names are sorted folder by folder, so that only one folder's names are in memory at a time. Linked folders are
    followed, each once.
    """

    kind = "folder"
    repeats = False

    def __init__(self, root: Path, split: str | None = None, labelled: bool = True) -> None:
        super().__init__(root, follow=True)
        self.base, self.labelled = _split_of(root, split), labelled

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
            yield self._listed(folder, label, f"folder cannot be read: {error.strerror}")
            return
        top = folder == self.base
        for name, is_folder in names:
            if name.startswith("."):
                continue
            if is_folder:
                if not (top and name == "masks"):
                    inside = " ".join(name.split()) if top and self.labelled else label
                    yield from self._within(folder / name, inside, seen)
            elif os.path.splitext(name)[1].lower() in PICTURE_ENDINGS:  # noqa: PTH122
                yield self._listed(folder / name, label)

    def _listed(self, path: Path, label: str | None, refused: str | None = None) -> Listed:
        text = path.relative_to(self.root).as_posix()
        if not _is_text(text):
            readable = text.encode("utf-8", "backslashreplace").decode()
            return Listed(readable, None, refused or "its name is not UTF-8; rename it")
        return Listed(text, label if label is None or _is_text(label) else None, refused)


class ListSource(_Files):
    """A CSV, TSV or plain text file of `path[,label]` lines, read line by line; rules as in `finercam.data.listing`."""

    kind = "list"

    def __init__(self, path: Path, root: Path | None = None) -> None:
        super().__init__(path.parent if root is None else root, follow=False)
        self.path = path

    def entries(self) -> Iterator[Listed]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                yield from self._lines(file)
        except UnicodeDecodeError as error:
            raise FinerCAMError(f"{self.path} is not UTF-8 text (byte {error.start})") from None
        except OSError as error:
            raise FinerCAMError(f"{self.path} cannot be read: {error.strerror}") from None

    def _lines(self, file: Any) -> Iterator[Listed]:
        lines = (line for line in file if line.strip() and not line.startswith("#"))
        first = next(lines, None)
        if first is None:
            raise FinerCAMError(f"{self.path} is an empty list; it needs one picture's path a line")
        ending = self.path.suffix.lower()
        tabs = ending == ".tsv" or (ending != ".csv" and "\t" in first)
        reader = csv.reader(_again(first, lines), delimiter="\t" if tabs else ",")
        where, label = 0, None
        try:
            for number, row in enumerate(reader):
                cells = [cell.strip() for cell in row]
                if number == 0:
                    names = [cell.lower() for cell in cells]
                    where = _column(names, PATHS)
                    label = _column(names, LABELS)
                    if names[0] in PATHS or (where is not None and label is not None):
                        where = 0 if where is None else where
                        continue
                    where, label = 0, 1 if len(cells) > 1 else None
                path = cells[where] if where is not None and where < len(cells) else ""
                named = cells[label] if label is not None and label < len(cells) else ""
                yield _checked(self, path, named)
        except csv.Error as error:
            raise FinerCAMError(f"{self.path}: line {reader.line_num}: {error}") from None


class ParquetSource(_Files):
    """A Parquet file with a column of paths (`path`, `file`, …) and, if there is one, of labels (`label`, `class`, …)."""

    kind = "parquet"

    def __init__(self, path: Path, root: Path | None = None) -> None:
        super().__init__(path.parent if root is None else root, follow=False)
        self.path = path

    def entries(self) -> Iterator[Listed]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                names = file.schema_arrow.names
                where, label = (_column([name.lower() for name in names], known) for known in (PATHS, LABELS))
                if where is None or not pa.types.is_string(_plain(file.schema_arrow.field(where).type)):
                    raise FinerCAMError(
                        f"{self.path} has no column of paths (text, named {', '.join(PATHS)}); it has {', '.join(names)}"
                    )
                wanted = [names[where]] + ([] if label is None else [names[label]])
                for batch in file.iter_batches(4096, columns=wanted):
                    labels = [None] * len(batch) if label is None else batch.column(names[label]).to_pylist()
                    for path, named in zip(batch.column(names[where]).to_pylist(), labels, strict=True):
                        yield _checked(self, path or "", "" if named is None else str(named))
        except (pa.ArrowException, OSError) as error:
            raise FinerCAMError(f"{self.path} cannot be read as Parquet: {one_line(error)}") from error


class ReaderSource:
    """A dataset of `finercam.data`; the hash is of the file's bytes where its id is one, else of the pixels."""

    kind = "reader"
    repeats = False

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset

    def entries(self) -> Iterator[Listed]:
        classes = self.dataset.classes
        for index in range(len(self.dataset)):
            sample = self.dataset[index]
            known = sample.label is not None and sample.label < len(classes)
            label = classes[sample.label] if known and sample.label is not None else sample.label
            yield Listed(sample.id, None if label is None else str(label))

    def open(self, position: int, path: str) -> Content:
        sample = self.dataset[position]
        try:
            image = sample.open()
        except FileNotFoundError:
            raise NoPicture("missing", "does not exist") from None
        except Exception as error:  # a dataset may be anybody's code
            reason = one_line(error)
            missing = "missing" if reason.endswith("does not exist") else "unreadable"
            raise NoPicture("unavailable" if can_pass(error) else missing, reason) from error
        file = self._file(path)
        if file is None:
            return Content(image, content_hash(f"{image.mode} {image.size}", image.tobytes()))
        status = file.stat()
        return Content(image, content_hash(file.read_bytes()), status.st_size, status.st_mtime_ns)

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


def open_source(text: str | os.PathLike[str], split: str | None = None) -> Source:
    """What DATA names: a folder, a list file (`.csv`, `.tsv`, `.txt`), a Parquet file, or a dataset's string.

    `list:FILE?root=FOLDER` and `parquet:FILE?root=FOLDER` have paths below another folder than the file's own;
    paths that lead out of it are refused, entry by entry. Raises FinerCAMError for what is none of these.
    """
    from finercam.data.open import _parse, _recognise, open_dataset

    text = os.fspath(text)
    if text.startswith("parquet:"):
        _, place, options = "parquet", *_parse(f"list:{text.removeprefix('parquet:')}")[1:]
        return ParquetSource(_file(place), _root(text, options))
    kind, place, options = _parse(text)
    path = Path(place).expanduser()
    if not kind and path.suffix.lower() in (".parquet", ".pq") and path.is_file():
        return ParquetSource(path)
    if not kind:
        kind, path = _recognise(path)
    if kind == "list":
        return ListSource(_file(str(path)), _root(text, options))
    if kind in ("folder", "pictures"):
        if not path.is_dir():
            raise FinerCAMError(f"{path} is not a folder")
        return FolderSource(path, split or options.get("split"), labelled=kind == "folder")
    return ReaderSource(open_dataset(text, split))


def _checked(source: _Files, path: str, label: str) -> Listed:
    named = label if label and _is_text(label) else None
    if not _is_text(path):
        return Listed(path.encode("utf-8", "backslashreplace").decode(), named, "its name is not UTF-8; rename it")
    try:
        safe_path(source.root, path, follow=False)
    except FinerCAMError as error:
        return Listed(path, named, str(error))
    return Listed(path.replace("\\", "/"), named)


def _split_of(root: Path, split: str | None) -> Path:
    names = [folder.name for folder in class_folders(root)]
    if split is None:
        if names and set(names) <= set(SPLITS):
            return root / next(name for name in SPLITS if name in names)
        return root
    if split not in names:
        raise FinerCAMError(f"{root} has no split {split!r}; it has {', '.join(names[:9])}.{suggest(split, names)}")
    return root / split


def _root(text: str, options: dict[str, Any]) -> Path | None:
    for name in options:
        if name != "root":
            raise FinerCAMError(f"dataset {text!r}: no option {name!r} here; there is root")
    if "root" not in options:
        return None
    root = Path(options["root"]).expanduser()
    if not root.is_dir():
        raise FinerCAMError(f"dataset {text!r}: root {str(root)!r} is not a folder")
    return root


def _file(place: str) -> Path:
    path = Path(place).expanduser()
    if not path.is_file():
        raise FinerCAMError(f"{path} is not a file")
    return path


def _column(names: list[str], known: tuple[str, ...]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _plain(kind: Any) -> Any:
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.string() if pa.types.is_large_string(kind) else kind


def _again(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a loop of links
        return False


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return "\0" not in text
