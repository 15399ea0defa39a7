"""What the commands print: tables of literal text on stdout, one-line complaints on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

from finercam.text import literal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

__all__ = ["complain", "print_table", "progress"]


def complain(message: object, console: Console | None = None) -> None:
    """Print one line on stderr, above the progress bar if its console is given."""
    line = f"finercam: {literal(message)}"
    if console is None:
        print(
            line.encode(sys.stderr.encoding or "utf-8", "replace").decode(sys.stderr.encoding or "utf-8"),
            file=sys.stderr,
        )
    else:
        console.print(line, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()) -> None:
    """Print a table whose cells are literal text: class and file names cannot style it or control the terminal.

    The lines of a cell stay beside those of the other cells of its row, even if a long name is folded.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for number, row in enumerate(rows):
        for lines in zip_longest(*(cell.split("\n") for cell in row), fillvalue=""):
            table.add_row(*(Text(literal(line)) for line in lines), style="dim" if number % 2 else "")
    console = Console(highlight=False)
    if not console.is_terminal:  # a pipe has no edge to fold at
        console.width = 200
    console.print(table)


def progress(total: int) -> Progress:
    """A progress bar on stderr. It prints nothing without a terminal, or if there is only one step."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, transient=True, disable=total < 2 or not console.is_terminal)
