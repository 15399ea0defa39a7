"""`finercam app`: the web app, which only this machine can reach by default."""

from __future__ import annotations

import threading

import typer

from finercam.errors import FinerCAMError

__all__ = ["app"]


def app(
    host: str = typer.Option("127.0.0.1", help="Address to bind to; 0.0.0.0 lets other machines in."),
    port: int = typer.Option(None, min=1, max=65535, help="Port. [default: the first free one from 7860 on]"),
    model: list[str] = typer.Option(
        None, "--model", "-m", help="A model to offer, as for explain; may be repeated. The first is chosen at start."
    ),
    photo: list[str] = typer.Option(
        None, "--photo", help="A photo, folder or pattern to offer; may be repeated. The page opens on the first one."
    ),
) -> None:
    """Start the web app, in which photos, rival classes and γ are chosen."""
    from finercam.app.serve import is_local, serving
    from finercam.commands.pictures import find_pictures

    photos, complaints = find_pictures(photo or ())
    if complaints:
        raise FinerCAMError(complaints[0])
    with serving(host, port, model or (), photos) as address:
        typer.echo(f"finercam is at {address} (press Ctrl-C to stop)")
        if not is_local(host):
            typer.echo("Other machines can reach it; visitors can use only the models listed here.")
        threading.Event().wait()
