"""Tables on the terminal: literal text, and numbers beside the names they belong to."""

import pytest

from finercam.commands.console import print_table

ROWS = [
    (
        "bird.jpg",
        "Poecile atricapillus (Black-capped Chickadee)\nPoecile carolinensis (Carolina Chickadee)",
        "76 %\n5.0 %",
        "Poecile atricapillus (Black-capped Chickadee)",
    ),
]


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")


def test_a_number_stands_beside_the_name_it_belongs_to_at_80_columns(narrow, capsys):
    print_table(["image", "prediction", "probability", "target"], ROWS, right=["probability"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80 and len(lines) > 4  # the names are folded
    first, second = (next(line for line in lines if number in line) for number in ("76 %", "5.0 %"))
    assert "Poecile atri" in first and "Poecile caro" in second


def test_no_escape_of_a_name_reaches_the_terminal(capsys):
    print_table(["name"], [["\x1b[31mred\x07\nsecond"]])
    said = capsys.readouterr().out
    assert "\x1b" not in said and "<U+001B>[31mred<U+0007>" in said and "second" in said
