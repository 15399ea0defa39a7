"""Where a run's files lie: a local folder, or any place that pyarrow has a file system for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from finercam.errors import FinerCAMError
from finercam.io import PARTIAL, locked, one_line, scratch_folder, whole_file, write_whole

__all__ = ["Store", "storage_errors"]

SCRATCH = "finercam-run-"


class Store:
    """Reads and writes whole files by fixed names, none of which comes from the dataset.

    On a local folder a file is written under another name, synchronised to the disk and renamed, and so is the
    folder's entry: after a kill or a power cut it is there whole, or not at all. `place` may be an address like
    `s3://bucket/run` (`pyarrow.fs`), where a file appears when it has been uploaded.

    Raises FinerCAMError, one line, for a place that cannot be read or written.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self.place = os.fspath(place)
        self.folder: Path | None = None if "://" in self.place else Path(self.place)
        self.scratch: Path | None = None
        if self.folder is None:
            from pyarrow import fs

            try:
                self.system, self.root = fs.FileSystem.from_uri(self.place)
            except (OSError, ValueError) as error:
                raise FinerCAMError(f"{self.place}: no such place: {one_line(error)}") from error

    def make(self) -> None:
        """Make the folders."""
        with storage_errors(self.place, "written"):
            if self.folder is None:
                self.system.create_dir(f"{self.root}/rows", recursive=True)
            else:
                (self.folder / "rows").mkdir(parents=True, exist_ok=True)

    def clear(self) -> None:
        """Remove what a killed run left half-written; only for the run that holds the lock."""
        if self.folder is None:
            return
        with storage_errors(self.place, "written"):
            for place in (self.folder, self.folder / "rows"):
                for left in place.glob(f"{PARTIAL}*"):
                    left.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one writer until the end, also of a killed one. A remote place has no lock."""
        with ExitStack() as stack:
            if self.folder is None:
                self.scratch = stack.enter_context(scratch_folder(SCRATCH))
            elif not stack.enter_context(locked(self.folder)):
                raise FinerCAMError(f"{self.place}: another run is writing here; wait until it ends, or stop it")
            yield

    def exists(self, name: str) -> bool:
        if self.folder is not None:
            return (self.folder / name).is_file()
        from pyarrow import fs

        return self.system.get_file_info(f"{self.root}/{name}").type == fs.FileType.File

    def names(self, inside: str) -> list[str]:
        """The finished files in a folder, sorted, as `folder/file`."""
        with storage_errors(f"{self.place}/{inside}", "read"):
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
        with storage_errors(f"{self.place}/{name}", "read"):
            if self.folder is not None:
                return (self.folder / name).open("rb")
            return self.system.open_input_file(f"{self.root}/{name}")

    def read(self, name: str) -> bytes:
        with self.open(name) as file, storage_errors(f"{self.place}/{name}", "read"):
            return file.read()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Give a path of this machine to write to, within `locked`; after the block the file is there under its name."""
        if self.folder is not None:
            with whole_file(self.folder / name, sync=True) as partial:
                yield partial
            return
        part = self.local(name)
        with storage_errors(f"{self.place}/{name}", "written"):
            yield part
            with part.open("rb") as file, self.system.open_output_stream(f"{self.root}/{name}") as stream:
                shutil.copyfileobj(file, stream, 1 << 22)

    def local(self, name: str) -> Path:
        """Where a file that came about by `writing` is read on this machine."""
        folder = self.folder or self.scratch
        assert folder is not None
        return folder / name

    def write(self, name: str, content: bytes) -> None:
        """Write a whole file or none."""
        if self.folder is not None:
            write_whole(self.folder / name, content, sync=True)
            return
        with (
            storage_errors(f"{self.place}/{name}", "written"),
            self.system.open_output_stream(f"{self.root}/{name}") as stream,
        ):
            stream.write(content)

    def delete(self, name: str) -> None:
        """Delete a file. Raises FinerCAMError for a folder of that name, which no run has made."""
        with storage_errors(f"{self.place}/{name}", "deleted"):
            if self.folder is None:
                if self.exists(name):
                    self.system.delete_file(f"{self.root}/{name}")
            elif (self.folder / name).is_dir():
                raise FinerCAMError(
                    f"{self.place}/{name} is a folder, and a file of rows belongs there; move it away"
                )
            else:
                (self.folder / name).unlink(missing_ok=True)


@contextmanager
def storage_errors(place: str, done: str) -> Iterator[None]:
    """An OSError as a FinerCAMError, one line: `place` cannot be `done` (read, written, deleted)."""
    try:
        yield
    except OSError as error:
        raise FinerCAMError(f"{place} cannot be {done}: {one_line(error)}") from error
