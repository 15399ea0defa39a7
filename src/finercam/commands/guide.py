"""`finercam guide`: a field guide out of a model: every class of a dataset and its nearest rivals."""

from __future__ import annotations

from pathlib import Path

import typer

__all__ = ["guide"]


def guide(
    data: str = typer.Argument(..., help="A dataset with labels, as in 'finercam run', or the folder of a run."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder for index.html, the pages and traits.csv."),
    model: str = typer.Option(..., "--model", "-m", help="The model; 'finercam models' lists the forms."),
    nearest: int = typer.Option(2, min=1, help="How many rivals of each class."),
    by: str = typer.Option("head", help="How rivals are found: head (rows of the linear head) or confusion."),
    photos: int = typer.Option(30, min=2, help="Photos of each class at most."),
    removed: int = typer.Option(6, min=2, help="Photos of each class whose lit regions are removed one by one."),
    preset: str = typer.Option(None, help="How maps are made: fast, fine, finest, measured or paper. [default: fine]"),
    split: str = typer.Option(None, help="Split of the dataset, if it has several."),
    size: int = typer.Option(None, min=16, help="Input size in pixels, instead of the model's own."),
    device: str = typer.Option("auto", help="cpu, cuda, mps …; auto uses a GPU if there is one."),
    redo: bool = typer.Option(False, help="Replace pages of other settings in the folder."),
    ray: str = typer.Option(None, help="Use a Ray cluster: local, auto, or its address."),
    workers: int = typer.Option(2, min=1, help="With --ray: how many workers hold the model."),
) -> None:  # fmt: skip
    """Make a field guide: an index, and a page of traits for every class and each of its nearest rivals.

    The guide can be stopped at any moment; the same command continues it without making finished pages again.
    """
    from finercam.commands.traits import make
    from finercam.run import Cluster

    cluster = None if ray is None else Cluster(ray, workers)
    request = {"photos": photos, "removed": removed, "preset": preset, "nearest": nearest, "by": by}
    make(data, model, out, device, size, split=split, redo=redo, cluster=cluster, **request)
