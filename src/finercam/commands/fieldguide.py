"""`finercam fieldguide`: the built-in benchmark as plates, as a dataset on disk, or for training the built-in models."""

from __future__ import annotations

from pathlib import Path

import typer

from finercam.errors import FinerCAMError

__all__ = ["fieldguide"]


def fieldguide(
    plates: Path = typer.Option(
        None, help="Folder to draw the plates into: every species and what tells them apart."
    ),
    export: Path = typer.Option(None, help="Folder to write pictures, labels and part masks into."),
    train: str = typer.Option(None, help="Built-in model to train anew, e.g. cnn; takes --out."),
    out: Path = typer.Option(None, help="Folder for the trained model."),
    count: int = typer.Option(200, min=1, help="How many pictures to export."),
    seed: int = typer.Option(0, min=0, help="Seed of pictures and training."),
    size: int = typer.Option(128, min=32, help="Side of an exported picture in pixels."),
) -> None:
    """Draw, export or train on Fieldguide, the benchmark whose truth is known for every pair of classes."""
    if plates is None and export is None and train is None:
        raise FinerCAMError("fieldguide: say what to do: --plates DIR, --export DIR or --train MODEL --out DIR")
    if train is not None and out is None:
        raise FinerCAMError("fieldguide --train needs --out DIR, where the model is written")
    if plates is not None:
        from finercam.data.fieldguide.plates import write_plates

        typer.echo(f"{len(write_plates(plates))} plates: {plates}")
    if export is not None:
        from finercam.data.fieldguide.export import export as write_pictures

        typer.echo(f"{count} pictures: {write_pictures(export, count, seed, size)}")
    if train is not None:
        from finercam.data.fieldguide.train import train as train_model

        train_model(train, out, seed)
