"""Text on pictures: literal text in the installed fonts, wrapped at a width in points."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from finercam.text import literal

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties

__all__ = ["DPI", "font", "wrapped"]

_FAMILIES = ("DejaVu Sans", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Emoji", "Arial Unicode MS")
"""The fonts to draw a letter with, in order of preference; the first one comes with matplotlib."""

DPI = 150
"""Dots per inch of every sheet."""


def wrapped(text: object, width: float, size: float, lines: int = 2, tail: str = "", bold: bool = False) -> str:
    """The literal text at `size` points in at most `lines` lines of `width` points; `tail` is never shortened.

    Letters that no installed font can draw become their code points, so that different names stay different.

    >>> wrapped("Poecile atricapillus (Black-capped Chickadee)", width=150, size=10)
    'Poecile atricapillus\\n(Black-capped Chickadee)'
    >>> wrapped("x" * 300, width=90, size=10, tail=", 88 %")
    'xxxxxxxxxxxxxxx\\nxxxxxxxx…, 88 %'
    """
    done: list[str] = []
    rest = "".join(_drawable(letter) for letter in literal(text))
    while len(done) < lines - 1 and _length(rest + tail, size, bold) > width:
        line = _line(rest, width, size, bold)
        if line == rest:  # only the tail does not fit; it moves to the next line with the last word
            line = rest[: rest.rfind(" ") + 1] or rest
        done.append(line.rstrip())
        rest = rest[len(line) :].lstrip()
    return "\n".join([*done, _elided(rest, width - _length(tail, size, bold), size, bold) + tail])


def font(size: float, bold: bool = False) -> FontProperties:
    """A font of `size` points with the installed fallbacks."""
    from matplotlib.font_manager import FontProperties

    return FontProperties(family=list(_files()), size=size, weight="bold" if bold else "normal")


def _line(text: str, width: float, size: float, bold: bool) -> str:
    """The beginning of the text that fits: whole words if possible, and at least one letter."""
    fits = _fitting(text, width, size, bold)
    if fits == len(text):
        return text
    space = text.rfind(" ", 0, fits + 1)
    return text[: space + 1] if space > 0 else text[: max(fits, 1)]


def _elided(text: str, width: float, size: float, bold: bool) -> str:
    fits = _fitting(text, width, size, bold)
    if fits == len(text):
        return text
    return text[: max(_fitting(text, width - _length("…", size, bold), size, bold), 1)].rstrip() + "…"


def _fitting(text: str, width: float, size: float, bold: bool) -> int:
    """The number of letters from the beginning that fit, by bisection."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _length(text[:middle], size, bold) <= width else (low, middle - 1)
    return low


def _length(text: str, size: float, bold: bool = False) -> float:
    """Width in points when drawn at DPI, where hinting makes small letters wider than in proportion."""
    from matplotlib.backends.backend_agg import get_hinting_flag
    from matplotlib.font_manager import get_font

    ruler = get_font(list(_files(bold).values()))
    ruler.set_size(size, DPI)
    ruler.set_text(text, 0.0, flags=get_hinting_flag())
    return ruler.get_width_height()[0] / 64 * 72 / DPI


def _drawable(letter: str) -> str:
    if letter in "\u200c\u200d\ufe0f":  # these only join letters or select a form
        return ""
    if letter == "\u200e":
        return letter
    return letter if any(ord(letter) in letters for letters in _letters()) else f"<U+{ord(letter):04X}>"


@cache
def _files(bold: bool = False) -> dict[str, str]:
    """The installed families of `_FAMILIES` and their files."""
    from matplotlib.font_manager import FontProperties, findfont, get_font_names

    installed = set(get_font_names())
    weight = "bold" if bold else "normal"
    return {
        name: str(findfont(FontProperties(family=name, weight=weight))) for name in _FAMILIES if name in installed
    }


@cache
def _letters() -> list[frozenset[int]]:
    """Code points that each installed family can draw."""
    from matplotlib.font_manager import get_font

    return [frozenset(get_font(file).get_charmap()) for file in _files().values()]
