"""`finercam concept` end to end: panels of texts, the audit's table, and one-line complaints."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finercam.cli import app
from finercam.data.fieldguide import Fieldguide


def run(*arguments: object):
    return CliRunner().invoke(app, ["concept", *(str(argument) for argument in arguments)])


def test_texts_are_explained_against_the_general_word(tmp_path: Path) -> None:
    Fieldguide(1, 3).image(0).save(tmp_path / "bird.png")
    done = run(tmp_path / "bird.png", "--text", "orange legs", "--text", "red crest", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    index = json.loads((tmp_path / "out" / "explanations.json").read_text())
    asked = [(one["target"]["name"], one["references"][0]["name"], one["gamma"]) for one in index["explanations"]]
    assert asked == [("orange legs", "bird", 0.3), ("red crest", "bird", 0.3)]
    assert all((tmp_path / "out" / one["files"]["panel"]).stat().st_size > 1000 for one in index["explanations"])
    assert "value-attention" in json.dumps(index)


def test_a_broken_picture_does_not_lose_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    Fieldguide(1, 3).image(0).save(tmp_path / "b.png")
    done = run(tmp_path, "--text", "red crest", "--out", tmp_path / "out")
    assert done.exit_code == 1
    assert "a.png" in done.stderr
    assert "1 explained" in done.stdout


def test_the_audit_lists_the_traits_of_a_pair() -> None:
    done = run("--audit", "Red-crested Pippin", "Plain Pippin")
    assert done.exit_code == 0, done.output
    rows = [line for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert len(rows) == 6
    assert any("red crest" in row for row in rows)
    assert "why Red-crested Pippin and not Plain Pippin" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give pictures, --text TEXT and --out DIR"),
        (["x.png", "--text", "bird", "--out", "o"], "both 'bird'"),
        (["--audit", "Blue Jay", "Plain Pippin"], "no Fieldguide species"),
        pytest.param(
            ["x.png", "--text", "red crest", "--out", "o", "--model", "open_clip/none/none"],
            "no such model",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["x.png", "--text", "red crest", "--out", "o", "--model", "open_clip/ViT-B-32"],
            "ViT-B-32 has the weights openai, ",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["x.png", "--text", "red crest", "--out", "o", "--model", "open_clip/convnext_tiny/x"],
            "convnext_tiny has no published weights; use ?pretrained=false",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_is_missing_is_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    arguments = [str(tmp_path / one) if one in ("x.png", "o") else one for one in arguments]
    if arguments and arguments[0].endswith("x.png"):
        Fieldguide(1, 3).image(0).save(arguments[0])
    done = run(*arguments)
    assert done.exit_code == 2
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_an_open_clip_string_is_explained(tmp_path: Path) -> None:
    """Random weights: what counts is that the string, with its options, reaches the model and its tokenizer."""
    Fieldguide(1, 3).image(0).save(tmp_path / "bird.png")
    model = "open_clip/ViT-S-32-alt?pretrained=false&image_size=64"
    done = run(tmp_path / "bird.png", "--text", "red crest", "--out", tmp_path / "out", "--model", model)
    assert done.exit_code == 0, done.output
    (one,) = json.loads((tmp_path / "out" / "explanations.json").read_text())["explanations"]
    assert one["target"]["name"] == "red crest" and one["references"][0]["name"] == "bird"
