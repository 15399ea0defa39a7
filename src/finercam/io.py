"""Files that are written whole or not at all, hashes of content and of weights, and errors on one line."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from finercam.errors import FinerCAMError

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "PARTIAL",
    "content_hash",
    "locked",
    "one_line",
    "partial_path",
    "scratch_folder",
    "weights_hash",
    "whole_file",
    "write_whole",
]

PARTIAL = ".writing-"
"""The first letters of the names of unfinished files; a killed program may leave some behind."""
FRESH = 60
"""Seconds during which a temporary folder is not taken for one that a killed program left, as it may not be locked yet."""


def partial_path(path: Path) -> Path:
    """A new name beside `path` for a file or folder that is still being written."""
    return path.with_name(f"{PARTIAL}{uuid4().hex}")


@contextmanager
def whole_file(path: str | os.PathLike[str], *, sync: bool = False) -> Iterator[Path]:
    """Give a temporary path to write to; when the block ends without an error, the file is moved to `path`.

    Readers find the old file or the new one, never a part. The folder is created. With `sync` the file and the entry
    in its folder also survive a power cut. Raises FinerCAMError if the file cannot be written.

    >>> from tempfile import mkdtemp
    >>> with whole_file(mkdtemp() + "/new/a.txt") as partial:
    ...     written = partial.write_text("complete")
    >>> partial.exists()
    False
    """
    path = Path(path)
    partial = partial_path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            if sync:
                _flush(partial)
            partial.replace(path)
            if sync and hasattr(os, "O_DIRECTORY"):
                _flush(path.parent, os.O_DIRECTORY)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise FinerCAMError(f"{path} cannot be written: {one_line(error)}") from error


def write_whole(path: str | os.PathLike[str], content: str | bytes, *, sync: bool = False) -> Path:
    """Write a file whole or not at all (see `whole_file`) and return its path; text is UTF-8."""
    with whole_file(path, sync=sync) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
    return Path(path)


def _flush(path: Path, flags: int = 0) -> None:
    handle = os.open(path, os.O_RDONLY | flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Whether this process holds the folder while the block runs; a process that is killed lets go of it.

    Raises FinerCAMError if the folder's `.lock` cannot be written.
    """
    if fcntl is None:
        yield True
        return
    lock = folder / ".lock"
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise FinerCAMError(f"{lock} cannot be written: {one_line(error)}") from error
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held = False
        except OSError:  # a network file system without locks
            pass
        yield held
    finally:
        os.close(handle)


@contextmanager
def scratch_folder(prefix: str, place: Path | None = None) -> Iterator[Path]:
    """A temporary folder, by default in the system's place for such; raises OSError if it cannot be made.

    Those that killed programs of this user left behind under the prefix are removed first, where locks tell them.
    """
    place = place or Path(tempfile.gettempdir())
    for left in place.glob(f"{escape(prefix)}*") if fcntl is not None else ():
        with suppress(OSError, FinerCAMError):
            status = left.lstat()
            own = not hasattr(os, "getuid") or status.st_uid == os.getuid()
            if own and left.is_dir() and not left.is_symlink() and time.time() - status.st_mtime > FRESH:
                with locked(left) as held:
                    if held:
                        shutil.rmtree(left)
    made = tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True)
    with made as folder, locked(Path(folder)):
        yield Path(folder)


def content_hash(*parts: str | bytes) -> str:
    """SHA-256 of the joined parts, as 64 hexadecimal digits; text is UTF-8.

    >>> content_hash("abc")[:16], content_hash("a", b"bc") == content_hash("abc")
    ('ba7816bf8f01cfea', True)
    """
    found = sha256()
    for part in parts:
        found.update(part.encode() if isinstance(part, str) else part)
    return found.hexdigest()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of every parameter and buffer: name, type, shape and bytes, ordered by name.

    >>> from torch import float16, nn
    >>> weights_hash(nn.Linear(2, 1)) == weights_hash(nn.Linear(2, 1).to(float16))
    False
    """
    import torch

    found = sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue
        found.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        if value.numel():
            flat = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            found.update(flat.numpy().tobytes())
    return found.hexdigest()


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of an exception on one line of at most `limit` characters.

    The system's reason is taken where there is one, and the name of the type where there is no message.

    >>> one_line(ValueError("two\\n  lines")), one_line(FileNotFoundError(2, "No such file", "/a/path")), one_line(KeyError())
    ('two lines', 'No such file', 'KeyError')
    """
    reason = getattr(error, "strerror", None)
    text = " ".join((reason if isinstance(reason, str) and reason else str(error)).split())
    return text[:limit] or type(error).__name__
