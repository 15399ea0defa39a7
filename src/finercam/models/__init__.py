"""Models by name: built-in ones, checkpoint folders, and the model zoos."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finercam.models.directory import load_directory, read_weights, save_directory
    from finercam.models.load import load_model
    from finercam.models.loaded import LoadedModel
    from finercam.models.sources import model_sources

__all__ = ["LoadedModel", "load_directory", "load_model", "model_sources", "read_weights", "save_directory"]

_LAZY_IMPORTS = {
    "LoadedModel": "loaded",
    "load_directory": "directory",
    "load_model": "load",
    "model_sources": "sources",
    "read_weights": "directory",
    "save_directory": "directory",
}
"""Names that are imported when first used: listing the sources of models need not wait for torch."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'finercam.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"finercam.models.{_LAZY_IMPORTS[name]}"), name)
