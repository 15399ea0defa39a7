"""Pictures decoded and preprocessed in advance, in the order of the list; a bad one never stops a thread."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from finercam.data.batches import in_order
from finercam.data.source import NoPicture, Source
from finercam.errors import FinerCAMError
from finercam.io import one_line
from finercam.run.lists import Entry

if TYPE_CHECKING:
    from finercam.images import Preprocess

__all__ = ["Read", "read_ahead"]


@dataclass(frozen=True)
class Read:
    """An entry with its tensor `(3, H, W)`, or with the `status` and `error` that its row gets."""

    entry: Entry
    tensor: Tensor | None = None
    status: str = ""
    error: str = ""
    digest: str | None = None
    size: tuple[int, int] | None = None
    bytes: int | None = None
    modified_ns: int | None = None


def read_ahead(
    source: Source, preprocess: Preprocess, entries: Iterable[Entry], threads: int, ahead: int
) -> Generator[Read, None, None]:
    """Read entries in their order, up to `ahead` of them in advance; with 0 threads none."""
    return in_order(lambda entry: _read(source, preprocess, entry), entries, threads, ahead)


def _read(source: Source, preprocess: Preprocess, entry: Entry) -> Read:
    if entry.skip is not None:
        return Read(entry, None, *entry.skip)
    found = None
    try:
        found = source.open(entry.position, entry.path)
        tensor = preprocess(found.image)
        return Read(entry, tensor, "", "", found.digest, found.image.size, found.bytes, found.modified_ns)
    except NoPicture as error:
        status, reason = error.status, str(error)
    except MemoryError:
        status, reason = "out_of_memory", "the picture does not fit into memory"
    except Exception as error:  # decoders raise almost anything on broken data
        status, reason = "unreadable", one_line(error)
        if not isinstance(error, FinerCAMError):
            reason = f"{type(error).__name__}: {reason}"
    if found is not None:
        return Read(entry, None, status, reason, found.digest, found.image.size, found.bytes, found.modified_ns)
    if status == "unavailable":  # tried again by the next run, whatever the file is then
        return Read(entry, None, status, reason)
    size, modified = (None, None) if status == "refused" else source.state(entry.position, entry.path)
    digest = None if size is None else source.digest(entry.position, entry.path)
    return Read(entry, None, status, reason, digest, None, size, modified)
