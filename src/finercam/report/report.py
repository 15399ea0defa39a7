"""Writes explanations as one HTML file in which the reader can change the question."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from finercam.beside import Beside
from finercam.certificate import Certificate
from finercam.errors import FinerCAMError
from finercam.explanation import Explanation
from finercam.images import Preprocess
from finercam.io import whole_file
from finercam.names import class_id, label
from finercam.report.assets import asset, render, safe_json
from finercam.report.classes import Apart, with_rivals
from finercam.report.content import page_of
from finercam.report.pictures import THUMBNAIL, data_uri, example_of, seen_by_model
from finercam.text import literal, short_names
from finercam.view.beside import numbered_pictures
from finercam.view.colours import evidence_colours, opacity, signed_colours
from finercam.view.drawn import MUTE
from finercam.view.drawn import picture as draw_picture
from finercam.view.shown import require_pictures
from finercam.view.strength import WEAK

__all__ = ["colour_tables", "write_report"]

BESIDE = 480
"""Longer side in pixels of the two numbered photos."""
SCRIPTS = ("numbers.js", "draw.js", "state.js", "table.js", "words.js", "sheet.js", "look.js", "live.js")


def write_report(
    answers: Explanation | Certificate | Iterable[Explanation | Beside | Certificate],
    file: str | os.PathLike[str],
    *,
    names: Sequence[str] | None = None,
    images: Sequence[Any] | Tensor | None = None,
    preprocess: Preprocess | None = None,
    title: str = "Why this class and not that one?",
    labels: Sequence[int | str | None] | None = None,
    examples: Mapping[Any, Any] | str | os.PathLike[str] | None = None,
    rivals: int = 9,
    methods: Sequence[str] | None = None,
) -> Path:
    """Write explanations as one self-contained HTML file in which the reader can change rival, gamma and method.

    The page needs no server and no network. It has at most 150 KB per image besides its photos.

    Args:
        answers: one explanation (of a batch), or an iterable of several, which are written one by one. What
            `answer.beside(photos)` gives is shown with the rival's photo, which is then part of the page, and what `answer.verify()` gives with
            what the margin becomes without the lit pixels.
        file: the HTML file. It is replaced only when the new one is complete.
        names: a name for each image, such as its file name, in the order of all answers.
        images: the pictures, if the answers do not store them: normalised tensors `(3, H, W)`, PIL images or paths.
        preprocess: the preprocessing of the model, to show photos in their original colours.
        title: heading of the page.
        labels: true class of each image (id, name, or None if unknown), to mark wrong predictions.
        examples: a picture for some classes: a mapping of names or ids to pictures, or a folder with sub-folders
            (or pictures) named as the classes.
        rivals: number of classes to offer besides the target: its references, then the most probable classes. If their
            evidence is missing and the images are stored, gradient methods run the model once more.
        methods: other methods to offer from the same evidence; None for the default ones.

    Raises FinerCAMError if there is nothing to write, or names, images or labels do not match the answers.

    >>> import tempfile, torch
    >>> from finercam import FinerCAM
    >>> nn = torch.nn
    >>> model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    >>> answer = FinerCAM(model, class_names=["wren", "robin", "finch"])(torch.rand(2, 3, 16, 16))
    >>> write_report(answer, tempfile.mkdtemp() + "/report.html", names=["a.jpg", "b.jpg"]).name
    'report.html'
    """
    try:
        import jinja2  # noqa: F401
    except ModuleNotFoundError:
        raise FinerCAMError("the live report needs jinja2: pip install 'finercam[report]'") from None
    if not 1 <= rivals <= 40:
        raise FinerCAMError(f"rivals={rivals}: expected 1 to 40 classes besides the target")
    several = [answers] if isinstance(answers, Explanation | Certificate) else answers
    given = {"names": names, "images": images, "labels": labels}
    pages = _Pages(given, preprocess, examples, rivals, methods)
    return _write(_rendered(pages, several, literal(title)), Path(file))


def _rendered(pages: _Pages, answers: Iterable[Explanation | Beside | Certificate], title: str) -> Iterator[str]:
    """The HTML in parts, so that a page of many images does not have to fit into memory."""
    script = '"use strict";\n(() => {\n' + "\n".join(asset(name) for name in SCRIPTS) + "})();\n"
    return render(
        asset("page.html.j2"),
        asset("style.css"),
        script,
        title=title,
        pages=(safe_json(page) for page in pages.of(answers)),
        index=lambda: safe_json(pages.index(title)),
    )


@dataclass
class _Pages:
    """Turns answers into pages one by one, and collects the data of the table of all images."""

    given: dict[str, Any]
    """Names, images and labels, one for each image, or None."""
    preprocess: Preprocess | None
    example_source: Any
    rivals: int
    methods: Sequence[str] | None
    rows: list[dict[str, Any]] = field(default_factory=list)
    examples: dict[str, str] = field(default_factory=dict)
    latin: dict[str, str] = field(default_factory=dict)

    def of(self, answers: Iterable[Explanation | Beside | Certificate]) -> Iterator[dict[str, Any]]:
        for entry in answers:
            given, lines = (entry.answer, entry.lines) if isinstance(entry, Certificate) else (entry, None)
            answer = given.answer if isinstance(given, Beside) else given
            if not isinstance(answer, Explanation):
                raise FinerCAMError(f"a {type(given).__name__} given as an answer: expected an Explanation")
            require_pictures(answer)
            if answer.contrast.groups.members:
                raise FinerCAMError(
                    "a live page compares single classes, and this question is about a group of them: save panels "
                    "instead, as answer.save('folder')"
                )
            for what in self.given:  # checked before the work
                self._check(what, len(self.rows) + len(answer), exact=False)
            apart = with_rivals(answer, self.rivals)
            for at, (one, one_apart) in enumerate(zip(answer, apart, strict=True)):
                page = self._page(one, one_apart) | {"checked": None if lines is None else lines[at]}
                yield page | self._beside(given, len(self.rows) - 1) if isinstance(given, Beside) else page
        if not self.rows:
            raise FinerCAMError("no explanation was given; a report needs at least one image")
        for what in self.given:
            self._check(what, len(self.rows), exact=True)

    def index(self, title: str) -> dict[str, Any]:
        more = {
            "latin": self.latin,
            "examples": self.examples,
            "colours": colour_tables(),
            "weak": WEAK,
            "mute": MUTE,
        }
        return {"title": title, "images": self.rows, **more}

    def _page(self, answer: Explanation, apart: Explanation) -> dict[str, Any]:
        at = len(self.rows)
        data = page_of(answer, Apart.of(apart, self.rivals), apart, self.methods)
        picture = self._at("images", at)
        if picture is None and answer.images is not None:
            picture = answer.images[0]
        photo = seen_by_model(picture, answer.image_size, self.preprocess)
        for entry in data["classes"]:
            entry["name"] = self._name(answer, entry["id"])
            self._example(answer, entry)
        data["askedNames"] = [self._name(answer, d) for d in data["askedNames"]]
        data["photo"] = None if photo is None else data_uri(photo)
        thumbnail = None if photo is None else data_uri(_thumbnail(photo, answer), quality=80)
        self.rows.append(self._row(answer, data, at, thumbnail))
        return data

    def _beside(self, one: Beside, at: int) -> dict[str, Any]:
        """The two photos with their evidence and numbers, and what the numbers mean."""
        here, there = numbered_pictures(one, self._at("images", at), preprocess=self.preprocess)
        rival = self._name(one.answer, int(one.rival.target[0]))
        pictures = {"here": data_uri(here, BESIDE), "there": data_uri(there, BESIDE)}
        return {"beside": {**pictures, "rival": rival, "lines": [literal(line) for line in one.lines]}}

    def _row(self, answer: Explanation, data: dict[str, Any], at: int, thumbnail: str | None) -> dict[str, Any]:
        predicted = int(answer.logits[0].argmax())
        truth = self._at("labels", at)
        if truth is not None:
            truth = class_id(truth, answer.class_names, answer.logits.shape[1], "label")
        return {
            "name": literal(self._at("names", at) or f"picture {at + 1}"),
            "thumbnail": thumbnail,
            "target": data["classes"][0]["name"],
            "probability": data["probabilities"][0],
            "link": answer.link,
            "predicted": self._name(answer, predicted),
            "confidence": float(answer.probabilities[0, predicted]),
            "rivals": data["askedNames"][:3],
            "truth": None if truth is None else self._name(answer, truth),
            "wrong": None if truth is None else truth != predicted,
        }

    def _name(self, answer: Explanation, index: int) -> str:
        """The short name of a class, as in the panel; the rest of its name is stored in `latin`."""
        whole = label(index, answer.class_names)
        short = whole if answer.class_names is None else short_names(answer.class_names)[index]
        shown = literal(short)
        if short != whole:
            self.latin[shown] = literal(whole.removesuffix(f" ({short})"))
        return shown

    def _example(self, answer: Explanation, entry: dict[str, Any]) -> None:
        if entry["name"] not in self.examples:
            example = example_of(label(entry["id"], answer.class_names), entry["id"], self.example_source)
            if example is not None:
                self.examples[entry["name"]] = example

    def _at(self, what: str, at: int) -> Any:
        given = self.given[what]
        return None if given is None else given[at]

    def _check(self, what: str, count: int, exact: bool) -> None:
        given = self.given[what]
        if given is not None and (len(given) < count or (exact and len(given) != count)):
            more = "" if exact else " or more"
            raise FinerCAMError(f"{len(given)} {what} for {count}{more} images; give one for each")


def _thumbnail(photo: Image.Image, answer: Explanation) -> Image.Image:
    """A small version of the photo with its map."""
    small = photo.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return draw_picture(np.asarray(small), answer)


def colour_tables() -> dict[str, str]:
    """256 RGB colours of evidence in [0, 1] and of signed evidence in [-1, 1], and the opacity of each magnitude."""
    unit = np.linspace(0, 1, 256)
    tables = {
        "evidence": evidence_colours(unit),
        "signed": signed_colours(2 * unit - 1),
        "opacity": opacity(unit, 1.0),
    }
    return {
        name: b64encode(np.rint(255 * t).astype(np.uint8).tobytes()).decode("ascii") for name, t in tables.items()
    }


def _write(parts: Iterable[str], file: Path) -> Path:
    with whole_file(file) as partial, partial.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(parts)
    return file
