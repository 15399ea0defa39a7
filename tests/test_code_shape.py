"""The package stays small and flat: lines in all, lines and parameters of a function, no mocks in shipped code."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "finercam"
LINES = 35_000
"""Lines of Python in the package: room for traits, drop-ins and exports, to be drawn in when they have landed."""
LONGEST, USUAL, SHARE = 60, 22, 0.9
"""Lines of the longest function, and lines that most functions do not exceed.

Of a command the lines after its signature count: the signature declares one option a line."""
PARAMETERS = 10
"""Parameters of a function; commands have one for each option."""


PUBLIC = ("evaluation/evaluate.py evaluate", "explainer.py __init__")
"""Keyword-only interfaces with one parameter for each setting of a user."""


class Function(NamedTuple):
    place: str
    lines: int
    parameters: int


def functions() -> list[Function]:
    found = []
    for file in sorted(SOURCE.rglob("*.py")):
        name = file.relative_to(SOURCE).as_posix()
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                command = name.startswith("commands/") and not node.name.startswith("_")
                first = node.body[0].lineno if command else node.lineno
                named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                count = sum(argument.arg not in ("self", "cls") for argument in named)
                lines = (node.end_lineno or 0) - first + 1
                found.append(Function(f"{name} {node.name}", lines, 0 if command else count))
    return found


FUNCTIONS = functions()


def test_the_package_does_not_grow():
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in SOURCE.rglob("*.py"))
    assert lines <= LINES


def test_no_function_is_longer_than_a_screen():
    assert [one for one in FUNCTIONS if one.lines > LONGEST] == []


def test_most_functions_are_short():
    short = sum(one.lines <= USUAL for one in FUNCTIONS)
    assert short >= SHARE * len(FUNCTIONS)


def test_no_function_but_a_command_has_many_parameters():
    assert [one for one in FUNCTIONS if one.parameters > PARAMETERS and one.place not in PUBLIC] == []


def test_shipped_code_has_no_mocks():
    found = [file.name for file in SOURCE.rglob("*.py") if "unittest" in file.read_text(encoding="utf-8")]
    assert found == []
