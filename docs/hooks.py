"""What happens to pages and docstrings before the site is built."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from griffe import Extension, Object

DIAGRAM = "![How data flows through finercam](images/architecture.png)"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The drawn diagram (`python -m benchmarks.pictures`) for its mermaid source: mermaid comes from a CDN."""
    return re.sub(r"```mermaid\n.*?```", DIAGRAM, markdown, flags=re.DOTALL)


class Doctests(Extension):
    """Doctests stand in docstrings as they are; for the page they become code blocks."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = "\n".join(_fenced(obj.docstring.value.splitlines()))


def _fenced(lines: list[str]) -> Iterator[str]:
    indent: int | None = None
    for line in [*lines, ""]:
        if indent is None and line.lstrip().startswith(">>>"):
            indent = len(line) - len(line.lstrip())
            yield from ("", "```pycon")
        elif indent is not None and not line.strip():
            yield "```"
            indent = None
        yield line[indent or 0 :]
