"""Find picture files from arguments: files, folders and patterns."""

from __future__ import annotations

import glob
from collections.abc import Iterable
from pathlib import Path

__all__ = ["find_pictures"]


def find_pictures(typed: Iterable[str]) -> tuple[list[Path], list[str]]:
    """Picture files in the order of the arguments, each once, and one complaint for each argument without pictures.

    Files of a folder or a pattern are sorted. A folder is searched with its subfolders, except hidden ones. An
    argument that exists as a file or folder is never read as a pattern.

    >>> find_pictures(["no/such*.png"])
    ([], ['no/such*.png matches no file'])
    """
    files: dict[Path, None] = {}
    complaints = []
    for entry in typed:
        path = Path(entry)
        if path.is_dir():
            pictures = _within(path)
            if not pictures:
                complaints.append(f"{entry} is a folder without pictures")
        elif path.exists() or not glob.has_magic(entry):
            pictures = [path]  # the reader reports a file that does not exist
        else:
            matches = sorted(map(Path, glob.glob(entry, recursive=True)))  # noqa: PTH207 - Path takes no absolute pattern
            pictures = [file for match in matches for file in (_within(match) if match.is_dir() else [match])]
            if not pictures:
                complaints.append(f"{entry} matches no file")
        files.update(dict.fromkeys(pictures))
    return list(files), complaints


def _within(folder: Path) -> list[Path]:
    from finercam.images import ENDINGS

    def hidden(path: Path) -> bool:
        return any(part.startswith(".") for part in path.relative_to(folder).parts)

    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS and not hidden(path))
