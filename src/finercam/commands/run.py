"""`finercam run`: every image of a dataset into sharded Parquet; stopped at any moment, the same command goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from finercam.models import LoadedModel
    from finercam.run import Outcome

__all__ = ["run"]


def run(
    data: str = typer.Argument(
        ..., help="A folder of pictures, a list file, a Parquet file of paths, 'cub:/path', 'fieldguide:200' …"
    ),
    out: str = typer.Option(
        ..., "--out", "-o", help="Folder for rows/*.parquet and manifest.json, or an s3:// address."
    ),
    model: str = typer.Option(..., "--model", "-m", help="What to explain; 'finercam models' tells the forms."),
    method: str = typer.Option("gradcam", help="Base method; 'finercam methods' lists them."),
    target: str = typer.Option("prediction", help="Class to explain: prediction, label, or one class by name or id."),
    against: list[str] = typer.Option(None, help="Class to hold it against, by name or id; may be repeated."),
    gamma: float = typer.Option(None, help="Strength of the contrast; 0 is the plain method. [default: 0.6]"),
    gammas: str = typer.Option(None, help="For methods that are not linear: other strengths to keep, as 0.3,0.9."),
    references: str = typer.Option(
        None, help="How rivals are picked: predicted, similar, nearest. [default: predicted]"
    ),
    num_references: int = typer.Option(None, min=1, help="How many rivals are picked. [default: 1]"),
    weights: str = typer.Option(None, help="How rivals count: mean or probability. [default: mean]"),
    preset: str = typer.Option("measured", help="Where those are not given: measured, or paper (3 similar classes)."),
    keep: int = typer.Option(0, min=0, help="Also keep maps of so many of the likeliest classes, to be asked later."),
    layer: list[str] = typer.Option(None, help="Target layer, by its dotted name; may be repeated."),
    fusion: str = typer.Option("mean", help="How the maps of several layers are joined: mean or product."),
    size: int = typer.Option(None, min=16, help="Input size in pixels, instead of the model's own."),
    top: int = typer.Option(5, min=1, help="How many predictions each row lists."),
    split: str = typer.Option(None, help="Split of the dataset, where it has several."),
    limit: int = typer.Option(None, min=1, help="Only the first so many images."),
    precision: str = typer.Option("float32", help="float32, bfloat16 or float16: what the model computes in."),
    batch_size: int = typer.Option(None, min=1, help="Images at a time. [default: 8 on a processor, else 32]"),
    shard: int = typer.Option(None, min=1, help="Images a file, at most lost when killed. [default: 512]"),
    threads: int = typer.Option(
        None, min=1, help="Threads of the model; part of the settings, as sums depend on it."
    ),
    readers: int = typer.Option(None, min=0, help="Threads that decode ahead. [default: one a processor, at most 4]"),
    device: str = typer.Option("auto", help="cpu, cuda, mps …; auto takes a GPU where there is one."),
    redo: bool = typer.Option(False, help="Make anew what was made of another model, setting, list or image."),
    check_contents: bool = typer.Option(
        False, help="Before going on, hash all images again, not only changed files."
    ),
    ray: str = typer.Option(None, help="Spread over a Ray cluster: local, auto, or its address."),
    workers: int = typer.Option(2, min=1, help="With --ray: how many workers hold the model."),
    gpus_per_worker: float = typer.Option(0.0, min=0.0, help="With --ray: GPUs, or a share of one, for each worker."),
) -> None:
    """Explain a whole dataset into Parquet that can be asked again without the model (finercam.open_run)."""
    from finercam.commands.console import complain, progress
    from finercam.commands.explain import load
    from finercam.run import Cluster, explain_dataset

    loaded = load(model, _device(device, ray, gpus_per_worker), size)
    begun = time.perf_counter()
    with progress(2) as bar:
        task = bar.add_task("explaining", total=None)
        outcome = explain_dataset(
            data,
            loaded,
            out,
            split=split,
            limit=limit,
            redo=redo,
            check_contents=check_contents,
            readers=readers,
            cluster=None if ray is None else Cluster(ray, workers, gpus_per_worker),
            model_string=model,
            size=size,
            progress=lambda at, total: bar.update(task, completed=at, total=total),
            tell=lambda line: complain(line, None if bar.disable else bar.console),
            method=method,
            target=target if target in ("prediction", "label") else _class(target, loaded),
            against=[_class(name, loaded) for name in against or ()],
            gamma=gamma,
            gammas=_numbers(gammas),
            references=references,
            num_references=num_references,
            weights=weights,
            preset=preset,
            keep=keep,
            layer=layer or None,
            fusion=fusion,
            top=top,
            precision=precision,
            batch=batch_size,
            shard=shard,
            threads=threads,
            device="cuda" if ray is not None and gpus_per_worker > 0 else _kind(loaded),
        )
    _report(outcome, out, time.perf_counter() - begun)
    if outcome.failed:
        raise typer.Exit(1)


def _report(outcome: Outcome, out: str, seconds: float) -> None:
    """The summary: a line a status, with the first image of each that failed."""
    from finercam.commands.console import print_table
    from finercam.run.rows import STATUSES

    rows = []
    for status in STATUSES:
        if status in outcome.counts:
            path, error = outcome.examples.get(status, ("", STATUSES[status]))
            rows.append((status, f"{outcome.counts[status]:,}", error, path))
    print_table(["status", "images", "what", "first"], rows, right=["images"])
    for count, what in (
        (outcome.same_content, "have the same content as another image"),
        (outcome.unknown_labels, "have a label that the model does not know"),
        (outcome.halved, "batches did not fit into memory and were halved; their last bits may differ"),
    ):
        if count:
            typer.echo(f"{count:,} {what}")
    rate = f", {outcome.explained_now:,} now, {outcome.explained_now / seconds:.1f} a second" if seconds else ""
    typer.echo(f"{sum(outcome.counts.values()):,} rows{rate}: {Path(out) if '://' not in out else out}")


def _device(device: str, ray: str | None, gpus: float) -> str:
    """With Ray the driver holds the model only to check what is asked."""
    return "cpu" if ray is not None and device == "auto" else device


def _kind(loaded: LoadedModel) -> str:
    return next((p.device.type for p in loaded.model.parameters()), "cpu")


def _class(typed: str, loaded: LoadedModel) -> Any:
    """A class as typed: a name, or an id where no class has that name."""
    names = loaded.class_names
    return int(typed) if typed.strip().isdecimal() and typed not in (names or ()) else typed


def _numbers(typed: str | None) -> list[float]:
    from finercam.errors import FinerCAMError

    try:
        return [float(part) for part in (typed or "").split(",") if part.strip()]
    except ValueError:
        raise FinerCAMError(f"gammas {typed!r}: expected numbers, as in 0.3,0.9") from None
