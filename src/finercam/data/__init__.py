"""Datasets: the built-in Fieldguide and readers of published ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finercam.annotation import Annotation
from finercam.data.sample import ImageDataset, Sample
from finercam.lazy import lazy_attributes

if TYPE_CHECKING:
    from finercam.data.batches import Batch, loader
    from finercam.data.open import open_dataset

__all__ = ["Annotation", "Batch", "ImageDataset", "Sample", "loader", "open_dataset"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "Batch": "finercam.data.batches:Batch",
        "loader": "finercam.data.batches:loader",
        "open_dataset": "finercam.data.open:open_dataset",
    },
)
"""The processes that paint the Fieldguide need no torch."""
