"""`finercam methods`: list the base methods."""

from __future__ import annotations

__all__ = ["methods"]


def methods() -> None:
    """List the methods that --method accepts."""
    import finercam.methods as registry
    from finercam.commands.console import print_table

    print_table(["method", "what it does"], [(name, registry.get(name).summary) for name in registry.names()])
