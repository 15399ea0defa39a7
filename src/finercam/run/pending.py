"""Which files of rows have to be made: those that are missing, damaged, of another run, or may succeed this time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from finercam.data.source import Source
from finercam.errors import FinerCAMError
from finercam.run.lists import ImageList
from finercam.run.rows import PASSING, read_shard, shard_name
from finercam.run.store import Store

__all__ = ["pending_shards"]

NOT_COMPARED = PASSING | {"duplicate", "refused"}
COLUMNS = ("position", "path", "status", "content", "bytes", "modified_ns")


def pending_shards(
    store: Store,
    listed: ImageList,
    source: Source,
    settings: str,
    redo: bool,
    check_contents: bool,
    warn: Callable[[str], None],
) -> list[int]:
    """The numbers of the shards that have to be made. Files that are damaged or of another run are deleted.

    A shard with a row that failed for a cause that can pass is made again, and its file stays until then. Raises
    FinerCAMError for images that have changed since they were explained, unless `redo`.
    """
    wanted = {shard_name(number): number for number in range(listed.shards)}
    finished: set[int] = set()
    changed: list[str] = []
    for name in store.names("rows"):
        number = wanted.get(name)
        if number is None:
            if store.exists(name):  # a folder of another name stays
                store.delete(name)
            continue
        table = _trusted(store, listed, number, settings, warn)
        if table is None:
            store.delete(name)
            continue
        others = _changed(table, source, check_contents)
        changed += others
        if others and redo:
            store.delete(name)
        elif not PASSING.intersection(table.column("status").to_pylist()):
            finished.add(number)
    if changed and not redo:
        raise FinerCAMError(
            f"{len(changed)} images have changed since they were explained ({changed[0]}{', …' if changed[1:] else ''}); "
            "pass --redo to explain their shards again"
        )
    return [number for number in range(listed.shards) if number not in finished]


def _trusted(store: Store, listed: ImageList, number: int, settings: str, warn: Callable[[str], None]) -> Any:
    """The rows of a shard; None if its file is damaged, or was made of other settings or another list."""
    try:
        shard = read_shard(store, number, verify=True)
    except FinerCAMError as error:
        warn(f"{error}; it will be made again")
        return None
    same = shard.fingerprint == listed.fingerprint(number, settings) and len(shard.table) == listed.length(number)
    return shard.table if same else None


def _changed(table: Any, source: Source, check_contents: bool) -> list[str]:
    """Paths whose files are not what was explained: by size and time, and then by their hash."""
    found = []
    columns = (table.column(name).to_pylist() for name in COLUMNS)
    for position, path, status, content, size, modified in zip(*columns, strict=True):
        if status in NOT_COMPARED:
            continue
        now = source.state(position, path)
        if (now != (size, modified) or check_contents) and source.digest(position, path) != content:
            found.append(path)
    return found
