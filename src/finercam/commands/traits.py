"""`finercam traits`: pages of what tells two classes apart, over all photos of both."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finercam.errors import FinerCAMError

if TYPE_CHECKING:
    from finercam.traits import Outcome

__all__ = ["make", "traits"]


def traits(
    data: str = typer.Argument(..., help="A dataset with labels, as in 'finercam run', or the folder of a run."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for index.html, the pages and traits.csv."),
    model: str = typer.Option(..., "--model", "-m", help="The model; 'finercam models' lists the forms."),
    classes: tuple[str, str] = typer.Option(("", ""), show_default=False, metavar="C D", help="The two classes to compare, by name or id."),
    against_nearest: bool = typer.Option(False, "--against-nearest", help="Compare every class with its nearest rivals instead."),
    nearest: int = typer.Option(2, min=1, help="With --against-nearest: how many rivals of each class."),
    by: str = typer.Option("head", help="How rivals are found: head (rows of the linear head) or confusion."),
    photos: int = typer.Option(40, min=2, help="Photos of each class at most."),
    removed: int = typer.Option(10, min=2, help="Photos of each class whose lit regions are removed one by one."),
    preset: str = typer.Option(None, help="How maps are made: fast, fine, finest, measured or paper. [default: fine]"),
    word: list[str] = typer.Option(None, help="A name for traits, such as 'wing bar'; may be repeated."),
    words_model: str = typer.Option("twotower", help="With --word: the image–text model, as in 'finercam concept'."),
    split: str = typer.Option(None, help="Split of the dataset, if it has several."),
    size: int = typer.Option(None, min=16, help="Input size in pixels, instead of the model's own."),
    device: str = typer.Option("auto", help="cpu, cuda, mps …; auto uses a GPU if there is one."),
    redo: bool = typer.Option(False, help="Replace pages of other settings in the folder."),
) -> None:  # fmt: skip
    """Show what tells two classes apart: evidence over all photos of both, grouped into traits, on one page a pair.

    What a class lacks is found on the photos of its rival. The same command continues after a stop.
    """
    if any(classes) == against_nearest:
        raise FinerCAMError("traits: give --classes C D, or --against-nearest for all classes")
    request = {"photos": photos, "removed": removed, "preset": preset, "nearest": nearest, "by": by}
    words = {"words": tuple(word or ()), "words_model": words_model}
    make(data, model, out, device, size, classes=classes if any(classes) else None, split=split, redo=redo, **request, **words)  # fmt: skip


def make(data: str, model: str, out: Path, device: str, size: int | None, **options: Any) -> Outcome:
    """Load the model, write the pages, and print what was done; exit status 1 where a pair has no page."""
    from finercam.commands.console import complain, progress
    from finercam.commands.explain import load
    from finercam.traits import make_pages

    loaded = load(model, device, size)
    if options.get("classes") is not None:
        options["classes"] = tuple(_class(one, loaded.class_names) for one in options["classes"])
    with progress(2) as bar:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        outcome = make_pages(data, loaded, out, model_string=model, progress=show, **options)
    for path, why in list(outcome.problems.items())[:5]:
        complain(f"{path} was left out: {why}")
    if len(outcome.problems) > 5:
        complain(f"{len(outcome.problems)} photos were left out; {outcome.index} lists them")
    for pair, why in outcome.failed.items():
        complain(f"{pair}: {why}")
    typer.echo(f"{outcome.pages} pages, {outcome.written} written now; open {outcome.index.resolve()}")
    if outcome.failed:
        raise typer.Exit(1)
    return outcome


def _class(typed: str, names: Any) -> Any:
    """The class that was typed: a name, or an id if no class has that name."""
    return int(typed) if typed.strip().isdecimal() and typed not in (names or ()) else typed
