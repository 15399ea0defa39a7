"""`finercam probe`: train a linear head over a frozen backbone, compare several, or read a head trained elsewhere."""

from __future__ import annotations

from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finercam.errors import FinerCAMError

if TYPE_CHECKING:
    from finercam.data import ImageDataset
    from finercam.models.backbone import Backbone
    from finercam.probe import ProbeResult

__all__ = ["probe"]

TEST_SHARE = 0.2
"""Share of the data held out for testing if a dataset has no test split."""


def probe(
    data: list[str] = typer.Argument(
        None, metavar="DATA", help="Dataset to train on, as in 'finercam evaluate'; with --compare: model folders."
    ),
    backbone: str = typer.Option(None, "--backbone", "-b", help="As --model elsewhere: timm/…, hf/…, open_clip/…."),
    out: Path = typer.Option(None, "--out", "-o", help="Model folder to write; with --compare: table.md or .csv."),
    pool: str = typer.Option(
        None,
        help="avg (mean of patches, as in the paper), tok (CLS), attn or own. [default: avg or tok, whichever has the "
        "lower validation loss]",
    ),
    native: bool = typer.Option(False, help="Keep the shape of each picture, in whole patches (the paper's set-up)."),
    size: int = typer.Option(None, min=16, help="Input size in pixels instead of the backbone's own."),
    max_side: int = typer.Option(1000, min=16, help="Longest side with --native."),
    normalise: str = typer.Option(None, help="imagenet or clip, instead of the backbone's own mean and deviation."),
    val: str = typer.Option(
        None, help="Dataset for choosing weight decay and pooling. [default: a share of DATA, see --val-share]"
    ),
    test: str = typer.Option(
        None, help="Dataset to measure on. [default: the test split of DATA, or a fifth of DATA]"
    ),
    method: str = typer.Option("lbfgs", help="lbfgs (full batch) or adamw."),
    weight_decay: list[float] = typer.Option(None, help="Weight decay to try; may be repeated. [default: a sweep]"),
    val_share: float = typer.Option(0.2, help="Share of the training pictures held out for validation."),
    precision: str = typer.Option("float32", help="float32 or float64, for training the head."),
    seed: int = typer.Option(0, help="Seed of the shares held out, and of adamw's batches."),
    cache: Path = typer.Option(None, help="Folder for features. [default: ~/.cache/finercam/features]"),
    batch_size: int = typer.Option(16, min=1, help="Pictures at a time."),
    device: str = typer.Option("auto", help="cpu, cuda, mps …; auto uses a GPU if there is one."),
    import_head: Path = typer.Option(
        None, help="A head trained elsewhere (weight, bias), to be combined with --backbone."
    ),
    classes: Path = typer.Option(None, help="Class names for --import-head, one a line."),
    compare: bool = typer.Option(False, "--compare", help="Print the accuracy of several probes as one table."),
) -> None:
    """Train a linear head on a frozen backbone and write the classifier as a model folder."""
    places = data or []
    if compare:
        _compare(places, out)
        return
    if backbone is None or out is None:
        raise FinerCAMError("probe needs --backbone and --out (or --compare and the folders of earlier probes)")
    if import_head is None and len(places) != 1:
        raise FinerCAMError(f"probe trains on one dataset, not {len(places)}; name it as in 'finercam evaluate'")
    if import_head is not None and (places or classes is None):
        raise FinerCAMError("--import-head takes --classes, a file with one name a line, and no dataset")
    # Datasets first: a wrong path is reported before a backbone is downloaded.
    sets = _datasets(places[0], val, test) if import_head is None else {}
    loaded = _backbone(
        backbone, pool, native=native, size=size, max_side=max_side, normalise=normalise, device=device
    )
    if import_head is not None:
        from finercam.probe import import_head as read

        model, names = read(import_head, classes, loaded, out)
        typer.echo(f"{out}: {len(names)} classes over {loaded.name}, {model.head.in_features} features")
        return
    result = _run(
        sets,
        loaded,
        out,
        is_pool_given=pool is not None or "pool=" in backbone,
        method=method,
        weight_decay=weight_decay or (),
        val_share=val_share,
        precision=precision,
        seed=seed,
        cache=cache,
        batch_size=batch_size,
    )
    _print(result)


