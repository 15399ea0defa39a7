"""Fieldguide: a procedural benchmark of bird pictures with known ground truth for every contrast."""

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
