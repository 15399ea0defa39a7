"""The command line. Each command is a file in `finercam.commands`, a line here and examples in `commands/examples.py`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from finercam.commands.app import app as web_app
from finercam.commands.concept import concept
from finercam.commands.demo import demo
from finercam.commands.evaluate import evaluate
from finercam.commands.examples import epilog
from finercam.commands.explain import explain
from finercam.commands.export import export
from finercam.commands.guide import guide
from finercam.commands.methods import methods
from finercam.commands.models import models
from finercam.commands.page import page
from finercam.commands.probe import probe
from finercam.commands.report import report
from finercam.commands.run import run
from finercam.commands.traits import traits
from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["app", "main"]

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class OneLineErrors(TyperGroup):
    """Prints errors that the user can fix as one line on stderr, with exit status 2 and without a traceback."""

    def main(
        self, args: Sequence[str] | None = None, *more: Any, standalone_mode: bool = True, **options: Any
    ) -> Any:
        if not standalone_mode:
            return super().main(args, *more, standalone_mode=False, **options)
        try:
            typed = list(sys.argv[1:] if args is None else args) or ["--help"]
            status = super().main(typed, *more, standalone_mode=False, **options)
            sys.stdout.flush()
        except FinerCAMError as error:
            status = _complain(str(error), MISUSED)
        except _USAGE as error:
            status = _complain(error.format_message(), error.exit_code)
        except (typer.Abort, KeyboardInterrupt):
            status = _complain("interrupted", INTERRUPTED)
        except BrokenPipeError:  # as in `finercam methods | head -1`
            status = _without_stdout(FAILED)
        except OSError as error:  # as in `finercam methods > /dev/full`
            status = _complain(f"{error.filename or 'the output'}: {one_line(error)}", _without_stdout(MISUSED))
        sys.exit(status if isinstance(status, int) else 0)


# The base class of usage errors. Some versions of typer depend on click, others contain a copy of it.
_USAGE: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

app = typer.Typer(
    name="finercam",
    cls=OneLineErrors,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Why this class and not that one? Contrastive class activation maps for any image classifier.",
)


def _version(wanted: bool) -> None:
    if wanted:
        from finercam._version import __version__

        typer.echo(f"finercam {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None: ...


_COMMANDS = {
    "explain": explain,
    "evaluate": evaluate,
    "concept": concept,
    "probe": probe,
    "run": run,
    "report": report,
    "export": export,
    "traits": traits,
    "guide": guide,
    "page": page,
    "app": web_app,
    "demo": demo,
    "models": models,
    "methods": methods,
}
for _name, _command in _COMMANDS.items():
    app.command(_name, epilog=epilog(_name))(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line. Raises SystemExit: 0, 1 (some of the work failed), 2 (wrong use) or 130 (interrupted)."""
    app(args=arguments, prog_name="finercam")


def _without_stdout(status: int) -> int:
    """Replace stdout, so that the interpreter does not fail again when it flushes it at exit; returns the status."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _complain(message: str, status: int) -> int:
    from finercam.commands.console import complain

    complain(message)
    return status


if __name__ == "__main__":
    main()
