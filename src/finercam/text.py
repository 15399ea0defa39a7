"""Names and numbers as text that is safe to show: nothing in a class name can act on a terminal or reorder a line."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache

__all__ = ["closed", "common", "literal", "percent", "score_text", "short_names"]

_HARMLESS = "\u200c\u200d\u200e"

_LONGEST = 2000
"""Letters of a name that are looked at; no sheet has room for more."""


def literal(text: object) -> str:
    """The text on one line, with what would act on the reader's device made visible.

    Control characters (newlines, terminal escapes), format characters that reorder or hide text, and lone surrogates
    become their code points; the joiners that scripts and emoji need stay, and the mark that ends right-to-left text.

    >>> literal("a\\x1b[31mb\\u202ec")
    'a<U+001B>[31mb<U+202E>c'
    >>> literal("two\\nlines")
    'two lines'
    """
    out = []
    for letter in " ".join(str(text)[:_LONGEST].split()):
        acts = unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Co", "Cn") and letter not in _HARMLESS
        out.append(f"<U+{ord(letter):04X}>" if acts else letter)
    return "".join(out)


def common(name: str) -> str:
    """The common name out of "Genus species (Common Name)"; any other name as it is.

    >>> common("Passerina caerulea (Blue Grosbeak)"), common("Audi coupe (2012)")
    ('Blue Grosbeak', 'Audi coupe (2012)')
    """
    found = re.fullmatch(r"[A-Z][a-z]+( [a-z-]+){1,2} \(([A-Z][^()\d]*)\)", name)
    return found[2] if found else name


@lru_cache(maxsize=8)
def short_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """The name to show for each class: the common name alone where no other class has it, and never an empty one.

    >>> short_names(("Poecile atricapillus (Black-capped Chickadee)", "Sitta pusilla", ""))
    ('Black-capped Chickadee', 'Sitta pusilla', 'class 2')
    """
    commons = [common(name) if name.strip() else f"class {index}" for index, name in enumerate(names)]
    counts = Counter(commons)
    return tuple(short if counts[short] == 1 else name for short, name in zip(commons, names, strict=True))


def closed(name: str) -> str:
    """The name, marked where right-to-left text in it ends, so that it doesn't draw what follows to its other side.

    >>> closed("wren"), closed("\u05d6\u05e8\u05d5\u05df").endswith("\u200e")
    ('wren', True)
    """
    return name + "\u200e" if any(unicodedata.bidirectional(letter) in ("R", "AL") for letter in name) else name


def percent(probability: float) -> str:
    """A probability in [0, 1] for reading; never rounded to a certainty that it is not.

    >>> percent(0.876), percent(0.031), percent(0.0004), percent(0.99999), percent(1.0)
    ('88 %', '3.1 %', '<0.1 %', '>99.9 %', '100 %')
    """
    hundred = 100 * probability
    if 0 < hundred < 0.1:
        return "<0.1 %"
    if 99.9 < hundred < 100:
        return ">99.9 %"
    if 99 <= hundred < 100:
        return f"{hundred:.1f} %"
    return f"{hundred:.1f} %" if 0 < hundred < 10 else f"{hundred:.0f} %"


def score_text(score: float, link: str = "softmax") -> str:
    """A class's score for reading: a percentage if the link makes a probability of it, else the number.

    >>> score_text(0.876), score_text(0.876, "sigmoid"), score_text(-3.14159, "none")
    ('88 %', '88 %', '-3.14')
    """
    return f"{score:.2f}" if link == "none" else percent(score)
