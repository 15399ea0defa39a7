"""`finercam export`: write a model with its explanation as an ONNX graph."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from finercam.errors import FinerCAMError

if TYPE_CHECKING:
    from finercam.export.onnx import Exported

__all__ = ["export", "write_graph"]


def export(
    model: str = typer.Option(..., "--model", "-m", help="The model; 'finercam models' lists the forms."),
    out: Path = typer.Option(..., "--out", "-o", help="The .onnx file to write."),
    method: str = typer.Option(None, help="Base method, one that reads gradients. [default: the preset's]"),
    gamma: float = typer.Option(None, help="Strength of the contrast, for the metadata. [default: the preset's]"),
    references: str = typer.Option(
        None, help="How rival classes are picked: predicted, similar, nearest or all. [default: predicted]"
    ),
    num_references: int = typer.Option(None, min=1, help="How many rival classes are picked. [default: 1]"),
    weights: str = typer.Option(None, help="How several rivals are weighted: mean or probability. [default: mean]"),
    preset: str = typer.Option(
        None, help="Defaults of the other options: fast, fine, measured or paper. [default: fine]"
    ),
    layer: list[str] = typer.Option(None, help="Target layer, by its dotted name, or stages; may be repeated."),
    fusion: str = typer.Option(
        None, help="How the maps of several layers are fused: mean, product, geometric or weighted."
    ),
    size: int = typer.Option(None, min=16, help="Input size in pixels instead of the model's."),
    terms: bool = typer.Option(
        False, help="Also give the maps for and against the target, from which every gamma follows."
    ),
) -> None:
    """Write a model with its explanation as an ONNX graph: image and question in, logits and maps out."""
    settings = {
        "method": method,
        "gamma": gamma,
        "references": references,
        "num_references": num_references,
        "weights": weights,
        "preset": preset,
        "layer": layer or None,
        "fusion": fusion,
    }
    written = write_graph(model, out, size, terms=terms, **settings)
    about = written.about
    typer.echo(f"{written.file}: {written.file.stat().st_size / 1e6:.1f} MB, {', '.join(about['outputs'])}")
    typer.echo(
        f"method {about['method']} at {', '.join(about['layers'])}, images of {about['size'][0]} × {about['size'][1]}"
    )
    typer.echo(
        f"its maps differ from FinerCAM's by at most {about['difference']:.1e} of their peak on example images"
    )


def write_graph(model: str, out: Path, size: int | None, *, terms: bool = False, **settings: Any) -> Exported:
    """Load a model and export it with an explainer of these settings."""
    import torch

    from finercam.commands.console import complain
    from finercam.commands.explain import load
    from finercam.explainer import FinerCAM
    from finercam.export.onnx import export_onnx

    loaded = load(model, "cpu", size)
    shape = loaded.preprocess.size
    if shape is None:
        raise FinerCAMError(
            f"model {model!r}: images keep their shape, and a graph needs one size; leave ?native out"
        )
    explain = FinerCAM(loaded.model, class_names=loaded.class_names, **settings)
    images = torch.rand(2, 3, *shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cannot be exported")  # printed below, as one line
        name = loaded.name or model
        written = export_onnx(explain, images, out, preprocess=loaded.preprocess, name=name, terms=terms)
    if written.about["note"] is not None:
        complain(written.about["note"])
    return written
