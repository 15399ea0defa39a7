"""A photo beside one of its rival class, with the places that correspond numbered in both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from finercam.view.drawn import picture
from finercam.view.questions import how, name_of, question, rather
from finercam.view.sheet import Cell, Line, sheet
from finercam.view.shown import Display, shown

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finercam.beside import Beside
    from finercam.explanation import Explanation

__all__ = ["beside", "marked", "numbered_pictures"]

Point = tuple[float, float]
Mark = tuple[str, Point]
"""A number or letter, and its place as x and y in shares of width and height."""


def beside(one: Beside, image: Any = None, *, preprocess: Display | None = None) -> Figure:
    """Photo, evidence for the target on it, evidence for the rival on the rival's photo, and that photo.

    Numbers are places that correspond. Letters are lit on the rival's photo only: what this one lacks. `image` is the
    photo as in `finercam.view.shown`; None shows the stored input.
    """
    here, there = numbered_pictures(one, image, preprocess=preprocess)
    own, other = name_of(one.answer), name_of(one.rival)
    cells = [
        Cell(shown(one.answer, image, preprocess)[0], "Photo", (Line(own, lines=2),)),
        Cell(np.asarray(here), f"For {own}", (*rather(one.answer), *_shares(one)), bar=("no evidence", "peak")),
        Cell(np.asarray(there), f"For {other}", (*rather(one.rival), *_lacking(one)), bar=("no evidence", "peak")),
        Cell(shown(one.rival, one.picture, preprocess)[0], f"A photo of {other}", (Line("from the examples"),)),
    ]
    return sheet([cells], question(one.answer), how(one.answer))


def numbered_pictures(
    one: Beside, image: Any = None, *, preprocess: Display | None = None
) -> tuple[Image.Image, Image.Image]:
    """The evidence on both photos with the marks: the photo itself, and the rival's."""
    photo, other = shown(one.answer, image, preprocess)[0], shown(one.rival, one.picture, preprocess)[0]
    numbers = [str(n) if match.sure else f"{n}?" for n, match in enumerate(one.matches, 1)]
    here: list[Mark] = [(n, match.place) for n, match in zip(numbers, one.matches, strict=True)]
    there: list[Mark] = [(n, match.place_there) for n, match in zip(numbers, one.matches, strict=True)]
    there += [(chr(65 + n), region.place) for n, region in enumerate(one.lacks)]
    return _evidence(photo, one.answer, here), _evidence(other, one.rival, there)


def marked(photo: Image.Image, marks: Sequence[Mark]) -> Image.Image:
    """The photo with a ring around each place and its number beside it; letters have a blue badge."""
    finer = 3  # drawn larger and shrunk, because Pillow draws without smooth edges
    size = min(photo.size)
    layer = Image.new("RGBA", (photo.width * finer, photo.height * finer), (0, 0, 0, 0))
    draw = ImageDraw.Draw(layer)
    ring, badge, line = (finer * size * share for share in (0.045, 0.034, 0.007))
    font = ImageFont.load_default(badge * 1.5)
    centres = [(x * layer.width, y * layer.height) for _, (x, y) in marks]
    for (text, _), centre in zip(marks, centres, strict=True):
        colour = (20, 40, 90, 255) if text.isalpha() else (20, 20, 20, 255)
        draw.circle(centre, ring + line, outline=colour, width=round(3 * line))
        draw.circle(centre, ring, outline=(255, 255, 255, 255), width=round(line))
        at = _badge(centre, centres, ring * 1.35, badge, layer.size)
        draw.circle(at, badge, fill=colour, outline=(255, 255, 255, 255), width=round(line))
        draw.text(at, text, fill=(255, 255, 255, 255), font=font, anchor="mm")
    return Image.alpha_composite(photo.convert("RGBA"), layer.resize(photo.size, Image.Resampling.BOX)).convert("RGB")


def _evidence(photo: np.ndarray, answer: Explanation, marks: list[Mark]) -> Image.Image:
    return marked(picture(photo, answer), marks)


def _shares(one: Beside) -> tuple[Line, ...]:
    if not one.matches:
        return (Line("no place of it corresponds to evidence there", lines=2),)
    shares = ", ".join(f"{n}: {match.region.share:.0%}" for n, match in enumerate(one.matches, 1))
    return (Line(f"share of this evidence: {shares}", lines=2),)


def _lacking(one: Beside) -> tuple[Line, ...]:
    if not one.lacks:
        return ()
    shares = ", ".join(f"{chr(65 + n)}: {region.share:.0%}" for n, region in enumerate(one.lacks))
    return (Line(f"lit here only, what the photo lacks: {shares}", lines=3),)


def _badge(centre: Point, centres: Sequence[Point], away: float, radius: float, size: tuple[int, int]) -> Point:
    """Where a number goes: the corner of the ring that is farthest from the other rings, inside the photo."""
    corners = [(centre[0] + x * away, centre[1] + y * away) for y in (-1, 1) for x in (1, -1)]
    inside = [(min(max(x, radius), size[0] - radius), min(max(y, radius), size[1] - radius)) for x, y in corners]
    others = [other for other in centres if other != centre]
    return max(inside, key=lambda at: min((math.dist(at, other) for other in others), default=0.0))
