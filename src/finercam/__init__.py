"""finercam: why this class and not that one? Contrastive class activation maps for any image classifier."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from finercam._version import __version__ as __version__

if TYPE_CHECKING:
    from finercam import methods, metrics
    from finercam.core import references
    from finercam.core.contrast import Contrast
    from finercam.errors import FinerCAMError
    from finercam.explainer import FinerCAM
    from finercam.explanation import Explanation
    from finercam.models import load_model
    from finercam.run import open_run
    from finercam.view import plot
    from finercam.zeroshot import ZeroShotClassifier

__all__ = [
    "Contrast",
    "Explanation",
    "FinerCAM",
    "FinerCAMError",
    "ZeroShotClassifier",
    "load_model",
    "methods",
    "metrics",
    "open_run",
    "plot",
    "references",
]

_LAZY_IMPORTS = {
    "Contrast": ("finercam.core.contrast", "Contrast"),
    "Explanation": ("finercam.explanation", "Explanation"),
    "FinerCAM": ("finercam.explainer", "FinerCAM"),
    "FinerCAMError": ("finercam.errors", "FinerCAMError"),
    "ZeroShotClassifier": ("finercam.zeroshot", "ZeroShotClassifier"),
    "load_model": ("finercam.models", "load_model"),
    "methods": ("finercam.methods", None),
    "metrics": ("finercam.metrics", None),
    "open_run": ("finercam.run", "open_run"),
    "plot": ("finercam.view.plot", None),
    "references": ("finercam.core.references", None),
}
"""Names that are imported when first used: `finercam --help` need not wait for torch, nor `import finercam`."""


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'finercam' has no attribute {name!r}")
    module, attribute = _LAZY_IMPORTS[name]
    loaded = importlib.import_module(module)
    return loaded if attribute is None else getattr(loaded, attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
