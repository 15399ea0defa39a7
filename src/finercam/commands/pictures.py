"""Picture files out of what was typed: files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

__all__ = ["find_pictures"]


def find_pictures(typed: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Files in the order typed (a folder's and a pattern's sorted, each file once), and complaints about the rest.

    A folder is searched with all its subfolders, hidden ones aside. What exists is never taken for a pattern.

    >>> find_pictures(["no/such*.png"])
    ([], ['no/such*.png matches no file'])
    """
    files: dict[Path, None] = {}
    complaints = []
    for entry in typed:
        path = Path(entry)
        if path.is_dir():
            found = _within(path)
            if not found:
                complaints.append(f"{entry} is a folder without pictures")
        elif path.exists() or not glob.has_magic(entry):
            found = [path]  # one that does not exist is told by who reads it
        else:
            matches = sorted(map(Path, glob.glob(entry, recursive=True)))  # noqa: PTH207 - Path takes no absolute pattern
            found = [file for match in matches for file in (_within(match) if match.is_dir() else [match])]
            if not found:
                complaints.append(f"{entry} matches no file")
        files.update(dict.fromkeys(found))
    return list(files), complaints


def _within(folder: Path) -> list[Path]:
    from finercam.images import ENDINGS

    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and not hidden(path))
