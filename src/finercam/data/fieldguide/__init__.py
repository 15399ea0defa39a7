"""Fieldguide: a seeded, procedural benchmark of bird pictures in which the truth about every contrast is known."""

from .dataset import CHANGED, Fieldguide
from .species import GENERA, PARTS, SPECIES, caption, nearest_sibling, siblings, telling_parts

__all__ = [
    "CHANGED",
    "GENERA",
    "PARTS",
    "SPECIES",
    "Fieldguide",
    "caption",
    "nearest_sibling",
    "siblings",
    "telling_parts",
]
