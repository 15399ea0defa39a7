"""The page of a pair, its JSON, and the index of all pairs."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finercam._version import __version__
from finercam.data.source import NoPicture
from finercam.errors import FinerCAMError
from finercam.images import Preprocess
from finercam.io import write_whole
from finercam.names import label
from finercam.report.assets import asset, render, safe_json
from finercam.text import literal, short_names
from finercam.traits.album import Album
from finercam.traits.crops import crop, numbered, seen
from finercam.traits.sights import ClassSights
from finercam.traits.traits import Pair, Side, Spot, Trait, plain

__all__ = ["Naming", "pair_json", "write_index", "write_pair"]

NUMBERED = 3
"""Traits that are numbered on the whole photos."""
COLUMNS: tuple[str, ...] = (
    "class", "rival", "trait", "name", "consistent", "confirmed", "shown_by", "share", "margin_share", "drop",
    "half_1", "half_2", "removal", "class_photos", "class_of", "class_margin", "class_without", "class_control",
    "rival_photos", "rival_of", "rival_margin", "rival_without", "rival_control", "page",
)  # fmt: skip


@dataclass(frozen=True)
class Naming:
    """Names and files of classes, and their photos. No name of a class becomes a path."""

    names: tuple[str, ...] | None
    album: Album

    @classmethod
    def of(cls, names: tuple[str, ...] | None, album: Album) -> Naming:
        return cls(names, album)

    def full(self, index: int) -> str:
        return literal(label(index, self.names))

    def short(self, index: int) -> str:
        return literal(label(index, None if self.names is None else short_names(self.names)))

    def stem(self, one: int, other: int) -> str:
        """The name of a pair's files, without ending."""
        return f"pairs/{one:06d}-{other:06d}"

    def finished(self, folder: Path, one: int, other: int, made_of: str) -> bool:
        """Whether the page of a pair is there and was made of the same evidence."""
        stem = self.stem(one, other)
        try:
            found = json.loads((folder / f"{stem}.json").read_text(encoding="utf-8"))
            return found["made_of"] == made_of and (folder / f"{stem}.html").is_file()
        except (OSError, ValueError, TypeError, KeyError):
            return False


def write_pair(
    folder: Path,
    pair: Pair,
    sights: tuple[ClassSights, ClassSights],
    naming: Naming,
    preprocess: Preprocess,
    made_of: str,
) -> None:
    """Write the page of a pair, and then its JSON, which says that the page is finished."""
    stem = naming.stem(pair.target, pair.rival)
    found = pair_json(pair, naming)
    photos = _Photos(sights, naming.album, preprocess)
    traits = [
        found["traits"][at] | {"crops": [photos.crops(side, of.spots) for side, of in enumerate(_sides(trait))]}
        for at, trait in enumerate(pair.traits)
    ]
    whole = [photos.whole(side, pair) for side in (0, 1)]
    html = render(
        asset("pair.html.j2", "finercam.traits"),
        _style(),
        asset("theme.js", "finercam.traits"),
        pair=found,
        consistent=[trait for trait in traits if trait["consistent"]],
        others=[trait for trait in traits if not trait["consistent"]],
        whole=whole,
        title=f"{found['class']['short']} or {found['rival']['short']}?",
        data=f"{pair.target:06d}-{pair.rival:06d}.json",
    )
    write_whole(folder / f"{stem}.html", "".join(html))
    write_whole(folder / f"{stem}.json", json.dumps(found | {"made_of": made_of}, indent=1, allow_nan=False))


def pair_json(pair: Pair, naming: Naming) -> dict[str, Any]:
    """The numbers of a page as plain values; what is not known is None."""
    classes = [
        {
            "id": index,
            "name": naming.full(index),
            "short": naming.short(index),
            "photos": count,
            "margin": plain(margin),
        }
        for index, count, margin in zip((pair.target, pair.rival), pair.counts, pair.margins, strict=True)
    ]
    return {
        "finercam": __version__,
        "class": classes[0],
        "rival": classes[1],
        "layers": list(pair.layers),
        "named_by": literal(pair.named_by),
        "traits": [_trait_json(number, trait) for number, trait in enumerate(pair.traits, 1)],
    }


def _trait_json(number: int, trait: Trait) -> dict[str, Any]:
    sides = [
        {"photos": of.photos, "of": of.count}
        | {name: plain(getattr(of, name)) for name in ("share", "margin", "without", "control")}
        for of in _sides(trait)
    ]
    values = ("share", "margin_share", "drop", "removal", "name_share")
    return {
        "number": number,
        "name": literal(trait.name),
        "consistent": trait.consistent,
        "confirmed": trait.confirmed,
        "shown_by": trait.shown_by,
        "halves": [plain(value) for value in trait.halves],
        "class": sides[0],
        "rival": sides[1],
    } | {name: plain(getattr(trait, name)) for name in values}


