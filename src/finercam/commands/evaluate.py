"""`finercam evaluate`: measure methods and contrasts on a dataset; writes tables and Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from finercam.evaluation.summary import Line

__all__ = ["evaluate", "print_lines"]


def evaluate(
    data: str = typer.Argument(
        ..., help="'fieldguide:200?seed=1', 'cub:/path', a folder of class folders, a list file …"
    ),
    out: Path = typer.Option(
        ..., "--out", "-o", help="Folder for parts/*.parquet, summary.md, .csv, .json and paper.md, .csv."
    ),
    model: str = typer.Option(..., "--model", "-m", help="What to evaluate; 'finercam models' lists the forms."),
    run: str = typer.Option(
        None, help="A finished 'finercam run' of DATA and the model: its stored maps are measured."
    ),
    methods: list[str] = typer.Option(
        None, help="Methods, each with --methods or joined by commas. [default: gradcam, or the run's]"
    ),
    contrasts: list[str] = typer.Option(
        None,
        help="plain, paper, pair, random, or references:count:gamma:weights; plain always runs. "
        "[default: paper and pair, or the run's own]",
    ),
    metrics: list[str] = typer.Option(
        ["rd"],
        help="paper (deletion, rd and, if known, localisation), rd, deletion, insertion, kept, road, localisation, "
        "contrastive, parts, shape.",
    ),
    split: str = typer.Option(None, help="Split of the dataset, if it has several."),
    layer: list[str] = typer.Option(None, help="Target layer, by its dotted name; may be repeated."),
    fusion: str = typer.Option(
        None, help="How the maps of several layers are fused: mean or product. [default: mean, or the run's]"
    ),
    target: str = typer.Option("label", help="Explain the label (the paper's set-up) or the prediction."),
    fill: str = typer.Option("zero", help="What removed pixels become: zero, black, mean, blur or road."),
    steps: int = typer.Option(50, min=2, help="Steps of deletion and insertion curves."),
    tolerance: int = typer.Option(0, min=0, help="Pixels by which the pointing game may miss."),
    limit: int = typer.Option(None, min=1, help="Only this many pictures, drawn at random with --seed."),
    batch_size: int = typer.Option(32, min=1, help="Pictures at a time."),
    baseline: str = typer.Option(
        "same",
        help="What maps are compared with: the plain map of the same layers and fusion (same), or plain Grad-CAM of "
        "the last layer (last).",
    ),
    correct_only: bool = typer.Option(False, help="Count only pictures that the model classifies correctly."),
    seed: int = typer.Option(0, help="Seed of random references, controls and intervals."),
    device: str = typer.Option("auto", help="cpu, cuda, mps …; auto uses a GPU if there is one."),
    redo: bool = typer.Option(False, help="Delete the results in --out and start again."),
) -> None:
    """Measure explanations on a dataset and compare them with the plain method, controls and chance.

    The same command continues a measurement that was stopped.
    """
    from finercam.commands.console import progress
    from finercam.commands.explain import load
    from finercam.data import open_dataset
    from finercam.evaluation import evaluate as measure
    from finercam.run import open_run

    dataset = open_dataset(data, split)
    typer.echo(str(dataset))
    loaded = load(model, device, None)
    with progress(len(dataset) if limit is None else min(limit, len(dataset))) as bar:
        task = bar.add_task("evaluating", total=None)
        lines = measure(
            dataset,
            loaded,
            out,
            _split(methods or ()) or None,
            _split(contrasts or ()) or None,
            _split(metrics),
            run=open_run(run) if run else None,
            layer=tuple(layer) if layer else None,
            fusion=fusion,
            target=target,
            fill=fill,
            steps=steps,
            tolerance=tolerance,
            limit=limit,
            batch_size=batch_size,
            baseline=baseline,
            correct_only=correct_only,
            seed=seed,
            redo=redo,
            progress=lambda at, total: bar.update(task, completed=at, total=total),
        )
    print_lines(lines)
    typer.echo(
        f"written: {out / 'summary.md'}, with .csv and .json, {out / 'paper.md'} with .csv, and {out / 'parts'}"
    )


def print_lines(lines: Sequence[Line], only: Sequence[str] | None = None) -> None:
    """Print a table of a few metrics (`only`, or the most important ones), with ▲ or ▼ for a difference from plain."""
    from finercam.commands.console import print_table
    from finercam.evaluation.tables import heading, headline, table_rows

    measured = list(dict.fromkeys(line.metric for line in lines))
    names = headline(lines) if only is None else [name for name in only if name in measured]
    columns = [
        "method",
        "contrast",
        *(heading(name).replace("discriminative", "discr.").replace("_", " ") for name in names),
    ]
    print_table(columns, table_rows(lines, names), right=columns[2:])
    if len(measured) > len(names):
        print(f"{len(measured) - len(names)} more metrics, and all intervals, are in the files.")


def _split(values: Sequence[str]) -> list[str]:
    return [name.strip() for value in values for name in value.split(",") if name.strip()]
