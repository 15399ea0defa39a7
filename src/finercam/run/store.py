"""Where a run's files lie: a local folder, or any place that pyarrow has a file system for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finercam.errors import FinerCAMError
from finercam.io import PARTIAL, one_line, whole_file, write_whole

__all__ = ["Store"]


class Store:
    """Reads and writes whole files by fixed names, which no dataset has a say in.

    On a local folder a file is written under another name, synchronised to the disk and renamed, and so is the
    folder's entry: after a kill or a power cut it is there whole, or not at all. `place` may be an address like
    `s3://bucket/run` (`pyarrow.fs`), where a file appears when it has been uploaded.

    Raises FinerCAMError, one line, for a place that cannot be read or written.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.place = os.fspath(place)
        self.folder: Path | None = None if "://" in self.place else Path(self.place)
        if self.folder is None:
            from pyarrow import fs

            try:
                self.system, self.root = fs.FileSystem.from_uri(self.place)
            except (OSError, ValueError) as error:
                raise FinerCAMError(f"{self.place}: no such place: {one_line(error)}") from error

    def make(self) -> None:
        """Make the folders."""
        with _told(self.place, "written"):
            if self.folder is None:
                self.system.create_dir(f"{self.root}/rows", recursive=True)
            else:
                (self.folder / "rows").mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Take away what a killed run left half-written; for the one that holds the lock."""
        if self.folder is None:
            return
        with _told(self.place, "written"):
            for place in (self.folder, self.folder / "rows"):
                for left in place.glob(f"{PARTIAL}*"):
                    left.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one writer; a killed one lets go by itself. Not on remote places."""
        if self.folder is None:
            yield
            return
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FinerCAMError(f"{self.place}: another run is writing here; wait for it, or end it") from None
            except OSError:  # a network file system without locks
                pass
            yield
        finally:
            os.close(handle)

    def exists(self, name: str) -> bool:
        if self.folder is not None:
            return (self.folder / name).is_file()
        from pyarrow import fs

        return self.system.get_file_info(f"{self.root}/{name}").type == fs.FileType.File

    def names(self, inside: str) -> list[str]:
        """The finished files in a folder, sorted, as `folder/file`."""
        if self.folder is not None:
            place = self.folder / inside
            found = [entry.name for entry in place.iterdir()] if place.is_dir() else []
        else:
            from pyarrow import fs

            listed = self.system.get_file_info(fs.FileSelector(f"{self.root}/{inside}", allow_not_found=True))
            found = [entry.base_name for entry in listed]
        return sorted(f"{inside}/{name}" for name in found if not name.startswith("."))

    def open(self, name: str) -> Any:
        """A file that pyarrow and others can read from."""
        with _told(f"{self.place}/{name}", "read"):
            if self.folder is not None:
                return (self.folder / name).open("rb")
            return self.system.open_input_file(f"{self.root}/{name}")

    def read(self, name: str) -> bytes:
        with self.open(name) as file, _told(f"{self.place}/{name}", "read"):
            return file.read()

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file or none."""
        with _told(f"{self.place}/{name}", "written"):
            if self.folder is None:
                with self.system.open_output_stream(f"{self.root}/{name}") as stream:
                    stream.write(content)
                return
            write_whole(self.folder / name, content, sync=True)

    def publish(self, part: Path, name: str) -> None:
        """Move a file that was written beside, into its place; a remote place gets a copy."""
        with _told(f"{self.place}/{name}", "written"):
            if self.folder is not None:
                with whole_file(self.folder / name, sync=True) as partial:
                    part.replace(partial)
                return
            with part.open("rb") as file, self.system.open_output_stream(f"{self.root}/{name}") as stream:
                while block := file.read(1 << 22):
                    stream.write(block)

    def delete(self, name: str) -> None:
        with _told(f"{self.place}/{name}", "deleted"):
            if self.folder is not None:
                (self.folder / name).unlink(missing_ok=True)
            elif self.exists(name):
                self.system.delete_file(f"{self.root}/{name}")


@contextmanager
def _told(place: str, done: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FinerCAMError(f"{place} cannot be {done}: {one_line(error)}") from error
