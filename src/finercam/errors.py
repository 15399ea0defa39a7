"""The one exception that finercam raises for input it cannot use."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LONGEST = 1500
"""Characters of a message: enough for a long list of known names, and for paths."""

__all__ = ["FinerCAMError", "suggest"]


class FinerCAMError(ValueError):
    """One line that says what was given, what was expected and how to fix it.

    The message stays one line, also if it quotes an array of several lines or a very long name.

    >>> print(FinerCAMError("given: [1\\n 2]"))
    given: [1 2]
    """

    def __init__(self, message: object = "") -> None:
        line = " ".join(part.strip() for part in str(message).splitlines())
        super().__init__(line if len(line) <= LONGEST else f"{line[:LONGEST]}…")


def suggest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """Name the known entries closest to `name`, as the tail of an error message.

    >>> suggest("gradcan", ["gradcam", "layercam"])
    " Did you mean 'gradcam'?"
    >>> suggest("zzz", ["gradcam"])
    ''
    """
    by_lower = {entry.lower(): entry for entry in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.6)
    return " Did you mean " + " or ".join(repr(by_lower[entry]) for entry in close) + "?" if close else ""
