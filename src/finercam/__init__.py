"""finercam: why this class and not that one? Contrastive class activation maps for any image classifier."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from finercam import methods, references
from finercam.contrast import Contrast
from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM
from finercam.explanation import Explanation

if TYPE_CHECKING:
    from finercam import metrics
    from finercam.models import load_model

__version__ = "0.1.0"
__all__ = [
    "Contrast",
    "Explanation",
    "FinerCAM",
    "FinerCAMError",
    "load_model",
    "methods",
    "metrics",
    "references",
]

_LATER = {
    "load_model": ("finercam.models", "load_model"),
    "metrics": ("finercam.metrics", None),
}
"""Names that are imported when first used, so that `import finercam` stays as quick as `import torch`."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'finercam' has no attribute {name!r}")
    module, attribute = _LATER[name]
    loaded = importlib.import_module(module)
    return loaded if attribute is None else getattr(loaded, attribute)
