"""`finercam evaluate` and `finercam demo`, with the built-in CNN."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from finercam.cli import app


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_evaluate_writes_the_table_and_goes_on(tmp_path):
    command = [
        "evaluate",
        "fieldguide:12",
        "--model",
        "fieldguide/cnn",
        "--metrics",
        "contrastive",
        "--out",
        tmp_path,
    ]
    first = run(*command, "--methods", "gradcam,layercam", "--contrasts", "pair")
    assert first.exit_code == 0, first.output
    assert "discr. energy" in first.stdout and "layercam" in first.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert "12 pictures" in summary["setting"] and "features" in summary["setting"]
    energy = {
        (line["method"], line["contrast"]): line["mean"]
        for line in summary["lines"]
        if line["metric"] == "discriminative_energy"
    }
    assert energy["gradcam", "pair"] > energy["gradcam", "plain"] > 3 * energy["chance", ""]
    again = run(*command, "--methods", "gradcam,layercam", "--contrasts", "pair")
    assert again.exit_code == 0 and json.loads((tmp_path / "summary.json").read_text())["lines"] == summary["lines"]
    other = run(*command, "--methods", "hirescam")
    assert other.exit_code == 2 and "other settings" in other.stderr and other.stderr.count("\n") == 1


def test_a_dataset_without_the_annotation_is_one_line(tmp_path):
    folder = tmp_path / "pictures" / "wren"
    folder.mkdir(parents=True)
    from PIL import Image

    Image.new("RGB", (32, 32)).save(folder / "a.png")
    done = run(
        "evaluate", tmp_path / "pictures", "--model", "fieldguide/cnn", "--metrics", "localisation",
        "--target", "prediction", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 2 and "needs boxes or object masks" in done.stderr


@pytest.mark.slow
def test_demo_ends_with_a_table_and_a_page(tmp_path):
    done = run("demo", "--out", tmp_path, "--count", 2, "--evaluated", 8)
    assert done.exit_code == 0, done.output
    assert "they differ in" in done.stdout and "rd@5% held-out" in done.stdout
    assert "open this page" in done.stdout and (tmp_path / "index.html").stat().st_size > 20_000
    assert (tmp_path / "bird-0.png").exists() and (tmp_path / "evaluation" / "summary.md").exists()
