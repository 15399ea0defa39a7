"""Text on pictures: literal, in the fonts that are installed, wrapped at a width in points."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from finercam.text import literal

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

__all__ = ["font", "wrapped"]

_FAMILIES = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Emoji", "Arial Unicode MS")
"""Fonts to look for a letter in, in this order; the first one comes with matplotlib."""

_MEASURED_AT = 100
"""Size in points at which text is measured; widths are proportional."""


def wrapped(text: object, width: float, size: float, lines: int = 2, tail: str = "") -> str:
    """The literal text at `size` points in at most `lines` lines of `width` points, the rest elided; `tail` stays.

    Letters that no font at hand can draw become their code points, so that two names stay two names.

    >>> wrapped("Poecile atricapillus (Black-capped Chickadee)", width=150, size=10)
    'Poecile atricapillus\\n(Black-capped Chickadee)'
    >>> wrapped("x" * 300, width=90, size=10, tail=", 88 %")
    'xxxxxxxxxxxxxxx\\nxxxxxxxx…, 88 %'
    """
    done: list[str] = []
    rest = "".join(_drawable(letter) for letter in literal(text))
    while len(done) < lines - 1 and _length(rest + tail, size) > width:
        line = _line(rest, width, size)
        if line == rest:  # only the tail does not fit: it takes the last word along
            line = rest[: rest.rfind(" ") + 1] or rest
        done.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    return "\n".join([*done, _elided(rest, width - _length(tail, size), size) + tail])


def font(size: float, bold: bool = False) -> FontProperties:
    """A font of `size` points with the fall-backs that are installed."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=list(_files()), size=size, weight="bold" if bold else "normal")


def _line(text: str, width: float, size: float) -> str:
    """As much of the beginning as fits: whole words if there are any, at least one letter."""
    fits = _fitting(text, width, size)
    if fits == len(text):
        return text
    space = text.rfind(" ", 0, fits + 1)
    return text[: space + 1] if space > 0 else text[: max(fits, 1)]


def _elided(text: str, width: float, size: float) -> str:
    fits = _fitting(text, width, size)
    if fits == len(text):
        return text
    return text[: max(_fitting(text, width - _length("…", size), size), 1)].rstrip() + "…"


def _fitting(text: str, width: float, size: float) -> int:
    """How many letters from the beginning fit, by bisection."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _length(text[:middle], size) <= width else (low, middle - 1)
    return low


def _length(text: str, size: float) -> float:
    """Width in points. Letters of a fall-back font are counted as one em."""
    known = _letters()[0]
    own = "".join(letter for letter in text if ord(letter) in known)
    return (_ruler().getlength(own) / _MEASURED_AT + len(text) - len(own)) * size


def _drawable(letter: str) -> str:
    if letter in "\u200c\u200d\ufe0f":  # they only join or choose a form
        return ""
    if letter == "\u200e":
        return letter
    return letter if any(ord(letter) in letters for letters in _letters()) else f"<U+{ord(letter):04X}>"


@cache
def _files() -> dict[str, str]:
    """Installed families of `_FAMILIES` and their files."""
    from matplotlib.font_manager import FontProperties, findfont, get_font_names

    installed = set(get_font_names())
    return {name: str(findfont(FontProperties(family=name))) for name in _FAMILIES if name in installed}


@cache
def _letters() -> list[frozenset[int]]:
    """Code points that each installed family can draw."""
    from matplotlib.font_manager import get_font

    return [frozenset(get_font(file).get_charmap()) for file in _files().values()]


@cache
def _ruler():
    from PIL import ImageFont

    return ImageFont.truetype(
        str(Path(next(iter(_files().values())))), _MEASURED_AT, layout_engine=ImageFont.Layout.BASIC
    )
