"""`finercam page`: write a static page that explains photos in the visitor's browser."""

from __future__ import annotations

import tempfile
from pathlib import Path

import typer

__all__ = ["page"]


def page(
    model: str = typer.Option(..., "--model", "-m", help="The model; 'finercam models' lists the forms."),
    out: Path = typer.Option(..., "--out", "-o", help="Folder of the page, for any static file server."),
    runtime: Path = typer.Option(
        None, help="An unpacked onnxruntime-web. [default: fetched once by npm from its registry]"
    ),
    preset: str = typer.Option(None, help="fast (one layer), fine, measured or paper. [default: fine]"),
    method: str = typer.Option(None, help="Base method, one that is linear in the contrast. [default: the preset's]"),
    layer: list[str] = typer.Option(None, help="Target layer, by its dotted name, or stages; may be repeated."),
    fusion: str = typer.Option(
        None, help="How the maps of several layers are fused: mean, product, geometric or weighted."
    ),
    size: int = typer.Option(None, min=16, help="Input size in pixels instead of the model's."),
    title: str = typer.Option("Why this class and not that one?", help="Heading of the page."),
) -> None:
    """Write a page in which visitors explain their own photos; the model runs in the browser, without a server."""
    from finercam.commands.export import write_graph
    from finercam.page import write_page
    from finercam.page.runtime import find_runtime

    find_runtime(runtime)  # before the work
    settings = {"preset": preset, "method": method, "layer": layer or None, "fusion": fusion}
    with tempfile.TemporaryDirectory() as folder:
        written = write_graph(model, Path(folder) / "model.onnx", size, terms=True, **settings)
        index = write_page(written.file, out, runtime=runtime, title=title)
    typer.echo(f"{index}: {written.about['label']} at {', '.join(written.about['layers'])}")
    typer.echo(f"to see it: python -m http.server --directory {out} and open http://localhost:8000")
