"""Colour maps of the Python pictures as tables for the page."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from finercam.view.colours import evidence_colours, opacity, signed_colours

__all__ = ["tables"]


def tables() -> dict[str, Any]:
    """256 RGB colours of evidence in [0, 1] and of signed evidence in [-1, 1], and the opacity of each magnitude."""
    unit = np.linspace(0, 1, 256)
    return {
        "evidence": _base64(evidence_colours(unit)),
        "signed": _base64(signed_colours(2 * unit - 1)),
        "opacity": _base64(opacity(unit, 1.0)),
    }


def _base64(values: np.ndarray) -> str:
    return base64.b64encode(np.rint(255 * values).astype(np.uint8).tobytes()).decode("ascii")
