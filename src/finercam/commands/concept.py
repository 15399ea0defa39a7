"""`finercam concept`: maps of a text in pictures, and which traits a classifier's evidence agrees with."""

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
"""How many pictures an audit of Fieldguide species paints if none are given."""
SHOWN, BEST = 3, 4
"""How many pictures and traits the panel of an audit shows."""


def concept(
    images: list[str] = typer.Argument(None, metavar="[IMAGE…]", help="Files, folders or patterns such as 'a/*.jpg'."),
    text: list[str] = typer.Option(None, help="A text to map, e.g. 'red epaulets'; may be repeated."),
    against: str = typer.Option("bird", help="The more general word that the text is compared with."),
    out: Path = typer.Option(None, "--out", "-o", help="Folder for panels and maps, or for an audit's panel."),
    model: str = typer.Option("twotower", "--model", "-m", help="twotower, open_clip/<name>/<pretrained>, hf/<org>/<name> or a folder."),
    method: str = typer.Option("value-attention", help="Base method; 'finercam methods' lists them."),
    gamma: float = typer.Option(0.3, help="Strength of the contrast; 0 is the map of the text alone."),
    audit: tuple[str, str] = typer.Option(("", ""), show_default=False, metavar="C D", help="Rank texts by how much a classifier's evidence for class C and not D agrees with them."),
    classifier: str = typer.Option("fieldguide/cnn", help="The classifier to audit, as for explain --model."),
    seed: int = typer.Option(0, min=0, help="Seed of the audit's baseline."),
) -> None:  # fmt: skip
    """Show where an image–text model sees a text in a picture, or audit a classifier with such maps."""
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
        for text in texts:
            explanation = answer.ask(target=text, against=[against])
            folder.add(explanation, f"{path.stem}-{text}", photo, preprocess=loaded.preprocess, source=str(path))
            y, d = (float(answer.logits[0, prompts.index(prompt)]) for prompt in (text, against))
            rows.append((path.name, text, f"{y:.2f}", against, f"{d:.2f}"))
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
    inputs, text_inputs = (torch.stack([one.preprocess(photo) for photo in photos]) for one in (loaded, words))
    answer = explain(inputs, target=pair[0], against=[pair[1]])
    maps = concept_maps(
        words.model, text_inputs, texts, against, tokenizer=words.tokenizer, gamma=gamma, method=method
    )
    ranking = audit(answer.signed, maps, texts, seed=seed)
    print_table(COLUMNS, [_row(place, one) for place, one in enumerate(ranking, 1)], right=COLUMNS[2:])
    typer.echo(f"{classifier}: why {pair[0]} and not {pair[1]}, over {len(photos)} pictures; best agreement first")
    if out is not None:
        best = [(one, maps[:, texts.index(one.trait)]) for one in ranking[:BEST]]
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
    """Write a panel: each picture, the classifier's contrast map, and the maps of the traits that agree best."""
    import numpy as np

    from finercam.core.maps import positive
    from finercam.io import write_whole
    from finercam.view.blend import overlay
    from finercam.view.sheet import Cell, Line, png, sheet

    rows = []
    for place, (photo, preprocess, text_preprocess) in enumerate(photos):
        crop, text_crop = _crop(photo, preprocess), _crop(photo, text_preprocess)
        columns = [(crop, signed[place], f"{classifier}: not {pair[1]}", "its contrast map")]
        for one, maps in best:
            columns.append(
                (text_crop, maps[place], one.trait, f"cosine {one.cosine:.2f}, by chance {one.chance:.2f}")
            )
        row = [Cell(np.asarray(crop), pair[0] if place == 0 else "")]
        for part, heat, title, note in columns:
            picture = np.asarray(overlay(part, positive(heat[None])[0], mute=0.5))
            row.append(Cell(picture, title, (Line(note),)) if place == 0 else Cell(picture, ""))
        rows.append(row)
    return write_whole(out / "audit.png", png(sheet(rows, f"Why {pair[0]} and not {pair[1]}?")))


def _crop(photo: Image, preprocess: Preprocess) -> Image:
    """The part of a photo that the model sees, scaled for display."""
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
    """The given pictures, or painted ones of a Fieldguide species."""
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
