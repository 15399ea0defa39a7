"""What is known of one picture: where its object and its parts are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["Annotation"]


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
