"""The tables of an evaluation: Markdown, CSV and JSON, with the set-up at their head."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from finercam.evaluation.groups import HEADLINE
from finercam.evaluation.paper import paper_csv, paper_markdown, paper_rows
from finercam.evaluation.shards import Shards
from finercam.evaluation.summary import Line, direction, significance_marker, summarise
from finercam.io import write_whole

if TYPE_CHECKING:
    from finercam.evaluation.plan import Plan

__all__ = ["cell", "describe", "heading", "headline", "markdown", "table_rows", "to_csv", "write_summary"]

NO_CLASS = "the model has no class"
"""How the error of a picture begins whose class the model lacks."""


def write_summary(shards: Shards, plan: Plan, correct_only: bool) -> list[Line]:
    """Summarise all parts and write the tables beside them."""
    table, options = shards.table(), plan.options
    lines = summarise(table, baseline=options.baseline, correct_only=correct_only, seed=options.seed)
    setting = describe(plan.settings | {"layers": _layers(plan)}, table.to_pylist())
    if correct_only:
        setting += " Only pictures that the model names correctly count."
    names = list(dict.fromkeys(line.metric for line in lines))
    write_whole(shards.out / "summary.md", markdown(lines, names, setting))
    write_whole(shards.out / "summary.csv", to_csv(lines))
    table_of_paper = paper_rows(lines, plan.settings)
    write_whole(shards.out / "paper.md", paper_markdown(table_of_paper, setting))
    write_whole(shards.out / "paper.csv", paper_csv(table_of_paper))
    numbers = [{key: _json_number(value) for key, value in vars(line).items()} for line in lines]
    found = {"setting": setting, "settings": plan.settings, "lines": numbers}
    write_whole(shards.out / "summary.json", json.dumps(found, indent=1, allow_nan=False))
    return lines


def _layers(plan: Plan) -> Sequence[str]:
    named = plan.options.layer
    return plan.explain.layers or ((named,) if isinstance(named, str) else named or ("found automatically",))


def table_rows(lines: Sequence[Line], names: Sequence[str]) -> list[list[str]]:
    """A row a map: its method, its contrast and a cell for each of the metrics `names`."""
    cells = {(line.method, line.contrast, line.metric): line for line in lines}
    return [
        [method, contrast, *(cell(cells.get((method, contrast, name))) for name in names)]
        for method, contrast in dict.fromkeys((line.method, line.contrast) for line in lines)
    ]


def markdown(lines: Sequence[Line], names: Sequence[str], setting: str = "") -> str:
    """A Markdown table, a row a map; ▲ better or ▼ worse than plain, where the interval excludes no change."""
    head = ["method", "contrast", *(heading(name) for name in names)]
    ruler = ["---", "---", *["--:"] * len(names)]
    rows = [f"| {' | '.join(row)} |" for row in (head, ruler, *table_rows(lines, names))]
    return (f"{setting}\n\n" if setting else "") + "\n".join(rows) + "\n"


def heading(name: str) -> str:
    """A metric's name with the way that is better."""
    return f"{name} { ({'up': '↑', 'down': '↓'}.get(direction(name), '')) }".strip()


def cell(line: Line | None) -> str:
    """A mean, with ▲ or ▼ where its interval says that it is better or worse than the plain map's."""
    if line is None:
        return ""
    return f"{line.mean:.3f}{significance_marker(line)}"


def to_csv(lines: Sequence[Line]) -> str:
    """All lines with all intervals, as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(Line.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(line) for line in lines)
    return out.getvalue()


def describe(settings: dict[str, Any], rows: Sequence[dict[str, Any]]) -> str:
    """The set-up in one paragraph, for the head of every table; `rows` are those of the parts."""
    pictures = {row["index"]: row for row in rows if row.get("error") is None}
    errors = {row["index"]: row["error"] for row in rows if row.get("error") is not None}
    foreign = sum(error.startswith(NO_CLASS) for error in errors.values())
    left_out = f", {len(errors) - foreign} unreadable" if len(errors) > foreign else ""
    left_out += f", {foreign} of classes that the model lacks" if foreign else ""
    right = sum(row["label"] == row["prediction"] for row in pictures.values()) / max(1, len(pictures))
    stored = "; maps as a run kept them" if "run" in settings else ""
    against = "plain Grad-CAM of the last layer" if settings["baseline"] == "last" else "plain map of the same layers"
    return (
        f"{settings['dataset']} ({len(pictures)} pictures{left_out}), model "
        f"{settings['model']} (accuracy {right:.1%} on them), layer {', '.join(settings['layers'])}, target: the "
        f"{settings['target']}{stored}; pictures {settings['preprocess']}; removed pixels filled with "
        f"{settings['fill']}, ranked on the map before its ReLU; rival: the likeliest {settings['rival']}; compared with "
        f"the {against}; seed {settings['seed']}; finercam {settings['finercam']}, torch {settings['torch']}. 95 % "
        "intervals by bootstrap over pictures. Metrics that depend on the order of pixels alone stand first."
    )


def headline(lines: Sequence[Line], most: int = 6) -> list[str]:
    """The few columns that a terminal shows."""
    names = {line.metric for line in lines}
    return [name for name in HEADLINE if name in names][:most]


def _json_number(value: Any) -> Any:
    """JSON has neither NaN nor infinity, which a ratio of means can be."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
