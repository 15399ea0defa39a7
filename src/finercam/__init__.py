"""finercam: why this class and not that one? Contrastive class activation maps for any image classifier."""

from __future__ import annotations

from typing import TYPE_CHECKING

from finercam._version import __version__ as __version__
from finercam.lazy import lazy_attributes

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

__getattr__ = lazy_attributes(
    __name__,
    {
        "Contrast": "finercam.core.contrast:Contrast",
        "Explanation": "finercam.explanation:Explanation",
        "FinerCAM": "finercam.explainer:FinerCAM",
        "FinerCAMError": "finercam.errors:FinerCAMError",
        "ZeroShotClassifier": "finercam.zeroshot:ZeroShotClassifier",
        "load_model": "finercam.models:load_model",
        "methods": "finercam.methods",
        "metrics": "finercam.metrics",
        "open_run": "finercam.run:open_run",
        "plot": "finercam.view.plot",
        "references": "finercam.core.references",
    },
)
"""`finercam --help` need not wait for torch, nor `import finercam`."""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
