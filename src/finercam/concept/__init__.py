"""Concepts: maps of where an image–text model sees a text, and their agreement with a classifier's evidence."""

from finercam.concept.audit import Agreement, agreement, audit, cosine, energy_overlap, rank_correlation
from finercam.concept.maps import ImageText, concept_maps, load_image_text

__all__ = [
    "Agreement",
    "ImageText",
    "agreement",
    "audit",
    "concept_maps",
    "cosine",
    "energy_overlap",
    "load_image_text",
    "rank_correlation",
]
