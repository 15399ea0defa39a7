"""The genera as data: body plan, plumage and the marks of each species. None of these birds exists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = ["COLOURS", "GENERA", "Genus", "Mark", "Plan"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (38, 36, 42),
    "white": (246, 244, 236),
    "red": (206, 36, 44),
    "orange": (240, 128, 28),
    "yellow": (250, 208, 48),
    "violet": (134, 52, 176),
    "rufous": (176, 84, 40),
    "pink": (240, 116, 150),
    "grey": (128, 132, 138),
    "cream": (240, 226, 192),
    "buff": (214, 180, 132),
    "horn": (150, 136, 118),
    "slate": (84, 96, 112),
    "sky-blue": (92, 156, 214),
    "navy": (44, 62, 116),
    "plum": (112, 58, 104),
    "mauve": (176, 130, 160),
    "teal": (32, 128, 136),
    "mint": (172, 216, 200),
    "green": (66, 150, 74),
    "lime": (160, 200, 84),
    "moss": (94, 110, 56),
    "olive": (134, 112, 66),
    "umber": (98, 72, 54),
    "lemon": (238, 214, 78),
    "rose": (226, 92, 98),
}


class Mark(NamedTuple):
    """The look of a part: its style (shape or pattern) and its colour, a key of `COLOURS`."""

    style: str
    colour: str


@dataclass(frozen=True)
class Plan:
    """A body plan in body units: feet at the origin, x towards the beak, y down; circles are `(x, y, radius)`."""

    breast: tuple[float, float, float] = (0.20, -0.74, 0.40)
    vent: tuple[float, float, float] = (-0.44, -0.50, 0.19)
    head: tuple[float, float, float] = (0.40, -1.17, 0.31)
    neck: float = 0.16
    shoulder: tuple[float, float, float] = (0.08, -0.76, 0.25)
    wing_tip: tuple[float, float, float] = (-0.68, -0.44, 0.03)
    tail: tuple[float, float, float] = (-0.46, -0.50, 0.72)
    """Base x, y and length."""
    tail_turn: float = 0.25
    """Radians below the horizontal."""
    tail_widths: tuple[float, float] = (0.13, 0.17)
    fork: float = 0.04
    hips: tuple[float, float] = (-0.06, -0.42)


@dataclass(frozen=True)
class Genus:
    name: str
    latin: str
    look: str
    """The words that begin the caption of every species of the genus."""
    plan: Plan
    coat: dict[str, str]
    """Colours of back, belly, head, wing, flight feathers and legs."""
    common: dict[str, Mark]
    """The marks of every species, unless `wears` overrides them."""
    wears: dict[str, dict[str, Mark | None]]
    """Species name to its additional marks; None removes a common mark."""


SONGBIRD = Plan()

GENERA: tuple[Genus, ...] = (
    Genus(
        "Pippin",
        "Parvula",
        "small round sky-blue bird",
        replace(
            SONGBIRD,
            breast=(0.14, -0.70, 0.41),
            vent=(-0.32, -0.54, 0.25),
            head=(0.32, -1.10, 0.36),
            shoulder=(0.00, -0.72, 0.25),
            wing_tip=(-0.62, -0.46, 0.03),
            tail=(-0.40, -0.54, 0.56),
        ),
        {"back": "sky-blue", "belly": "cream", "head": "sky-blue", "wing": "navy", "flight": "navy", "legs": "slate"},
        {"beak": Mark("cone", "black"), "tail": Mark("plain", "navy"), "cheek": Mark("patch", "white")},
        {
            "Plain Pippin": {},
            "Red-crested Pippin": {"crest": Mark("spike", "red")},
            "Gold-crested Pippin": {"crest": Mark("spike", "yellow")},
            "Barred Pippin": {"wing_bar": Mark("two", "white")},
            "Royal Pippin": {"crest": Mark("spike", "red"), "wing_bar": Mark("two", "white")},
        },
    ),
    Genus(
        "Stilter",
        "Longipes",
        "long-legged grey wader",
        Plan(
            breast=(0.16, -0.92, 0.30),
            vent=(-0.40, -0.80, 0.15),
            head=(0.38, -1.44, 0.20),
            neck=0.20,
            shoulder=(0.00, -0.95, 0.19),
            wing_tip=(-0.72, -0.74, 0.03),
            tail=(-0.44, -0.80, 0.40),
            tail_turn=0.20,
            tail_widths=(0.10, 0.11),
            hips=(-0.04, -0.72),
        ),
        {"back": "grey", "belly": "white", "head": "grey", "wing": "slate", "flight": "slate", "legs": "orange"},
        {"beak": Mark("straight", "black"), "tail": Mark("plain", "white")},
        {
            "Plain Stilter": {},
            "Red-billed Stilter": {"beak": Mark("straight", "red")},
            "Curve-billed Stilter": {"beak": Mark("curved", "black")},
            "Collared Stilter": {"breast": Mark("band", "black")},
            "Rusty-collared Stilter": {"breast": Mark("band", "rufous")},
            "Sickle Stilter": {"beak": Mark("curved", "black"), "breast": Mark("band", "black")},
        },
    ),
    Genus(
        "Tapper",
        "Sonipicus",
        "upright black-backed woodpecker",
        Plan(
            breast=(0.14, -0.84, 0.34),
            vent=(-0.26, -0.36, 0.17),
            head=(0.26, -1.30, 0.28),
            neck=0.14,
            shoulder=(-0.02, -0.92, 0.22),
            wing_tip=(-0.44, -0.26, 0.03),
            tail=(-0.28, -0.36, 0.60),
            tail_turn=0.85,
            tail_widths=(0.11, 0.12),
            fork=-0.14,
            hips=(-0.02, -0.36),
        ),
        {"back": "black", "belly": "buff", "head": "black", "wing": "black", "flight": "black", "legs": "grey"},
        {
            "beak": Mark("chisel", "grey"),
            "tail": Mark("plain", "black"),
            "throat": Mark("gorget", "buff"),
            "wing_bar": Mark("two", "buff"),
        },
        {
            "Black-capped Tapper": {},
            "Red-capped Tapper": {"crown": Mark("cap", "red")},
            "Yellow-capped Tapper": {"crown": Mark("cap", "yellow")},
            "White-cheeked Tapper": {"cheek": Mark("patch", "white")},
            "Harlequin Tapper": {"crown": Mark("cap", "red"), "cheek": Mark("patch", "white")},
        },
    ),
    Genus(
        "Jangle",
        "Garrulax",
        "long-tailed teal jay",
        replace(
            SONGBIRD,
            breast=(0.20, -0.74, 0.37),
            vent=(-0.40, -0.56, 0.18),
            head=(0.44, -1.16, 0.29),
            shoulder=(0.06, -0.78, 0.22),
            wing_tip=(-0.56, -0.52, 0.03),
            tail=(-0.42, -0.57, 0.86),
            tail_turn=0.12,
            tail_widths=(0.11, 0.18),
            fork=-0.08,
        ),
        {"back": "teal", "belly": "mint", "head": "teal", "wing": "teal", "flight": "navy", "legs": "black"},
        {"beak": Mark("cone", "black"), "tail": Mark("plain", "teal"), "crest": Mark("fan", "teal")},
        {
            "Plain Jangle": {},
            "White-tipped Jangle": {"tail": Mark("tipped", "white")},
            "Band-tailed Jangle": {"tail": Mark("barred", "black")},
            "White-throated Jangle": {"throat": Mark("gorget", "white")},
            "Orange-throated Jangle": {"throat": Mark("gorget", "orange")},
            "Masquerade Jangle": {"tail": Mark("tipped", "white"), "throat": Mark("gorget", "white")},
        },
    ),
    Genus(
        "Zest",
        "Citrina",
        "black-winged yellow finch",
        replace(
            SONGBIRD,
            breast=(0.20, -0.72, 0.40),
            head=(0.38, -1.14, 0.30),
            shoulder=(-0.02, -0.74, 0.24),
            tail=(-0.46, -0.50, 0.62),
            fork=0.12,
        ),
        {"back": "lemon", "belly": "lemon", "head": "lemon", "wing": "black", "flight": "black", "legs": "umber"},
        {"beak": Mark("cone", "pink"), "tail": Mark("plain", "black")},
        {
            "Plain Zest": {},
            "Spotted Zest": {"breast": Mark("spot", "black")},
            "Streaked Zest": {"breast": Mark("streaks", "black")},
            "Red-shouldered Zest": {"epaulet": Mark("patch", "red")},
            "White-shouldered Zest": {"epaulet": Mark("patch", "white")},
            "Ember Zest": {"breast": Mark("spot", "black"), "epaulet": Mark("patch", "red")},
        },
    ),
    Genus(
        "Flit",
        "Mellifuga",
        "tiny green hummingbird",
        replace(
            SONGBIRD,
            breast=(0.16, -0.70, 0.32),
            vent=(-0.34, -0.40, 0.14),
            head=(0.34, -1.12, 0.29),
            shoulder=(0.00, -0.76, 0.17),
            wing_tip=(-0.78, -0.30, 0.02),
            tail=(-0.36, -0.40, 0.52),
            tail_turn=0.55,
            tail_widths=(0.10, 0.20),
            fork=0.10,
            hips=(-0.04, -0.40),
        ),
        {"back": "green", "belly": "white", "head": "green", "wing": "green", "flight": "umber", "legs": "black"},
        {"beak": Mark("needle", "black"), "tail": Mark("plain", "green"), "throat": Mark("gorget", "red")},
        {
            "Ruby Flit": {},
            "Violet Flit": {"throat": Mark("gorget", "violet")},
            "Amber Flit": {"throat": Mark("gorget", "orange")},
            "Rusty-tailed Flit": {"tail": Mark("plain", "rufous")},
            "Dusk Flit": {"throat": Mark("gorget", "violet"), "tail": Mark("plain", "rufous")},
        },
    ),
    Genus(
        "Brolly",
        "Umbrellina",
        "lime-green parrot",
        Plan(
            breast=(0.14, -0.80, 0.36),
            vent=(-0.34, -0.44, 0.18),
            head=(0.30, -1.26, 0.34),
            neck=0.18,
            shoulder=(0.00, -0.84, 0.24),
            wing_tip=(-0.58, -0.30, 0.03),
            tail=(-0.36, -0.42, 0.80),
            tail_turn=0.55,
            tail_widths=(0.13, 0.09),
            fork=-0.20,
            hips=(-0.02, -0.42),
        ),
        {"back": "lime", "belly": "lime", "head": "lime", "wing": "green", "flight": "navy", "legs": "grey"},
        {"beak": Mark("hook", "cream"), "tail": Mark("plain", "sky-blue")},
        {
            "Plain Brolly": {},
            "Red-billed Brolly": {"beak": Mark("hook", "red")},
            "Black-billed Brolly": {"beak": Mark("hook", "black")},
            "Rosy-cheeked Brolly": {"cheek": Mark("patch", "rose")},
            "Carnival Brolly": {"beak": Mark("hook", "black"), "cheek": Mark("patch", "rose")},
        },
    ),
    Genus(
        "Mavin",
        "Sobria",
        "brown thrush",
        replace(
            SONGBIRD,
            breast=(0.20, -0.76, 0.39),
            vent=(-0.44, -0.54, 0.20),
            head=(0.40, -1.18, 0.29),
            shoulder=(0.08, -0.70, 0.22),
            wing_tip=(-0.60, -0.36, 0.03),
            tail=(-0.48, -0.55, 0.64),
            tail_turn=0.10,
        ),
        {"back": "olive", "belly": "cream", "head": "olive", "wing": "umber", "flight": "umber", "legs": "pink"},
        {"beak": Mark("cone", "horn"), "tail": Mark("plain", "umber"), "breast": Mark("streaks", "umber")},
        {
            "Plain Mavin": {},
            "White-eyed Mavin": {"eye_ring": Mark("ring", "white")},
            "Orange-eyed Mavin": {"eye_ring": Mark("ring", "orange")},
            "Yellow-rumped Mavin": {"rump": Mark("patch", "yellow")},
            "White-rumped Mavin": {"rump": Mark("patch", "white")},
            "Lantern Mavin": {"eye_ring": Mark("ring", "orange"), "rump": Mark("patch", "white")},
        },
    ),
    Genus(
        "Grossling",
        "Coccoplumba",
        "stout plum-coloured grosbeak",
        replace(
            SONGBIRD,
            breast=(0.18, -0.72, 0.43),
            vent=(-0.40, -0.50, 0.23),
            head=(0.36, -1.18, 0.34),
            shoulder=(0.00, -0.74, 0.26),
            tail=(-0.46, -0.50, 0.64),
            tail_widths=(0.14, 0.19),
        ),
        {"back": "plum", "belly": "mauve", "head": "plum", "wing": "slate", "flight": "slate", "legs": "umber"},
        {"beak": Mark("cone", "buff"), "tail": Mark("plain", "slate")},
        {
            "Plain Grossling": {},
            "Great-billed Grossling": {"beak": Mark("heavy", "buff")},
            "Rusty-winged Grossling": {"wing_bar": Mark("one", "rufous")},
            "White-winged Grossling": {"wing_bar": Mark("one", "white")},
            "Grand Grossling": {"beak": Mark("heavy", "buff"), "wing_bar": Mark("one", "rufous")},
        },
    ),
)
