"""What is known of one picture: where its object and its parts are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Annotation", "clip_box"]


@dataclass(frozen=True)
class Annotation:
    """Where things are in one picture, in pixels of the picture that `Sample.open` returns.

    `box` is `(x0, y0, x1, y1)` with `x1`, `y1` exclusive; `masks` maps a part's name to a boolean array `(H, W)`,
    the whole object under the name `"object"`; `keypoints` maps a part's name to the `(x, y)` of each *visible* part.
    """

    box: tuple[float, float, float, float] | None = None
    masks: Mapping[str, np.ndarray] = field(default_factory=dict)
    keypoints: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __repr__(self) -> str:
        known = [f"box={self.box}"] if self.box else []
        known += [f"masks: {', '.join(self.masks)}"] if self.masks else []
        known += [f"keypoints: {', '.join(self.keypoints)}"] if self.keypoints else []
        return f"Annotation({'; '.join(known)})"


def clip_box(
    box: tuple[float, float, float, float], size: tuple[int, int]
) -> tuple[float, float, float, float] | None:
    """The part of `(x0, y0, x1, y1)` inside a picture of `size` (width, height), None where nothing is.

    >>> clip_box((-3, 2, 700, 90), (640, 480))
    (0.0, 2.0, 640.0, 90.0)
    """
    (x0, y0, x1, y1), (width, height) = box, size
    x0, x1 = min(max(x0, 0.0), float(width)), min(max(x1, 0.0), float(width))
    y0, y1 = min(max(y0, 0.0), float(height)), min(max(y1, 0.0), float(height))
    return (float(x0), float(y0), float(x1), float(y1)) if x0 < x1 and y0 < y1 else None