def _run(
    sets: dict[str, ImageDataset], backbone: Backbone, out: Path, *, is_pool_given: bool, **options: Any
) -> ProbeResult:
    from finercam.commands.console import progress
    from finercam.probe import poolings
    from finercam.probe import probe as run

    backbones = [backbone] if is_pool_given else poolings(backbone)
    with progress(sum(map(len, sets.values()))) as bar:
        totals = {split: len(dataset) * (1 if split == "test" else len(backbones)) for split, dataset in sets.items()}
        tasks = {split: bar.add_task(f"features, {split}", total=total) for split, total in totals.items()}
        return run(
            sets["train"],
            backbones,
            out,
            val=sets.get("val"),
            test=sets.get("test"),
            test_share=0.0 if "test" in sets else TEST_SHARE,
            progress=lambda split, done, _: bar.update(tasks[split], advance=done),
            **options,
        )


def _print(result: ProbeResult) -> None:
    from finercam.commands.console import complain, print_table

    rows = [
        [split, f"{100 * one['top1']:.2f} %", f"{100 * one['top5']:.2f} %", f"{one['count']:,.0f}"]
        for split, one in result.accuracy.items()
    ]
    print_table(["split", "top-1", "top-5", "pictures"], rows, right=["top-1", "top-5", "pictures"])
    for pool, (top1, loss) in result.pools.items():
        chosen = " (chosen)" if pool == result.model.backbone.pool else ""
        typer.echo(f"pooling {pool}{chosen}: validation loss {loss:.3f}, top-1 {100 * top1:.1f} %")
    typer.echo(f"weight decay {result.weight_decay:g}; {len(result.classes)} classes; written: {result.out}")
    for split, errors in result.errors.items():
        for _, name, reason in errors[:5]:
            complain(f"{split}: {name}: {reason}")
        if len(errors) > 5:
            complain(f"{split}: {len(errors) - 5} more pictures could not be read")
    if result.errors:
        raise typer.Exit(1)


def _compare(folders: list[str], out: Path | None) -> None:
    from finercam.commands.console import print_table
    from finercam.probe.compare import grid, markdown, read_probe, to_csv

    if not folders:
        raise FinerCAMError("--compare needs the folders that 'finercam probe' wrote")
    if out is not None and out.suffix not in (".md", ".csv"):
        raise FinerCAMError(f"--compare writes a .md or .csv file, not {str(out)!r}")
    rows = [read_probe(folder) for folder in folders]
    header, lines = grid(rows)
    print_table(header, lines, right=header[2:])
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(markdown(rows) if out.suffix == ".md" else to_csv(rows), encoding="utf-8")
        typer.echo(f"written: {out}")


def _backbone(text: str, pool: str | None, *, device: str, **options: Any) -> Backbone:
    import torch

    from finercam.models.backbone import load_backbone

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_backbone(text, pool, device=device, **options)


def _datasets(data: str, val: str | None, test: str | None) -> dict[str, ImageDataset]:
    """The datasets by split. If DATA has splits and names none, `train` is trained on and `test` is measured."""
    from finercam.data import open_dataset

    whole = "split=" in data.partition("?")[2]
    train = None if whole else _split(data, "train")
    sets = {"train": train or open_dataset(data)}
    if val is not None:
        sets["val"] = open_dataset(val)
    if test is not None:
        sets["test"] = open_dataset(test)
    elif train is not None:
        with suppress(FinerCAMError):  # a dataset may have a train split only
            if (measured := _split(data, "test")) is not None:
                sets["test"] = measured
    return sets


def _split(data: str, split: str) -> ImageDataset | None:
    """A split of a dataset, or None if the dataset has no splits."""
    from finercam.data import open_dataset
    from finercam.data.folder import ImageFolder

    try:
        return open_dataset(data, split)
    except FinerCAMError:
        dataset = open_dataset(data)  # raises if the path itself is wrong
        unsplit = isinstance(dataset, ImageFolder) and dataset.name == dataset.root.name
        if unsplit or "split" not in signature(type(dataset)).parameters:
            return None
        raise
