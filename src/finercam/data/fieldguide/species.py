"""The species: their genera, the parts in which any two differ, and captions of their look.

Within a genus any two species differ in one or two parts, by colour, pattern, shape or absence. Across genera the
body plan and the plumage differ too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from .genera import COLOURS, GENERA, Genus, Mark, Plan

__all__ = [
    "COLOURS",
    "GENERA",
    "NAMED",
    "PARTS",
    "SPECIES",
    "Genus",
    "Mark",
    "Plan",
    "Species",
    "caption",
    "discriminative_parts",
    "nearest_sibling",
    "phrase",
    "siblings",
    "traits",
    "with_article",
    "worn",
]

PARTS = (
    "tail",
    "legs",
    "body",
    "breast",
    "throat",
    "cheek",
    "crown",
    "rump",
    "wing",
    "epaulet",
    "wing_bar",
    "beak",
    "eye",
    "eye_ring",
    "crest",
)
"""Part names. The number of a part in a part map is its index here plus one; 0 is not the bird."""

NAMED = (
    *("tail", "breast", "throat", "cheek", "crown", "rump", "epaulet", "wing_bar"),
    *("beak", "eye_ring", "crest", "wing", "legs"),
)
"""The parts that captions name. Body and eye are left out, because they look the same on all birds of one colour."""


@dataclass(frozen=True)
class Species:
    name: str
    genus: Genus
    marks: dict[str, Mark] = field(default_factory=dict)


SPECIES: tuple[Species, ...] = tuple(
    Species(name, genus, {part: mark for part, mark in (genus.common | extra).items() if mark is not None})
    for genus in GENERA
    for name, extra in genus.wears.items()
)
"""Every species; its index is its label."""


@cache
def siblings(label: int) -> tuple[int, ...]:
    """The labels of the other species of the genus."""
    genus = SPECIES[label].genus
    return tuple(k for k, other in enumerate(SPECIES) if other.genus is genus and k != label)


@cache
def discriminative_parts(c: int, d: int) -> tuple[str, ...]:
    """The parts in which species `c` and `d` differ, in the order of `PARTS`; empty if `c == d`.

    >>> names = [species.name for species in SPECIES]
    >>> discriminative_parts(names.index("Plain Pippin"), names.index("Royal Pippin"))
    ('wing_bar', 'crest')
    """
    one, other = SPECIES[c], SPECIES[d]
    if one.genus is other.genus:
        return tuple(part for part in PARTS if one.marks.get(part) != other.marks.get(part))
    worn = set(one.marks) | set(other.marks) | {"legs", "body", "wing", "eye"}
    return tuple(part for part in PARTS if part in worn)


@cache
def nearest_sibling(label: int) -> int:
    """The sibling with the fewest discriminative parts; of equal ones, the next in the cyclic order of the genus."""
    return min(siblings(label), key=lambda d: (len(discriminative_parts(label, d)), (d - label) % len(SPECIES)))


PHRASES: dict[tuple[str, str], str] = {
    ("crest", "spike"): "{} crest",
    ("crest", "fan"): "rounded {} crest",
    ("crown", "cap"): "{} cap",
    ("cheek", "patch"): "{} cheek",
    ("eye_ring", "ring"): "{} eye-ring",
    ("throat", "gorget"): "{} throat",
    ("breast", "spot"): "{} breast spot",
    ("breast", "band"): "{} breast band",
    ("breast", "streaks"): "{}-streaked breast",
    ("epaulet", "patch"): "{} shoulder patch",
    ("wing_bar", "one"): "{} wing bar",
    ("wing_bar", "two"): "two {} wing bars",
    ("rump", "patch"): "{} rump",
    ("tail", "plain"): "{} tail",
    ("tail", "tipped"): "{}-tipped tail",
    ("tail", "barred"): "{}-banded tail",
    ("beak", "cone"): "short {} beak",
    ("beak", "heavy"): "massive grooved {} beak",
    ("beak", "straight"): "long straight {} beak",
    ("beak", "curved"): "long down-curved {} beak",
    ("beak", "needle"): "needle-thin {} beak",
    ("beak", "hook"): "hooked {} beak",
    ("beak", "chisel"): "chisel-shaped {} beak",
    ("wing", "plain"): "{} wing",
    ("legs", "plain"): "{} legs",
}


def phrase(part: str, mark: Mark) -> str:
    """The words for a mark in a caption, without an article.

    >>> phrase("wing_bar", Mark("two", "white"))
    'two white wing bars'
    """
    return PHRASES[part, mark.style].format(mark.colour)


def with_article(words: str) -> str:
    """The words with "a" or "an" before them; plurals get no article.

    >>> with_article("orange beak"), with_article("two wing bars")
    ('an orange beak', 'two wing bars')
    """
    first, last = words.split()[0], words.split()[-1]
    if first in ("one", "two") or last.endswith(("bars", "legs", "wings", "epaulets")):
        return words
    return ("an " if words[0] in "aeiou" else "a ") + words


def worn(species: Species) -> dict[str, Mark]:
    """The visible named parts of a bird: its marks, and the colours of its wing and legs."""
    coat = species.genus.coat
    marks = species.marks | {part: Mark("plain", coat[part]) for part in ("wing", "legs")}
    return {part: marks[part] for part in NAMED if part in marks}


def traits(label: int) -> dict[str, str]:
    """The named parts of a species, as part to phrase.

    >>> traits(1)["crest"], traits(1)["legs"]
    ('red crest', 'slate legs')
    """
    return {part: phrase(part, mark) for part, mark in worn(SPECIES[label]).items()}


def caption(label: int) -> str:
    """Describe the look of a species, beginning with the parts that differ within its genus.

    >>> caption(1)
    'a small round sky-blue bird with a red crest, a navy tail, a white cheek and a short black beak'
    """
    species = SPECIES[label]
    varied = {part for d in siblings(label) for part in discriminative_parts(label, d)}
    order = sorted(species.marks, key=lambda part: (part not in varied, PARTS.index(part)))
    named = [with_article(phrase(part, species.marks[part])) for part in order]
    listed = ", ".join(named[:-1]) + " and " + named[-1] if len(named) > 1 else named[0]
    return f"{with_article(species.genus.look)} with {listed}"
