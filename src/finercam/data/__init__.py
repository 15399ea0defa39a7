"""Datasets: the built-in Fieldguide and readers of published ones."""

from finercam.data.sample import Annotation, ImageDataset, Sample

__all__ = ["Annotation", "ImageDataset", "Sample"]
