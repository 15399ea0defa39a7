"""Datasets: the built-in Fieldguide and readers of published ones."""

from finercam.annotation import Annotation
from finercam.data.batches import Batch, loader
from finercam.data.open import open_dataset
from finercam.data.sample import ImageDataset, Sample

__all__ = ["Annotation", "Batch", "ImageDataset", "Sample", "loader", "open_dataset"]