def write_index(
    folder: Path,
    pairs: Sequence[tuple[int, int]],
    naming: Naming,
    failed: Mapping[str, str],
    problems: Mapping[str, str],
    model: str,
) -> Path:
    """Write `index.html`, `index.json` and `traits.csv` from the JSON of the finished pairs."""
    found = []
    for one, other in pairs:
        try:
            about = json.loads((folder / f"{naming.stem(one, other)}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        found.append(about | {"page": f"{naming.stem(one, other)}.html"})
    rows = [_row(pair, trait) for pair in found for trait in pair["traits"]]
    written = io.StringIO(newline="")
    table = csv.DictWriter(written, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_whole(folder / "traits.csv", written.getvalue())
    more = {"failed": dict(failed), "left_out": {literal(path): why for path, why in problems.items()}}
    summary = {"model": literal(model), "pairs": [_brief(pair) for pair in found], **more}
    write_whole(folder / "index.json", json.dumps(summary, indent=1, allow_nan=False))
    html = render(
        asset("index.html.j2", "finercam.traits"),
        _style(),
        asset("theme.js", "finercam.traits") + asset("index.js", "finercam.traits"),
        summary=summary,
        data=safe_json(summary["pairs"]),
        title=f"What tells them apart: {literal(model)}",
    )
    return write_whole(folder / "index.html", "".join(html))


def _brief(pair: Mapping[str, Any]) -> dict[str, Any]:
    first = next((trait for trait in pair["traits"] if trait["consistent"]), None)
    return {
        "page": pair["page"],
        "class": pair["class"],
        "rival": pair["rival"],
        "consistent": sum(trait["consistent"] for trait in pair["traits"]),
        "first": None if first is None else first["name"] or "unnamed",
        "first_share": None if first is None else first["margin_share"],
    }


def _row(pair: Mapping[str, Any], trait: Mapping[str, Any]) -> dict[str, Any]:
    """One line of the table. A text that a spreadsheet would run as a formula begins with an apostrophe."""
    same = ("name", "consistent", "confirmed", "shown_by", "share", "margin_share", "drop", "removal")
    row = {name: trait[name] for name in same} | {"trait": trait["number"], "page": pair["page"]}
    row |= {"class": pair["class"]["name"], "rival": pair["rival"]["name"]}
    row |= {f"half_{at}": value for at, value in enumerate(trait["halves"], 1)}
    for side in ("class", "rival"):
        row |= {f"{side}_{name}": trait[side][name] for name in ("photos", "of", "margin", "without", "control")}
    texts = ("class", "rival", "name")
    return {k: f"'{v}" if k in texts and str(v)[:1] in "=+-@" and v else v for k, v in row.items()}


def _style() -> str:
    return asset("style.css") + asset("traits.css", "finercam.traits")


def _sides(trait: Trait) -> tuple[Side, Side]:
    return trait.target, trait.rival


class _Photos:
    """The photos of a pair, opened once each; one that is gone by now is left out."""

    def __init__(self, sights: tuple[ClassSights, ClassSights], album: Album, preprocess: Preprocess) -> None:
        self.sights, self.album, self.preprocess = sights, album, preprocess
        self.opened: dict[tuple[int, int], Any] = {}

    def open(self, side: int, photo: int) -> Any:
        if (side, photo) not in self.opened:
            of = self.sights[side]
            try:
                content = self.album.source.open(of.positions[photo], of.paths[photo])
                self.opened[side, photo] = seen(content.image, self.preprocess)
            except (NoPicture, FinerCAMError, OSError):
                self.opened[side, photo] = None
        return self.opened[side, photo]

    def crops(self, side: int, spots: Sequence[Spot]) -> list[dict[str, Any]]:
        found = [(self.open(side, spot.photo), spot) for spot in spots]
        paths = self.sights[side].paths
        return [
            {"uri": crop(photo, spot), "lit": spot.lit, "whole": spot.whole, "path": literal(paths[spot.photo])}
            for photo, spot in found
            if photo is not None
        ]

    def whole(self, side: int, pair: Pair) -> dict[str, Any] | None:
        """The photo of a side that shows the most of the first traits, with their numbers."""
        shown: dict[int, list[tuple[int, Spot]]] = {}
        for number, trait in enumerate(pair.consistent[:NUMBERED], 1):
            for spot in _sides(trait)[side].spots:
                if spot.lit:
                    shown.setdefault(spot.photo, []).append((number, spot))
        order = sorted(shown, key=lambda photo: (-len(shown[photo]), min(number for number, _ in shown[photo])))
        for photo in [*order, *range(min(3, len(self.sights[side])))]:
            opened = self.open(side, photo)
            if opened is not None:
                path = literal(self.sights[side].paths[photo])
                return {"uri": numbered(opened, shown.get(photo, [])), "path": path}
        return None
