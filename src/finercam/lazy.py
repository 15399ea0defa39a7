"""Names of a package that are imported when they are first used, so that a list or a help page need not load torch."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["lazy_attributes"]


def lazy_attributes(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of `package`: each name with its `"module:attribute"`, or `"module"` for the module itself.

    >>> lookup = lazy_attributes("finercam", {"FinerCAMError": "finercam.errors:FinerCAMError"})
    >>> lookup("FinerCAMError").__name__
    'FinerCAMError'
    """

    def lookup(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, _, attribute = places[name].partition(":")
        loaded = importlib.import_module(module)
        return getattr(loaded, attribute) if attribute else loaded

    return lookup
