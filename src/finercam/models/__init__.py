"""Models by name: built-in ones, checkpoint folders, and the model zoos."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finercam.lazy import lazy_attributes

if TYPE_CHECKING:
    from finercam.models.directory import load_directory, read_weights, save_directory
    from finercam.models.load import load_model
    from finercam.models.loaded import LoadedModel
    from finercam.models.sources import model_sources

__all__ = ["LoadedModel", "load_directory", "load_model", "model_sources", "read_weights", "save_directory"]

__getattr__ = lazy_attributes(
    __name__,
    {
        "LoadedModel": "finercam.models.loaded:LoadedModel",
        "load_directory": "finercam.models.directory:load_directory",
        "load_model": "finercam.models.load:load_model",
        "model_sources": "finercam.models.sources:model_sources",
        "read_weights": "finercam.models.directory:read_weights",
        "save_directory": "finercam.models.directory:save_directory",
    },
)
"""Listing the sources of models need not wait for torch."""
