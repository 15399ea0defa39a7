"""The species: who is whose kin, which parts tell any two apart, and how a caption names what one sees.

Inside a genus any two species differ in exactly one or two parts, by colour, pattern, shape or absence; across
genera the body plan and the plumage differ too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

from .genera import COLOURS, GENERA, Genus, Mark, Plan

__all__ = [
    "COLOURS",
    "GENERA",
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
"""Part names; the place in this tuple plus one is the part's number in a part map (0: not the bird)."""


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
"""Every species; its place here is its label."""


@cache
def siblings(label: int) -> tuple[int, ...]:
    """The labels of the other species of the genus."""
    genus = SPECIES[label].genus
    return tuple(k for k, other in enumerate(SPECIES) if other.genus is genus and k != label)


@cache
def discriminative_parts(c: int, d: int) -> tuple[str, ...]:
    """The parts that tell species `c` from species `d`, in the order of `PARTS`; empty when `c == d`.

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
    """The sibling with the fewest discriminative parts; among equals the next one in the genus's own (cyclic) order."""
    return min(siblings(label), key=lambda d: (len(discriminative_parts(label, d)), (d - label) % len(SPECIES)))


PHRASES: dict[tuple[str, str], str] = {
    ("crest", "spike"): "{a} {} crest",
    ("crest", "fan"): "a rounded {} crest",
    ("crown", "cap"): "{a} {} cap",
    ("cheek", "patch"): "{a} {} cheek",
    ("eye_ring", "ring"): "{a} {} eye-ring",
    ("throat", "gorget"): "{a} {} throat",
    ("breast", "spot"): "{a} {} breast spot",
    ("breast", "band"): "{a} {} breast band",
    ("breast", "streaks"): "{a} {}-streaked breast",
    ("epaulet", "patch"): "{a} {} shoulder patch",
    ("wing_bar", "one"): "{a} {} wing bar",
    ("wing_bar", "two"): "two {} wing bars",
    ("rump", "patch"): "{a} {} rump",
    ("tail", "plain"): "{a} {} tail",
    ("tail", "tipped"): "{a} {}-tipped tail",
    ("tail", "barred"): "{a} {}-banded tail",
    ("beak", "cone"): "a short {} beak",
    ("beak", "heavy"): "a massive grooved {} beak",
    ("beak", "straight"): "a long straight {} beak",
    ("beak", "curved"): "a long down-curved {} beak",
    ("beak", "needle"): "a needle-thin {} beak",
    ("beak", "hook"): "a hooked {} beak",
    ("beak", "chisel"): "a chisel-shaped {} beak",
}


def phrase(part: str, mark: Mark) -> str:
    """How a caption names a mark.

    >>> phrase("wing_bar", Mark("two", "white"))
    'two white wing bars'
    """
    return PHRASES[part, mark.style].format(mark.colour, a=_article(mark.colour))


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(label: int) -> str:
    """What one sees of a species, the discriminative parts of its genus first.

    >>> caption(1)
    'a small round sky-blue bird with a red crest, a navy tail, a white cheek and a short black beak'
    """
    species = SPECIES[label]
    varied = {part for d in siblings(label) for part in discriminative_parts(label, d)}
    order = sorted(species.marks, key=lambda part: (part not in varied, PARTS.index(part)))
    named = [phrase(part, species.marks[part]) for part in order]
    listed = ", ".join(named[:-1]) + " and " + named[-1] if len(named) > 1 else named[0]
    return f"{_article(species.genus.look)} {species.genus.look} with {listed}"
