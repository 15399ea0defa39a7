"""Which contrast an evaluated map is made under: a name, or "references:count:gamma:weights"."""

from __future__ import annotations

from dataclasses import dataclass

from finercam.core.contrast import WEIGHTS
from finercam.errors import FinerCAMError, suggest

__all__ = ["NAMED", "Ask", "parse_ask"]

PICKS = ("similar", "predicted", "nearest", "all", "rival", "random")


@dataclass(frozen=True)
class Ask:
    """One column of questions: how references are picked, how many, gamma and weights.

    Besides the library's strategies, "rival" is the class that the evaluation itself asks about (the nearest
    sibling, where the data say what siblings are), and "random" a control.
    """

    name: str
    references: str = "similar"
    count: int = 3
    gamma: float = 0.6
    weights: str = "mean"


NAMED = {
    "plain": Ask("plain", gamma=0.0),
    "paper": Ask("paper"),
    "pair": Ask("pair", "rival", 1, 1.0),
    "random": Ask("random", "random"),
}
"""The plain method; the paper's setting; the pair question at full strength; random references (a control)."""


def parse_ask(text: str) -> Ask:
    """Read "plain", "paper", "pair", "random", or "references[:count[:gamma[:weights]]]".

    >>> parse_ask("predicted:1:1.0")
    Ask(name='predicted:1:1.0', references='predicted', count=1, gamma=1.0, weights='mean')
    """
    if text in NAMED:
        return NAMED[text]
    pick, *rest = text.split(":")
    if pick not in PICKS:
        known = (*NAMED, *PICKS)
        raise FinerCAMError(f"contrast {text!r}: expected one of {', '.join(known)}.{suggest(pick, known)}")
    if len(rest) > 3:
        raise FinerCAMError(f"contrast {text!r}: expected references:count:gamma:weights, nothing after the weights")
    try:
        count = int(rest[0]) if rest else 3
        gamma = float(rest[1]) if len(rest) > 1 else 0.6
    except ValueError:
        raise FinerCAMError(f"contrast {text!r}: expected numbers, as in similar:3:0.6:mean") from None
    weights = rest[2] if len(rest) > 2 else "mean"
    if count < 1 or not 0 <= gamma < float("inf") or weights not in WEIGHTS:
        raise FinerCAMError(
            f"contrast {text!r}: expected a count of at least 1, gamma of at least 0 and weights among {', '.join(WEIGHTS)}"
        )
    return Ask(text, pick, count, gamma, weights)
