"""`finercam concept`: where a model sees what words name, and which traits a classifier's evidence agrees with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from finercam.errors import FinerCAMError

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from finercam.concept import Agreement
    from finercam.images import Preprocess

__all__ = ["concept"]

PICTURES = 12
"""Pictures that are painted for an audit on Fieldguide species, where none are given."""
SHOWN, BEST = 3, 4
"""How many pictures and traits the panel of an audit shows."""


def concept(
    images: list[str] = typer.Argument(None, metavar="[IMAGE…]", help="Files, folders or patterns such as 'a/*.jpg'."),
    text: list[str] = typer.Option(None, help="What to look for, e.g. 'red epaulets'; may be repeated."),
    against: str = typer.Option("bird", help="The more general word that it is held against."),
    out: Path = typer.Option(None, "--out", "-o", help="Folder for panels and maps, or for an audit's panel."),
    model: str = typer.Option("twotower", "--model", "-m", help="twotower, open_clip/<name>/<pretrained>, hf/<org>/<name> or a folder."),
    method: str = typer.Option("value-attention", help="Base method; 'finercam methods' lists them."),
    gamma: float = typer.Option(0.3, help="Strength of the contrast; 0 is the map of the text alone."),
    audit: tuple[str, str] = typer.Option(("", ""), show_default=False, metavar="C D", help="Why class C and not D: which texts does a classifier's evidence agree with?"),
    classifier: str = typer.Option("fieldguide/cnn", help="The classifier that is audited, as for explain --model."),
    seed: int = typer.Option(0, min=0, help="Seed of the audit's baseline."),
) -> None:  # fmt: skip
    """Show where a text is seen in a picture, against a general word; or audit a classifier by such maps."""
    if any(audit):
        _audit(images or [], text or [], against, out, model, method, gamma, audit, classifier, seed)
    else:
        if not images or not text or out is None:
            raise FinerCAMError("concept: give pictures, --text TEXT and --out DIR; or --audit C D")
        _show(images, text, against, out, model, method, gamma)


def _show(
    images: list[str], texts: list[str], against: str, out: Path, model: str, method: str, gamma: float
) -> None:
    from finercam.commands.console import complain, print_table
    from finercam.concept import load_image_text
    from finercam.explainer import FinerCAM
    from finercam.export.folder import Folder
    from finercam.images import read_image
    from finercam.zeroshot import ZeroShotClassifier

    files = _files(images)
    loaded = load_image_text(model)
    prompts = list(dict.fromkeys([*texts, against]))
    if len(prompts) < 2:
        raise FinerCAMError(f"--text and --against are both {against!r}; give a text and a more general word")
    classify = ZeroShotClassifier(loaded.model, loaded.tokenizer, prompts)
    explain = FinerCAM(classify, method, gamma=gamma, class_names=prompts, keep=range(len(prompts)))
    folder, rows, failures = Folder(out, model), [], 0
    for path in files:
        try:
            photo = read_image(path)
            pixels = loaded.preprocess(photo)[None]
        except FinerCAMError as error:
            complain(str(error))
            failures += 1
            continue
        answer = explain(pixels, target=texts[0], against=[against])
        for wanted in texts:
            asked = answer.ask(target=wanted, against=[against])
            name = f"{path.stem}-{wanted}"
            folder.add(asked, name, photo, preprocess=loaded.preprocess, source=str(path))
            y, d = (float(asked.logits[0, prompts.index(prompt)]) for prompt in (wanted, against))
            rows.append((path.name, wanted, f"{y:.2f}", against, f"{d:.2f}"))
    if rows:
        print_table(["image", "text", "logit", "against", "logit "], rows, right=["logit", "logit "])
        typer.echo(f"{len(rows)} explained: {folder.finish()}")
    if failures:
        raise typer.Exit(1)


def _audit(
    images: list[str],
    texts: list[str],
    against: str,
    out: Path | None,
    model: str,
    method: str,
    gamma: float,
    pair: tuple[str, str],
    classifier: str,
    seed: int,
) -> None:
    import torch

    from finercam.commands.console import print_table
    from finercam.concept import audit, concept_maps, load_image_text
    from finercam.explainer import FinerCAM
    from finercam.models import load_model

    loaded, words = load_model(classifier), load_image_text(model)
    explain = FinerCAM(loaded.model, gamma=1.0, class_names=loaded.class_names)
    texts = list(dict.fromkeys(texts)) or _fieldguide_traits(pair[0])
    photos = _photos(images, pair[0], seed)
    seen, read = (torch.stack([one.preprocess(photo) for photo in photos]) for one in (loaded, words))
    answer = explain(seen, target=pair[0], against=[pair[1]])
    maps = concept_maps(words.model, read, texts, against, tokenizer=words.tokenizer, gamma=gamma, method=method)
    found = audit(answer.signed, maps, texts, seed=seed)
    print_table(COLUMNS, [_row(place, one) for place, one in enumerate(found, 1)], right=COLUMNS[2:])
    typer.echo(f"{classifier}: why {pair[0]} and not {pair[1]}, over {len(seen)} pictures; the first agrees most")
    if out is not None:
        best = [(one, maps[:, texts.index(one.trait)]) for one in found[:BEST]]
        shown = [(photo, loaded.preprocess, words.preprocess) for photo in photos[:SHOWN]]
        typer.echo(f"panel: {_panel(out, shown, answer.signed, best, pair, classifier)}")


def _panel(
    out: Path,
    photos: list[tuple[Image, Preprocess, Preprocess]],
    signed: Tensor,
    best: list[tuple[Agreement, Tensor]],
    pair: tuple[str, str],
    classifier: str,
) -> Path:
    """Each picture, the classifier's contrast map on it, and the maps of the traits that agree most."""
    import numpy as np

    from finercam.core.maps import positive
    from finercam.io import write_whole
    from finercam.view.blend import overlay
    from finercam.view.sheet import Cell, Line, png, sheet

    rows = []
    for place, (photo, seen, read) in enumerate(photos):
        of_classifier, of_words = _seen_part(photo, seen), _seen_part(photo, read)
        columns = [(of_classifier, signed[place], f"{classifier}: not {pair[1]}", "its contrast map")]
        for one, maps in best:
            columns.append((of_words, maps[place], one.trait, f"cosine {one.cosine:.2f}, by chance {one.chance:.2f}"))
        row = [Cell(np.asarray(of_classifier), pair[0] if place == 0 else "")]
        for part, heat, title, note in columns:
            picture = np.asarray(overlay(part, positive(heat[None])[0], mute=0.5))
            row.append(Cell(picture, title, (Line(note),)) if place == 0 else Cell(picture, ""))
        rows.append(row)
    return write_whole(out / "audit.png", png(sheet(rows, f"Why {pair[0]} and not {pair[1]}?")))


