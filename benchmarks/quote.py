"""Tables that pages quote from docs/evaluation-appendix.md: `python -m benchmarks.quote` refreshes them.

A quotation is the text between `<!-- quote TABLE where COLUMN=VALUE/VALUE; … show COLUMN; … -->` and `<!-- /quote -->`. No number is
copied by hand, and a test fails when a page is out of date.
"""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
STUDY = DOCS / "evaluation-appendix.md"
PAGES = ("choosing.md", "evaluation.md")
QUOTE = re.compile(r"(<!-- quote (\S+) where (.*?) show (.*?) -->\n).*?(<!-- /quote -->)", re.DOTALL)


def read_table(study: str, name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table that follows `<!-- table:name -->`."""
    after = study.split(f"<!-- table:{name} -->")[1]
    lines = [line for line in after.split("<!-- end -->")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0], cells[2:]


def quoted(study: str, name: str, where: str, show: str) -> str:
    """The wanted rows and columns as a table, with rows in the order of the last condition's values."""
    header, rows = read_table(study, name)
    for condition in where.split("; "):
        column, _, values = condition.partition("=")
        place, wanted = header.index(column), values.split("/")
        rows = sorted((row for row in rows if row[place] in wanted), key=lambda row: wanted.index(row[place]))
        if not set(wanted) <= {row[place] for row in rows}:
            raise SystemExit(f"{STUDY.name}, table {name}: no row with {condition}")
    shown = [header.index(column) for column in show.split("; ")]
    ruler = ["---" if re.match(r"[A-Za-z]", rows[0][place]) else "--:" for place in shown]
    lines = [[header[place] for place in shown], ruler, *([row[place] for place in shown] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def refreshed(page: str, study: str) -> str:
    """The page with its quotations updated from the study."""
    return QUOTE.sub(lambda found: f"{found[1]}\n{quoted(study, found[2], found[3], found[4])}\n\n{found[5]}", page)


def main() -> None:
    study = STUDY.read_text(encoding="utf-8")
    for page in (DOCS / name for name in PAGES):
        page.write_text(refreshed(page.read_text(encoding="utf-8"), study), encoding="utf-8")


if __name__ == "__main__":
    main()
