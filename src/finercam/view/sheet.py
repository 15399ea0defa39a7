"""Sheets of titled pictures in rows, laid out in inches, so that text is legible for pictures of any size."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from finercam.view.colours import evidence_colours, opacity, signed_colours
from finercam.view.text import DPI, font, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Cell", "Line", "colour_ramp", "png", "sheet"]

WIDE = 2.7
"""Width of a cell and largest width of a picture in inches; a picture is at most 1.6 times as high."""

GAP, MARGIN = 0.16, 0.18
HEADING, TITLE, NOTE, END = 13.0, 10.5, 9.0, 8.0
"""Sizes of text in points: heading of the sheet, title of a cell, notes of a cell, labels of a colour bar."""

LEADING = 1.28
BAR = 0.07
INK, QUIET = "#111111", "#4a4a4a"


@dataclass(frozen=True)
class Line:
    """A note of at most `lines` lines; `text` is shortened if needed, `tail` is not."""

    text: str
    tail: str = ""
    lines: int = 2


@dataclass(frozen=True)
class Cell:
    """A picture (uint8 `(H, W, 3)`, or None for an empty place), a title, notes, and a colour bar.

    `bar` are the labels of the left and right end of the colour bar; `signed` selects its colours.
    """

    picture: np.ndarray | None
    title: str
    notes: tuple[Line, ...] = ()
    bar: tuple[str, str] | None = None
    signed: bool = False

    @property
    def size(self) -> tuple[float, float]:
        """Width and height of the picture in inches."""
        if self.picture is None:
            return WIDE, 0.5
        height, width = self.picture.shape[:2]
        scale = min(WIDE / width, 1.6 * WIDE / height)
        return width * scale, height * scale


def sheet(rows: Sequence[Sequence[Cell]], heading: str = "", footer: str = "") -> Figure:
    """Rows of cells as a figure with cells 2.7 inches wide. Text is drawn literally, without mathematics or markup.

    >>> figure = sheet([[Cell(np.zeros((4, 6, 3), np.uint8), "Photo")]], heading="a $x^2$ b")
    >>> figure.texts[0].get_text()
    'a $x^2$ b'
    """
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows)
    width = columns * WIDE + (columns - 1) * GAP + 2 * MARGIN
    inner = (width - 2 * MARGIN) * 72
    head = wrapped(heading, inner, HEADING, lines=3, bold=True) if heading else ""
    foot = wrapped(footer, inner, END, lines=2) if footer else ""
    heads = [[_captions(cell) for cell in row] for row in rows]
    heights = [
        (
            max(sum(_tall(text, size) for text, size in captions) for captions in of_row) + 0.04,
            max(cell.size[1] for cell in row),
            (GAP + BAR + _tall("x", END)) if any(cell.bar for cell in row) else 0.0,
        )
        for row, of_row in zip(rows, heads, strict=True)
    ]
    body = sum(map(sum, heights)) + GAP * len(rows)
    height = MARGIN * 1.5 + body + (_tall(head, HEADING) + 0.12 if head else 0) + (_tall(foot, END) if foot else 0)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    top = height - MARGIN
    if head:
        _write(figure, MARGIN, top, head, HEADING, bold=True)
        top -= _tall(head, HEADING) + 0.12
    for row, of_row, (caption, tallest, bar) in zip(rows, heads, heights, strict=True):
        for column, (cell, captions) in enumerate(zip(row, of_row, strict=True)):
            left = MARGIN + column * (WIDE + GAP)
            _draw(figure, cell, captions, left, top, top - caption)
        top -= caption + tallest + bar + GAP
    if foot:
        _write(figure, MARGIN, top + GAP * 0.5, foot, END, colour=QUIET)
    return figure


def png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, without a date, so that the same figure gives the same bytes."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return stream.getvalue()


def _captions(cell: Cell) -> list[tuple[str, float]]:
    """Title and notes, wrapped, with their sizes."""
    room = WIDE * 72
    title = [(wrapped(cell.title, room, TITLE, bold=True), TITLE)] if cell.title else []
    return title + [(wrapped(n.text, room, NOTE, n.lines, n.tail), NOTE) for n in cell.notes]


def _draw(
    figure: Figure, cell: Cell, captions: list[tuple[str, float]], left: float, top: float, under: float
) -> None:
    for index, (text, size) in enumerate(captions):
        _write(figure, left, top, text, size, bold=index == 0 and bool(cell.title), colour=QUIET if index else INK)
        top -= _tall(text, size)
    if cell.picture is None:
        return
    wide, tall = cell.size
    axes = _axes(figure, left, under - tall, wide, tall)
    # With "auto", small pictures keep their square pixels and large ones are shrunk smoothly.
    axes.imshow(cell.picture, aspect="auto", interpolation="auto")
    if cell.bar is not None:
        below = under - tall - GAP * 0.5
        _axes(figure, left, below - BAR, wide, BAR).imshow(colour_ramp(cell.signed), aspect="auto")
        half = wide * 72 / 2 - 4
        for end, at, ha in ((cell.bar[0], left, "left"), (cell.bar[1], left + wide, "right")):
            _write(figure, at, below - BAR - 0.03, wrapped(end, half, END, lines=1), END, colour=QUIET, ha=ha)


def colour_ramp(signed: bool) -> np.ndarray:
    """The colours as they look on a grey photo, `(1, 256, 3)`."""
    values = np.linspace(-1 if signed else 0, 1, 256)[None]
    alpha = opacity(values)[..., None]
    return alpha * (signed_colours(values) if signed else evidence_colours(values)) + (1 - alpha) * 0.72


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Any:
    across, up = figure.get_size_inches()
    axes = figure.add_axes((left / across, bottom / up, width / across, height / up))
    axes.set_axis_off()
    return axes


def _write(
    figure: Figure,
    left: float,
    top: float,
    text: str,
    size: float,
    bold: bool = False,
    colour: str = INK,
    ha: str = "left",
) -> None:
    across, up = figure.get_size_inches()
    for number, line in enumerate(text.split("\n")):
        # Lines are placed by their baseline, because the top of a line depends on its letters.
        baseline = top - size * (0.9 + number * LEADING) / 72
        properties = font(size, bold)
        figure.text(
            left / across, baseline / up, line, fontproperties=properties, color=colour, ha=ha, parse_math=False
        )


def _tall(text: str, size: float) -> float:
    """Height of wrapped text in inches, with the space below it."""
    return ((text.count("\n") + 1) * size * LEADING + 2) / 72
