"""`finercam app`: the web app, on this machine unless told otherwise."""

from __future__ import annotations

import threading

import typer

__all__ = ["app"]


def app(
    host: str = typer.Option("127.0.0.1", help="Address to bind to; 0.0.0.0 lets others in."),
    port: int = typer.Option(None, min=1, max=65535, help="Port. [default: the first free one from 7860 on]"),
    model: list[str] = typer.Option(
        None, "--model", "-m", help="A model to offer, as for explain; may be repeated. The first is chosen at start."
    ),
) -> None:
    """Open the web app: drop a photo, click a rival, drag γ."""
    from finercam.app.serve import is_local, serving

    with serving(host, port, model or ()) as address:
        typer.echo(f"finercam is at {address} (press Ctrl-C to stop)")
        if not is_local(host):
            typer.echo("others can reach it: they can ask the listed models only")
        threading.Event().wait()
