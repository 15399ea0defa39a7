"""Models by name: built-in ones, checkpoint folders, and the model zoos."""

from __future__ import annotations

from finercam.models.directory import load_directory, read_weights, save_directory
from finercam.models.load import load_model, model_sources
from finercam.models.loaded import LoadedModel

__all__ = ["LoadedModel", "load_directory", "load_model", "model_sources", "read_weights", "save_directory"]