def _seen_part(photo: Image, preprocess: Preprocess) -> Image:
    """What a model sees of a photo, large enough to be looked at."""
    part = photo.crop(tuple(round(edge) for edge in preprocess.crop_box(photo.size)))  # type: ignore[arg-type]
    scale = SIDE / max(part.size)
    return part.resize((max(round(part.width * scale), 1), max(round(part.height * scale), 1)))


SIDE = 384
"""Pixels of a picture's longer side in the panel of an audit."""

COLUMNS = ("", "trait", "cosine", "by chance", "p", "energy overlap", "rank correlation")


def _row(place: int, one: Agreement) -> tuple[str, ...]:
    numbers = (one.cosine, one.chance, one.p, one.energy_overlap, one.rank_correlation)
    return (str(place), one.trait, *(f"{number:.2f}" for number in numbers))


def _photos(images: list[str], name: str, seed: int) -> list[Image]:
    """The pictures that are given, or painted ones of a Fieldguide species."""
    if images:
        from finercam.images import read_image

        return [read_image(path) for path in _files(images)]
    from PIL import Image

    from finercam.data.fieldguide import Fieldguide

    label = _species(name)
    birds = Fieldguide(PICTURES, seed=seed + 3_000_000)
    return [Image.fromarray(birds.picture(index, label).image) for index in range(PICTURES)]


def _fieldguide_traits(name: str) -> list[str]:
    from finercam.data.fieldguide import traits

    return list(traits(_species(name)).values())


def _species(name: str) -> int:
    from finercam.data.fieldguide import Fieldguide

    classes = Fieldguide(1).classes
    if name not in classes:
        raise FinerCAMError(f"{name!r} is no Fieldguide species: give pictures of it, and the traits with --text")
    return classes.index(name)


def _files(images: list[str]) -> list[Path]:
    from finercam.commands.console import complain
    from finercam.commands.pictures import find_pictures

    files, complaints = find_pictures(images)
    for complaint in complaints:
        complain(complaint)
    if not files:
        raise FinerCAMError("there is no picture to explain")
    return files
