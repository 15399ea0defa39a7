"""Fieldguide: a seeded, procedural benchmark of bird pictures in which the truth about every contrast is known."""

from .dataset import CHANGED, Fieldguide
from .species import GENERA, PARTS, SPECIES, caption, discriminative_parts, nearest_sibling, siblings, traits

__all__ = [
    "CHANGED",
    "GENERA",
    "PARTS",
    "SPECIES",
    "Fieldguide",
    "caption",
    "discriminative_parts",
    "nearest_sibling",
    "siblings",
    "traits",
]
