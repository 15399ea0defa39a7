"""`finercam run`: explain every image of a dataset into Parquet files; the same command continues after a stop."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    model: str = typer.Option(..., "--model", "-m", help="The model; 'finercam models' lists the forms."),
    method: str = typer.Option(None, help="The method; 'finercam methods' lists them. [default: the preset's]"),
    target: str = typer.Option("prediction", help="Class to explain: prediction, label, or one class by name or id."),
    against: list[str] = typer.Option(None, help="Rival class, by name or id; may be repeated."),
    gamma: float = typer.Option(
        None, help="Strength of the contrast; 0 is the plain method. [default: the preset's]"
    ),
    gammas: str = typer.Option(
        None, help="For methods that are not linear: further values of gamma to keep, for example 0.3,0.9."
    ),
    references: str = typer.Option(
        None, help="How rival classes are picked: predicted, similar, nearest. [default: predicted]"
    ),
    num_references: int = typer.Option(None, min=1, help="How many rival classes are picked. [default: 1]"),
    weights: str = typer.Option(None, help="How several rivals are weighted: mean or probability. [default: mean]"),
    preset: str = typer.Option("measured", help="Where nothing else is said: fast, fine, measured or paper."),
    keep: int = typer.Option(
        0, min=0, help="Also keep the maps of this many of the most probable classes, for later questions."
    ),
    layer: list[str] = typer.Option(None, help="Target layer, by its dotted name, or stages; may be repeated."),
    fusion: str = typer.Option(None, help="Of several layers: mean, product, geometric or weighted."),
    size: int = typer.Option(None, min=16, help="Input size in pixels, instead of the model's own."),
    top: int = typer.Option(5, min=1, help="How many predictions a row lists."),
    split: str = typer.Option(None, help="Split of the dataset, if it has several."),
    limit: int = typer.Option(None, min=1, help="Only this many images, from the start of the list."),
    precision: str = typer.Option(
        "float32",
        help="Precision in which the model computes: float32, bfloat16 or float16. A line says if the maps differ.",
    ),
    batch_size: int = typer.Option(None, min=1, help="Images per batch. [default: 8 on a CPU, else 32]"),
    shard: int = typer.Option(
        None, min=1, help="Images per file of rows; if the run is killed, it loses at most one file. [default: 512]"
    ),
    threads: int = typer.Option(
        None, min=1, help="Threads of the model. A run has one value, because rounding depends on it."
    ),
    readers: int = typer.Option(
        None, min=0, help="Threads that decode pictures ahead. [default: one per CPU, at most 4]"
    ),
    device: str = typer.Option("auto", help="cpu, cuda, mps …; auto uses a GPU if there is one."),
    redo: bool = typer.Option(
        False, help="Explain images again that were explained with another model, setting, list or file."
    ),
    check_contents: bool = typer.Option(
        False, help="Before continuing, hash all images again, not only files whose size or time changed."
    ),
    ray: str = typer.Option(None, help="Use a Ray cluster: local, auto, or its address."),
    workers: int = typer.Option(2, min=1, help="With --ray: how many workers hold the model."),
    gpus_per_worker: float = typer.Option(0.0, min=0.0, help="With --ray: GPUs, or a share of one, for each worker."),
    export: list[str] = typer.Option(
        None, help="Also write OUT/export: coco, label-studio, regions, rasters or dataset; may be repeated."
    ),
) -> None:
    """Explain a whole dataset into Parquet files that answer further questions without the model (finercam.open_run).

    The run can be stopped at any moment; the same command continues it. Exit status: 0; 1 if images failed; 2 if the
    run is not possible; 130 after Ctrl-C; 143 after SIGTERM.
    """
    from finercam.commands.console import complain, progress
    from finercam.commands.explain import load
    from finercam.export.formats import checked_format
    from finercam.run import Cluster, explain_dataset, open_run
    from finercam.run.export import export_run

    formats = [checked_format(name) for name in export or ()]
    with _says_what_is_kept(out):
        cluster = None if ray is None else Cluster(ray, workers, gpus_per_worker)
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
                cluster=cluster,
                model_string=model,
                progress=lambda at, total: bar.update(task, completed=at, total=total),
                warn=lambda line: complain(line, None if bar.disable else bar.console),
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
    for name in formats:
        typer.echo(f"exported: {export_run(open_run(out), name)}")
    if outcome.failed:
        raise typer.Exit(1)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a run as Ctrl-C does."""


@contextmanager
def _says_what_is_kept(out: str) -> Iterator[None]:
    """Print what is kept and how to continue after Ctrl-C or SIGTERM."""
    from finercam.commands.console import complain

    def terminate(number: int, frame: Any) -> None:
        raise _Terminated

    main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, terminate) if main else None
    try:
        yield
    except KeyboardInterrupt as stop:
        terminated = isinstance(stop, _Terminated)
        complain(f"{'terminated' if terminated else 'interrupted'}; {_kept(out)}")
        raise typer.Exit(143 if terminated else 130) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before)


def _kept(out: str) -> str:
    """How many images a stopped run has saved, and how to continue."""
    from finercam.errors import FinerCAMError
    from finercam.run import open_run

    try:
        stopped = open_run(out)
        kept = sum(map(stopped.length, stopped.shards))
    except FinerCAMError:
        return f"nothing is in {out} yet; run the same command again to begin"
    return f"{out} keeps {kept:,} of {len(stopped):,} images; run the same command again to continue"


def _report(outcome: Outcome, out: str, seconds: float) -> None:
    """Print the number of images of each status, with the first image that failed."""
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
    """The device of this process. With Ray it only checks the question, so a CPU is enough."""
    return "cpu" if ray is not None and device == "auto" else device


def _kind(loaded: LoadedModel) -> str:
    return next((p.device.type for p in loaded.model.parameters()), "cpu")


def _class(typed: str, loaded: LoadedModel) -> Any:
    """The class that was typed: a name, or an id if no class has that name."""
    names = loaded.class_names
    return int(typed) if typed.strip().isdecimal() and typed not in (names or ()) else typed


def _numbers(typed: str | None) -> list[float]:
    from finercam.errors import FinerCAMError

    try:
        return [float(part) for part in (typed or "").split(",") if part.strip()]
    except ValueError:
        raise FinerCAMError(f"gammas {typed!r}: expected numbers, as in 0.3,0.9") from None
