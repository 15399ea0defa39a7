"""Birds with random marks and descriptions of their parts, from which the two-tower model learns words.

All species of a genus share most marks, so pictures of species alone cannot teach whether "red crest" means the crest
or the sky-blue bird below it. Hybrids have random marks and come in twins: the same scene with one mark changed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from finercam.data.fieldguide import SPECIES
from finercam.data.fieldguide import caption as caption_of
from finercam.data.fieldguide.render import Picture, paint_species
from finercam.data.fieldguide.scene import draw_scene, label_of
from finercam.data.fieldguide.species import COLOURS, GENERA, NAMED, PARTS, Mark, Species, siblings, worn

__all__ = [
    "Hybrid",
    "draw_hybrid",
    "noun_phrase",
    "paint_hybrid",
    "seen_parts",
    "vocabulary",
]

STYLES: dict[str, dict[str, tuple[str, ...]]] = {
    "tail": {"plain": ("{} tail",), "tipped": ("{}-tipped tail",), "barred": ("{}-banded tail", "{}-barred tail")},
    "breast": {
        "spot": ("{} breast spot", "{} spot on the breast"),
        "band": ("{} breast band", "{} band on the breast"),
        "streaks": ("{}-streaked breast",),
    },
    "throat": {"gorget": ("{} throat", "{} throat", "{} gorget")},
    "cheek": {"patch": ("{} cheek", "{} cheek", "{} cheek patch")},
    "crown": {"cap": ("{} cap", "{} crown")},
    "rump": {"patch": ("{} rump", "{} rump", "{} rump patch")},
    "epaulet": {"patch": ("{} shoulder patch", "{} epaulet", "{} epaulets", "{} shoulder")},
    "wing_bar": {"one": ("{} wing bar", "one {} wing bar"), "two": ("two {} wing bars",)},
    "beak": {
        "cone": ("short {} beak", "short {} bill"),
        "heavy": ("massive grooved {} beak", "massive grooved {} bill"),
        "straight": ("long straight {} beak", "long straight {} bill"),
        "curved": ("long down-curved {} beak", "down-curved {} bill"),
        "needle": ("needle-thin {} beak", "needle-thin {} bill"),
        "hook": ("hooked {} beak", "hooked {} bill"),
        "chisel": ("chisel-shaped {} beak", "chisel-shaped {} bill"),
    },
    "eye_ring": {"ring": ("{} eye-ring", "{} ring around the eye")},
    "crest": {"spike": ("{} crest", "spiky {} crest"), "fan": ("rounded {} crest", "rounded {} crest")},
    "wing": {"plain": ("{} wing", "{} wings")},
    "legs": {"plain": ("{} legs",)},
}
"""The phrases for each style of a part; the first is that of the Fieldguide."""

ANY_STYLE: dict[str, tuple[str, ...]] = {
    **{part: next(iter(styles.values())) for part, styles in STYLES.items() if len(styles) == 1},
    "wing_bar": ("{} wing bars", "{} wing bar"),
    "beak": ("{} beak", "{} bill"),
    "crest": ("{} crest",),
    "breast": ("{}-marked breast",),
}
"""Names of a part without its style. Tails have none, because only plain tails have a single colour."""

OPTIONAL = ("breast", "throat", "cheek", "crown", "rump", "epaulet", "wing_bar", "eye_ring", "crest")
"""The parts that a bird may lack."""

CONTEXTS = ("{}", "{}", "a photo of {}", "a bird with {}", "a bird with {}", "a photo of a bird with {}")
GENERAL = ("bird", "a bird", "a photo of a bird")
NOTHING = ("an empty perch", "a photo of an empty perch", "no bird")


@dataclass(frozen=True)
class Hybrid:
    """The bird in a scene, or none. `label` is its species in the Fieldguide or -1; `look` is the index in `GENERA` of
    the genus whose description fits it, or -1."""

    species: Species | None
    label: int = -1
    look: int = -1

    @property
    def worn(self) -> dict[str, Mark]:
        return {} if self.species is None else worn(self.species)


def draw_hybrid(seed: int, index: int) -> Hybrid:
    """The bird of picture `index`; pictures `2k` and `2k + 1` are twins that differ in one part (species in one or two)."""
    rng = np.random.default_rng((seed, index // 2, 3))
    kind, second = rng.random(), index % 2 == 1
    base = label_of(seed, index // 2)
    genus = SPECIES[base].genus
    if kind < 0.12:  # an empty perch, and a bird on the same perch
        return Hybrid(SPECIES[base], base, GENERA.index(genus)) if second else Hybrid(None)
    if kind < 0.35:
        label = int(rng.choice(siblings(base))) if second else base
        return Hybrid(SPECIES[label], label, GENERA.index(genus))
    coat, look = dict(genus.coat), GENERA.index(genus)
    if rng.random() < 0.5:
        coat, look = dict(GENERA[int(rng.integers(len(GENERA)))].coat), -1
    for part, field in (("legs", "legs"), ("wing", "wing")):
        if rng.random() < 0.4:
            coat[field] = _colour(rng, ())
            look = look if part == "legs" else -1
    marks = {part: _mark(rng, part, coat) for part in ("tail", "beak")}
    marks |= {part: _mark(rng, part, coat) for part in OPTIONAL if rng.random() < 0.3}
    changed = (*OPTIONAL, "tail", "beak")[int(rng.integers(len(OPTIONAL) + 2))]
    other = _mark(rng, changed, coat)
    if second:
        if changed in marks and changed in OPTIONAL and rng.random() < 0.5:
            del marks[changed]
        else:
            marks[changed] = other
    return Hybrid(Species("hybrid", replace(genus, coat=coat), marks), look=look)


def _mark(rng: np.random.Generator, part: str, coat: dict[str, str]) -> Mark:
    """A mark of some Fieldguide species if it is visible on the coat, otherwise one of random style and colour."""
    around = {"wing_bar": ("wing",), "epaulet": ("wing",), "tail": (), "beak": (), "crest": ("head",)}
    unlike = [coat[where] for where in around.get(part, ("back", "belly", "head"))]
    known = _known_marks(part)
    mark = known[int(rng.integers(len(known)))]
    if rng.random() < 0.5 and not any(mark.colour == other or near(mark.colour, other) for other in unlike):
        return mark
    return Mark(str(rng.choice(list(STYLES[part]))), _colour(rng, unlike))


@cache
def _known_marks(part: str) -> tuple[Mark, ...]:
    """All marks of the Fieldguide species on a part."""
    return tuple(dict.fromkeys(species.marks[part] for species in SPECIES if part in species.marks))


def _colour(rng: np.random.Generator, unlike: list[str] | tuple[str, ...]) -> str:
    """A random colour that is visible on the given ones."""
    while True:
        colour = str(rng.choice(list(COLOURS)))
        if not any(colour == other or near(colour, other) for other in unlike):
            return colour


@cache
def near(one: str, other: str) -> bool:
    """Whether two colours are so similar that either name describes both."""
    return one != other and float(np.abs(np.subtract(COLOURS[one], COLOURS[other])).max()) < 48


def paint_hybrid(seed: int, index: int, size: int = 128) -> Picture:
    """Pixels `(H, W, 3)` and part numbers `(H, W)` of a hybrid; twins share the scene."""
    return paint_species(draw_scene(seed, index // 2), size, draw_hybrid(seed, index).species)


# -- words --------------------------------------------------------------------------------------------------------


def noun_phrase(part: str, style: str | None, colour: str, form: int = 0) -> str:
    """The words for a mark, without an article.

    >>> noun_phrase("wing_bar", "two", "white"), noun_phrase("epaulet", None, "red", form=2)
    ('two white wing bars', 'red epaulets')
    """
    forms = ANY_STYLE[part] if style is None else STYLES[part][style]
    return forms[form % len(forms)].format(colour)


def vocabulary() -> list[str]:
    """All words of the descriptions in alphabetical order."""
    phrases = [
        noun_phrase(part, style, "red", form) for part in STYLES for style in STYLES[part] for form in range(4)
    ]
    phrases += [noun_phrase(part, None, "red", form) for part in ANY_STYLE for form in range(4)]
    texts = [*phrases, *COLOURS, *CONTEXTS, *GENERAL, *NOTHING, "and", "an", *map(caption_of, range(len(SPECIES)))]
    cleaned = " ".join(texts).replace("{}", " ").replace("-", " ").replace(",", " ")
    return sorted(set(cleaned.split()))


def seen_parts(parts: np.ndarray) -> np.ndarray:
    """Pixels of each named part in a part map: `(13,)`."""
    counts = np.bincount(parts.ravel(), minlength=len(PARTS) + 1)
    return np.array([counts[PARTS.index(part) + 1] for part in NAMED])
