"""`finercam models`: list the forms of --model."""

from __future__ import annotations

__all__ = ["models"]


def models() -> None:
    """List what --model accepts: built-in models, model folders and model zoos."""
    from finercam.commands.console import print_table
    from finercam.models.sources import model_sources

    print_table(["model", "what it is"], model_sources())
