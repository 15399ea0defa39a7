"""Writes docs/cli.md out of the program's own help: `python docs/cli_page.py`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from finercam.cli import app
from finercam.commands.examples import EXAMPLES

PAGE = Path(__file__).with_name("cli.md")

HEAD = """\
# Command line

<!-- Written by docs/cli_page.py from the program's own help; do not edit it by hand. -->

`finercam COMMAND --help` prints the same text. Results are printed to the standard output, progress and errors to the
standard error. An error is one line. The exit status is 0, 1 if a part of the work failed (for example a picture that
cannot be read), and 2 if the command cannot be carried out as written.
"""


def page() -> str:
    """The whole page as Markdown."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group, info_name="finercam")
    return "\n".join(
        [HEAD, *(line for name in group.commands for line in section(group.commands[name], name, context))]
    )


def section(command: Any, name: str, parent: Any) -> Iterator[str]:
    """One command: what it does, its usage and examples, and a table of arguments and options."""
    context = typer.Context(command, info_name=name, parent=parent)
    yield f"## finercam {name}\n"
    yield f"{' '.join(command.help.split())}\n"
    yield "```sh"
    yield from EXAMPLES[name]
    yield "```\n"
    records = [parameter.get_help_record(context) for parameter in command.get_params(context)]
    rows = [record for record in records if record and "--help" not in record[0]]
    if rows:
        yield "| argument or option | meaning |\n|---|---|"
        yield from (f"| `{names.replace('|', '/')}` | {literal(text)} |" for names, text in rows)
        yield ""


def literal(text: str) -> str:
    """Text on one line that Markdown shows as it is."""
    return re.sub(r"([][|<>*_])", r"\\\1", " ".join(text.split()))


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
