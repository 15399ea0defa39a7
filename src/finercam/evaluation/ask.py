"""The contrast of an evaluated map: a name, or "references:count:gamma:weights"."""

from __future__ import annotations

from dataclasses import dataclass

from finercam.core.contrast import WEIGHTS
from finercam.errors import FinerCAMError, suggest
from finercam.question import Question

__all__ = ["NAMED", "Ask", "parse_ask"]

STRATEGIES = ("similar", "predicted", "nearest", "all")
PICKS = ("rival", "random")


@dataclass(frozen=True)
class Ask:
    """A question under its name in the tables.

    `pick` is "rival" where the references are each picture's rival (the likeliest sibling, where the dataset has
    siblings), "random" where they are drawn at random as a control, and empty where the question's strategy picks them.
    """

    name: str
    question: Question
    pick: str = ""


NAMED = {
    "plain": Ask("plain", Question.make(gamma=0.0, references="similar", num_references=3)),
    "paper": Ask("paper", Question.make(gamma=0.6, references="similar", num_references=3)),
    "pair": Ask("pair", Question.make(gamma=1.0), "rival"),
    "random": Ask("random", Question.make(gamma=0.6, num_references=3), "random"),
}
"""The plain method; the paper's setting; the pair question at full strength; random references (a control)."""


def parse_ask(text: str) -> Ask:
    """Read "plain", "paper", "pair", "random", or "references[:count[:gamma[:weights]]]".

    Raises FinerCAMError for anything else.

    >>> question = parse_ask("predicted:1:0.9").question
    >>> question.references, question.num_references, question.gamma.item(), question.weights
    ('predicted', 1, 0.9, 'mean')
    """
    if text in NAMED:
        return NAMED[text]
    pick, *rest = text.split(":")
    if pick not in STRATEGIES + PICKS:
        known = (*NAMED, *STRATEGIES, "rival")
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
    references = "predicted" if pick in PICKS else pick
    question = Question.make(gamma=gamma, references=references, num_references=count, weights=weights)
    return Ask(text, question, pick if pick in PICKS else "")
