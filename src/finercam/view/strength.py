"""The strength of a map: its evidence compared with the evidence against the target and with the plain map."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from finercam.text import percent

__all__ = ["WEAK", "Strength", "strength"]

WEAK = 0.1
"""Strength below which a map is drawn dimmed.

Measured by `benchmarks/strength.py` on 60 photographs of CUB with the MobileNetV2 for birds and γ from .3 to 2. The
map's peak lies in the bird's box in 91 % of the maps with a strength of at least .1, in 78 % from .05 to .1, and in
29 % below .05. The box covers 38 % of the photograph, so that below .05 the peak is no better than chance."""


@dataclass(frozen=True)
class Strength:
    """Sums of a signed map: `positive` for the target, `negative` against it; `plain` is the plain map's positive sum.

    `fused`: the maps of several layers were fused, each divided by its own peak. Their sums then have no common scale,
    so that nothing is said about the plain map's.
    """

    positive: float
    negative: float
    plain: float
    fused: bool = False

    @property
    def share(self) -> float:
        """The share of the evidence that is for the target, in [0, 1]: Σ m⁺ / (Σ m⁺ + Σ m⁻)."""
        return _ratio(self.positive, self.positive + self.negative)

    @property
    def relative(self) -> float:
        """Σ m⁺ divided by that of the plain map of the same layers; 1 is as much evidence as in the plain map."""
        return _ratio(self.positive, self.plain)

    @property
    def value(self) -> float:
        """The strength in [0, 1]: the smaller of `share` and `relative`; `share` if the maps were fused."""
        return self.share if self.fused else min(self.share, self.relative, 1.0)

    @property
    def brightness(self) -> float:
        """Factor in [0, 1] on the drawn map: 1 if the strength is at least WEAK, and proportional to it below."""
        return min(1.0, self.value / WEAK)

    @property
    def signed_brightness(self) -> float:
        """The factor for a picture of both sides, from the sum of their evidence relative to the plain map's."""
        return 1.0 if self.fused else min(1.0, _ratio(self.positive + self.negative, self.plain) / WEAK)

    @property
    def weak(self) -> bool:
        """Whether the map is dimmed."""
        return self.value < WEAK

    @property
    def words(self) -> str:
        """The strength in one line of text.

        >>> Strength(4.9, 0.1, 10.0).words
        "evidence: 49 % of the plain map's; 98 % for, 2.0 % against"
        >>> Strength(0.2, 0.4, 10.0).words
        "no evidence that tells them apart here: 2.0 % of the plain map's; 33 % for, 67 % against"
        >>> Strength(4.9, 0.1, 10.0, fused=True).words
        'evidence: 98 % for, 2.0 % against'
        """
        start = "no evidence that tells them apart here" if self.weak else "evidence"
        sides = f"{percent(self.share)} for, {percent(1 - self.share)} against"
        return f"{start}: {sides}" if self.fused else f"{start}: {percent(self.relative)} of the plain map's; {sides}"


def strength(signed: Tensor, plain: Tensor | None = None, fused: bool = False) -> Strength:
    """The strength of a signed map `(h, w)`, relative to the plain method's signed map of the same layers.

    `plain=None` compares the map with itself. `fused` says that several layers are in the maps.

    >>> import torch
    >>> contrast, plain = torch.tensor([[3.0, -1.0]]), torch.tensor([[4.0, 2.0]])
    >>> answer = strength(contrast, plain)
    >>> answer.share, answer.relative, answer.value, answer.weak
    (0.75, 0.5, 0.5, False)
    """
    signed, plain = (maps.detach().double() for maps in (signed, signed if plain is None else plain))
    positive, negative, whole = (float(m.clamp(min=0).sum()) for m in (signed, -signed, plain))
    return Strength(positive, negative, whole, fused)


def _ratio(part: float, whole: float) -> float:
    """`part / whole`; if the whole is 0, then 1 for a positive part and 0 otherwise."""
    return part / whole if whole > 0 else float(part > 0)
