"""Presets: what explains best at a given price, for each family of models; chosen by measurement (docs/fine.md)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from finercam.core.evidence import Keep
from finercam.errors import FinerCAMError, suggest

__all__ = ["LAST_TOKENS", "PRESETS", "Preset", "Recipe", "checked_preset"]


@dataclass(frozen=True)
class Recipe:
    """How maps are made: what `FinerCAM` takes under these names."""

    method: str = "gradcam"
    layer: str | tuple[str, ...] | None = None
    fusion: str = "mean"
    smooth: tuple[str, ...] = ()
    keep: Keep | None = None
    """None keeps what is cheap; "question" keeps one direction, since each further one runs all stages backwards."""


@dataclass(frozen=True)
class Preset:
    """A question's usual values, and how maps are made of feature maps and of tokens of one grid (plain ViTs)."""

    summary: str
    maps: Recipe = Recipe()
    tokens: Recipe = Recipe()
    gamma: float = 1.0
    references: str = "predicted"
    num_references: int = 1
    weights: str = "mean"

    @property
    def question(self) -> dict[str, Any]:
        """Values for what a caller leaves open of the question."""
        names = ("gamma", "references", "num_references", "weights")
        return {name: getattr(self, name) for name in names}

    @property
    def needs_family(self) -> bool:
        """Whether the recipe depends on the model, so that it is known with the first image only."""
        return self.maps != self.tokens


_STAGES = Recipe("finecam", "stages", "product", keep="question")
_TOKENS = Recipe("relevance", "tokens", "product", keep="question")
LAST_TOKENS = Recipe("hirescam")
"""What tokens get where a model cannot be differentiated down to its pixels."""

PRESETS: dict[str, Preset] = {
    "fast": Preset("one layer, at the price of a prediction", Recipe(), LAST_TOKENS),
    "fine": Preset("several layers, at most two predictions", _STAGES, _TOKENS),
    "finest": Preset(
        "more layers, and a second view of the image; at most seven predictions",
        Recipe("finecam", "stages:4", "product", ("larger",), keep="question"),
        replace(_TOKENS, smooth=("flip",)),
    ),
    "measured": Preset("Grad-CAM at the last layer against the likeliest rival", gamma=0.6),
    "paper": Preset("Finer-CAM's three similar classes", gamma=0.6, references="similar", num_references=3),
}
DEFAULT = "fine"
"""The preset if no preset, method, layer, fusion or smoothing is given."""
CLASSIC = "measured"
"""The preset if one of the others is given."""


def checked_preset(preset: Any, said: bool = False) -> Preset:
    """The preset of that name. None is `DEFAULT`, or `CLASSIC` if a method, layer, fusion or smoothing was given (`said`)."""
    if preset is None:
        preset = CLASSIC if said else DEFAULT
    if not isinstance(preset, str) or preset not in PRESETS:
        raise FinerCAMError(
            f"preset={preset!r}: expected one of {', '.join(PRESETS)}.{suggest(str(preset), PRESETS)}"
        )
    return PRESETS[preset]
