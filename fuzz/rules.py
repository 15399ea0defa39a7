"""The rule that every error must follow."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(error: Exception) -> None:
    """Check that an error is one line, and no longer than a screen."""
    text = str(error)
    assert text and len(text.splitlines()) == 1, f"not one line: {text!r}"
    assert len(text) < 2000, f"{len(text)} letters: {text[:100]}…"
