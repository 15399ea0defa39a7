"""Two colour maps that colour-blind readers can use, and their opacity on a photo."""

from __future__ import annotations

import numpy as np

__all__ = ["evidence_colours", "opacity", "signed_colours"]

_FOR = ((0.0, "#ffe8c2"), (0.5, "#ff9d3b"), (1.0, "#dd4a00"))
_AGAINST = ((0.0, "#dfe6ff"), (0.5, "#7d9bff"), (1.0, "#2540c8"))
"""Orange is evidence for the target and blue evidence against it; every kind of colour vision can distinguish them."""


def evidence_colours(values: np.ndarray) -> np.ndarray:
    """Colours `(..., 3)` in [0, 1] of evidence `(...)` in [0, 1]: inferno, from a visible purple to pale yellow."""
    from matplotlib import colormaps

    return colormaps["inferno"](0.3 + 0.68 * np.clip(values, 0, 1))[..., :3]


def signed_colours(values: np.ndarray) -> np.ndarray:
    """Colours `(..., 3)` in [0, 1] of signed evidence `(...)` in [-1, 1], symmetric around 0."""
    values = np.clip(values, -1, 1)
    warm, cold = (_ramp(np.abs(values), stops) for stops in (_FOR, _AGAINST))
    return np.where(values[..., None] >= 0, warm, cold)


def opacity(values: np.ndarray, strongest: float = 0.8) -> np.ndarray:
    """The opacity of the tint, `(...)` in [0, strongest]; 0 where there is no evidence.

    >>> opacity(np.array([0.0, 1.0]))
    array([0. , 0.8])
    """
    # The exponent makes a tint visible at a tenth of the peak, without hiding the photo.
    return strongest * np.clip(np.abs(values), 0, 1) ** 0.8


def _ramp(values: np.ndarray, stops: tuple[tuple[float, str], ...]) -> np.ndarray:
    from matplotlib.colors import to_rgb

    at = [place for place, _ in stops]
    channels = np.array([to_rgb(colour) for _, colour in stops]).T
    return np.stack([np.interp(values, at, channel) for channel in channels], axis=-1)
