"""Cut-outs of photos around the places of a trait, and whole photos with the places numbered."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from finercam.images import Preprocess
from finercam.report.pictures import data_uri, seen_by_model
from finercam.traits.traits import Spot

__all__ = ["crop", "numbered", "seen"]

CROP, WIDE = 144, 420
"""Side in pixels of a cut-out, and longer side of a whole photo."""
REACH = 0.38
"""Side of a cut-out as a share of the photo's shorter side."""
RING = 0.11
"""Radius of a ring as a share of the photo's shorter side."""
LIT, ALIKE = (255, 122, 26), (120, 140, 255)
"""Colours of rings: a lit region, and a place that only looks alike."""


def seen(picture: Image.Image, preprocess: Preprocess) -> Image.Image:
    """The part of a photo that the model sees."""
    photo = seen_by_model(picture, preprocess.tensor_size(picture.size), preprocess)
    assert photo is not None
    return photo


def crop(photo: Image.Image, spot: Spot) -> str:
    """The square around a place as a `data:` address, with a ring around the place; or the whole photo without one."""
    if spot.whole:
        return data_uri(ImageOps.fit(photo, (CROP, CROP)), quality=84)
    side = REACH * min(photo.size)
    x, y = spot.x * photo.width, spot.y * photo.height
    left = min(max(0.0, x - side / 2), photo.width - side)
    top = min(max(0.0, y - side / 2), photo.height - side)
    cut = photo.resize((CROP, CROP), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    _ring(cut, (x - left) * CROP / side, (y - top) * CROP / side, RING / REACH * CROP, spot.lit)
    return data_uri(cut, quality=84)


def numbered(photo: Image.Image, spots: Sequence[tuple[int, Spot]]) -> str:
    """A whole photo as a `data:` address, with numbered rings."""
    shown = photo.copy()
    if max(shown.size) != WIDE:
        factor = WIDE / max(shown.size)
        shown = shown.resize((round(shown.width * factor), round(shown.height * factor)), Image.Resampling.BICUBIC)
    radius = RING * min(shown.size)
    for number, spot in spots:
        x, y = spot.x * shown.width, spot.y * shown.height
        _ring(shown, x, y, radius, spot.lit)
        _number(shown, x + 0.75 * radius, y - 0.75 * radius, number)
    return data_uri(shown, quality=84)


def _ring(picture: Image.Image, x: float, y: float, radius: float, lit: bool) -> None:
    """A ring that is drawn at four times the size, since Pillow does not smooth its lines."""
    scale = 4
    over = Image.new("L", (picture.width * scale, picture.height * scale))
    dark = over.copy()
    box = [scale * (x - radius), scale * (y - radius), scale * (x + radius), scale * (y + radius)]
    ImageDraw.Draw(dark).ellipse([box[0] - 4, box[1] - 4, box[2] + 4, box[3] + 4], outline=150, width=4 * scale)
    ImageDraw.Draw(over).ellipse(box, outline=255, width=2 * scale)
    for mask, colour in ((dark, (20, 20, 22)), (over, LIT if lit else ALIKE)):
        picture.paste(colour, mask=mask.resize(picture.size, Image.Resampling.LANCZOS))


def _number(picture: Image.Image, x: float, y: float, number: int) -> None:
    draw, radius = ImageDraw.Draw(picture), 11
    x, y = (min(max(radius, at), side - radius) for at, side in zip((x, y), picture.size, strict=True))
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=(20, 20, 22))
    draw.text((x, y), str(number), fill=(255, 255, 255), font=ImageFont.load_default(14), anchor="mm")
