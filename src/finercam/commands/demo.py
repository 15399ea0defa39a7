"""`finercam demo`: explain, evaluate and report with a built-in model, without any download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from finercam.errors import FinerCAMError

if TYPE_CHECKING:
    from finercam.models import LoadedModel

__all__ = ["demo"]

SEED = 4242
COLUMNS = (
    "discriminative_ap", "discriminative_pointing", "rd@5% held-out",
    "discriminative_energy", "shared_energy", "background_energy",
)  # fmt: skip


def demo(
    out: Path = typer.Option(Path("out/demo"), "--out", "-o", help="Folder for panels, maps, tables and the page."),
    model: str = typer.Option(
        "fieldguide/cnn", "--model", "-m", help="A built-in model: fieldguide/cnn, resnet or vit."
    ),
    count: int = typer.Option(6, min=1, max=48, help="How many pictures to explain."),
    evaluated: int = typer.Option(64, min=8, help="How many pictures to measure on."),
) -> None:
    """Explain painted birds, measure the maps where the deciding pixels are known, and write a page to open."""
    import torch

    from finercam.commands.console import print_table
    from finercam.data.fieldguide import Fieldguide, discriminative_parts
    from finercam.explainer import FinerCAM
    from finercam.export.folder import Folder
    from finercam.metrics import energy
    from finercam.models import load_model
    from finercam.report import write_report
    from finercam.text import percent

    if not model.startswith("fieldguide"):
        raise FinerCAMError(
            f"model {model!r}: the demo's pictures are Fieldguide's; 'finercam explain' takes any model"
        )
    loaded = load_model(model)
    birds = Fieldguide(count, seed=SEED)
    photos = [birds[index].open() for index in range(count)]
    labels = [birds.label(index) for index in range(count)]
    explain = FinerCAM(loaded.model, class_names=loaded.class_names, keep=8)
    images = torch.stack([loaded.preprocess(photo) for photo in photos])
    # The rival is the most probable other species of the same genus.
    logits = explain(images, target=labels).logits
    rivals = [max(birds.siblings(c), key=lambda d, y=y: float(y[d])) for c, y in zip(labels, logits, strict=True)]
    answer = explain(images, target=labels, against=[[d] for d in rivals], gamma=1.0)

    discriminative = torch.stack([torch.from_numpy(birds.contrast_mask(i, d)) for i, d in enumerate(rivals)])
    plain, finer = energy(answer.plain.maps, discriminative), energy(answer.maps, discriminative)
    folder, rows = Folder(out, model), []
    for i, (one, photo) in enumerate(zip(answer, photos, strict=True)):
        folder.add(one, f"bird-{i}", photo, preprocess=loaded.preprocess, source=birds[i].id)
        chance = float(one.probabilities[0, labels[i]])
        parts = ", ".join(discriminative_parts(labels[i], rivals[i]))
        rows.append([f"bird-{i}", one.target_names[0], percent(chance), one.reference_names[0][0], parts,
                     percent(float(plain[i])), percent(float(finer[i]))])  # fmt: skip
    folder.finish()
    typer.echo("Why this species, and not its sibling? How much of each map lies on the pixels that differ:\n")
    columns = ["picture", "species", "probability", "and not", "they differ in", "plain map", "finer map"]
    print_table(columns, rows, right=["probability", "plain map", "finer map"])

    _measure(loaded, evaluated, out)
    typer.echo("")
    typer.echo(f"panels and maps: {out}/bird-*.png, {out}/bird-*.npz")
    typer.echo(f"tables: {out / 'evaluation' / 'summary.md'}")
    names, title = [f"bird-{i}" for i in range(count)], "Why this species, and not its sibling?"
    page = write_report(
        answer,
        out / "index.html",
        names=names,
        labels=labels,
        images=photos,
        preprocess=loaded.preprocess,
        title=title,
    )
    typer.echo(f"open this page: {page.resolve()}")


def _measure(loaded: LoadedModel, count: int, out: Path) -> None:
    """Evaluate on other pictures and print how the maps compare with the plain map."""
    from finercam.commands.evaluate import print_lines
    from finercam.data.fieldguide import Fieldguide
    from finercam.evaluation import evaluate

    typer.echo(
        f"\nMeasured on {count} other pictures (▲ better and ▼ worse than the plain map, with the 95 % interval on one side of zero):\n"
    )
    lines = evaluate(
        Fieldguide(count, seed=SEED + 1),
        loaded,
        out / "evaluation",
        ["gradcam", "layercam"],
        ["paper", "pair"],
        ["contrastive", "rd"],
        redo=True,
    )
    print_lines(lines, COLUMNS)
