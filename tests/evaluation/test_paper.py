"""The paper's table from lines whose numbers are known."""

from __future__ import annotations

import csv
import io
import math

from finercam.evaluation.paper import paper_csv, paper_markdown, paper_rows
from finercam.evaluation.summary import CHANCE, CONTROL, Line

SETTINGS = {"dataset": "birds | seen", "metrics": ["deletion", "rd", "localisation"]}
LINES = [
    Line("gradcam", "plain", "deletion", 0.079, 0.07, 0.09, 9),
    Line("gradcam", "paper", "deletion", 0.076, 0.07, 0.09, 9, -0.003, -0.004, -0.002),
    Line("gradcam", "plain", "rd@5% similar", 0.174, 0.1, 0.2, 9),
    Line("gradcam", "paper", "rd@5% similar", 0.192, 0.1, 0.2, 9, 0.018, -0.01, 0.03),
    Line("gradcam", "plain", "energy", 0.5, 0.4, 0.6, 9),
    Line("gradcam", "paper", "energy", 0.4, 0.3, 0.5, 9, -0.1, -0.2, -0.05),
    Line(CONTROL, "uniform", "energy", 0.2, 0.1, 0.3, 9),
    Line(CHANCE, "", "energy", 0.2, 0.1, 0.3, 9),
]


def test_a_row_is_a_method_and_a_contrast_with_both_means_and_sure_gains_marked():
    (row,) = paper_rows(LINES, SETTINGS)
    assert (row.method, row.contrast) == ("gradcam", "paper")
    page = paper_markdown([row], "The set-up.")
    assert page.startswith("The set-up.\n\n| dataset | method | contrast | Del ↓ | RD@5 ↑ | RD@10 ↑ | Loc ↑ |\n")
    cells = "0.079 → 0.076 ▲ | 0.174 → 0.192 | undefined on every picture | 0.500 → 0.400 ▼ |"
    assert rf"| birds \| seen | Grad-CAM | paper | {cells}" in page
    assert "energy in the object's mask" in page


def test_a_box_goes_before_a_mask_as_in_the_paper():
    boxed = [Line("gradcam", c, "energy in box", value, 0, 1, 9) for c, value in (("plain", 0.6), ("paper", 0.7))]
    (row,) = paper_rows([*LINES, *boxed], SETTINGS)
    assert [line.mean for line in row.cells["Loc"]] == [0.6, 0.7]
    assert "energy in the box" in paper_markdown([row], "")


def test_why_a_number_is_missing_is_said():
    lines = [line for line in LINES if line.metric == "deletion"]
    (row,) = paper_rows(lines, {"dataset": "birds", "metrics": ["deletion"]})
    assert {name: cell for name, cell in row.cells.items() if name != "Del"} == dict.fromkeys(
        ("RD@5", "RD@10", "Loc"), "not measured"
    )
    settings = {"dataset": "birds", "metrics": ["paper"], "left out": {"localisation": "boxes or object masks"}}
    (row,) = paper_rows(lines, settings)
    assert (row.cells["Loc"], row.cells["RD@5"]) == ("no boxes or object masks", "undefined on every picture")


def test_the_csv_has_every_number_under_one_header_for_all_datasets():
    (row,) = paper_rows(LINES, SETTINGS)
    header, *values = csv.reader(io.StringIO(paper_csv([row])))
    found = dict(zip(header, values[0], strict=True))
    assert float(found["Del finer"]) == 0.076 and float(found["RD@5 difference_low"]) == -0.01
    assert (found["Loc measure"], found["RD@10 measure"], found["RD@10 plain"]) == (
        "energy",
        "undefined on every picture",
        "",
    )
    nothing = paper_rows([line for line in LINES if line.metric == "energy"], SETTINGS | {"dataset": "other"})
    assert next(csv.reader(io.StringIO(paper_csv(nothing)))) == header
    assert not any(math.isnan(float(found[f"Del {side}"])) for side in ("plain", "finer", "difference"))
