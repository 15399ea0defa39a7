"""A run in the formats of other tools."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from finercam.cli import app
from finercam.export.formats import FORMATS


def test_a_run_is_exported_by_the_same_command(tmp_path, pictures_in, saved_model):
    data = pictures_in(tmp_path / "data", 3)
    command = ["run", str(data), "--model", str(saved_model), "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(
        app, [*command, *(word for name in FORMATS if name != "dataset" for word in ("--export", name))]
    )
    assert done.exit_code == 0, done.output
    coco = json.loads((tmp_path / "run" / "export" / "coco.json").read_text())
    assert [(one["file_name"], one["width"]) for one in coco["images"]] == [
        ("robin/001.png", 20), ("wren/000.png", 20), ("wren/002.png", 20)
    ]  # fmt: skip
    assert sorted(path.name for path in (tmp_path / "run" / "export").iterdir()) == [
        "coco.json", "label-studio.json", "rasters", "regions.csv"
    ]  # fmt: skip
    assert CliRunner().invoke(app, [*command, "--export", "cocoa"]).exit_code == 2
