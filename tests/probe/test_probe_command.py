"""`finercam probe` as it is typed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from finercam import load_model
from finercam.cli import OneLineErrors
from finercam.commands.probe import probe
from finercam.images import Preprocess
from finercam.models import save_directory
from finercam.models.builtin import PatchCNN

Writer = Callable[..., Path]


@pytest.fixture
def typed() -> Callable[..., Any]:
    app = typer.Typer(cls=OneLineErrors, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(probe)
    app.command()(lambda: None)  # one command alone would take the place of the group
    return lambda *words: CliRunner().invoke(app, ["probe", *map(str, words)])


@pytest.fixture
def model(toys: Any, tmp_path: Path) -> Path:
    options = {"num_classes": 2, "widths": [8, 8, 16, 24]}
    architecture = {"library": "builtin", "name": "cnn", "kwargs": options}
    return save_directory(
        tmp_path / "model", toys.seeded(PatchCNN(2, (8, 8, 16, 24))), architecture=architecture,
        class_names=["a", "b"], preprocess=Preprocess((32, 32)),
    )  # fmt: skip


def test_train_and_compare(typed: Any, model: Path, pictures_of: Writer, tmp_path: Path) -> None:
    data = tmp_path / "gulls"
    pictures_of(data / "train", 8)
    pictures_of(data / "test", 3, 1)
    out, cache = tmp_path / "out", tmp_path / "cache"
    told = typed(data, "--backbone", model, "--out", out, "--cache", cache)
    assert told.exit_code == 0, told.output
    lines = {line.split()[0]: line.split() for line in told.output.splitlines() if line.split()}
    assert lines["test"] == ["test", "100.00", "%", "100.00", "%", "9"]
    assert lines["train"][-1] == "24"
    assert load_model(out).class_names == ["blue", "green", "red"]
    pictures_of(tmp_path / "finches", 10)
    told = typed(
        tmp_path / "finches", "-b", model, "-o", tmp_path / "other", "--cache", cache, "--weight-decay", "0.01"
    )
    assert told.exit_code == 0, told.output
    lines = {line.split()[0]: line.split() for line in told.output.splitlines()}
    assert lines["test"] == ["test", "100.00", "%", "100.00", "%", "6"]  # a fifth of them
    told = typed("--compare", out, tmp_path / "other", "--out", tmp_path / "table.md")
    assert told.exit_code == 0, told.output
    assert told.output.split("\n")[0].split() == ["backbone", "pool", "gulls", "finches"]
    assert "| gulls | finches |" in (tmp_path / "table.md").read_text()


def test_broken_pictures_are_told_and_the_work_is_kept(
    typed: Any, model: Path, pictures_of: Writer, tmp_path: Path
) -> None:
    data = pictures_of(tmp_path / "gulls", 6)
    (data / "red" / "000.png").write_bytes(b"nothing")
    told = typed(data, "-b", model, "-o", tmp_path / "out", "--cache", tmp_path / "cache")
    assert told.exit_code == 1
    assert "red/000.png" in told.output
    assert load_model(tmp_path / "out").class_names == ["blue", "green", "red"]


def test_import_head(typed: Any, model: Path, tmp_path: Path) -> None:
    torch.save({"linear.weight": torch.eye(3, 24), "linear.bias": torch.zeros(3)}, tmp_path / "head.pth")
    (tmp_path / "names.txt").write_text("a\nb\nc\n")
    told = typed(
        "--import-head",
        tmp_path / "head.pth",
        "--classes",
        tmp_path / "names.txt",
        "-b",
        model,
        "-o",
        tmp_path / "out",
    )
    assert told.exit_code == 0, told.output
    assert "3 classes" in told.output
    assert load_model(tmp_path / "out").class_names == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["somewhere"], "probe needs --backbone and --out"),
        (["one", "two", "-b", "MODEL", "-o", "out"], "trains on one dataset, not 2"),
        (["no/such/place", "-b", "MODEL", "-o", "out"], "no/such/place does not exist"),
        pytest.param(
            ["fieldguide:9", "-b", "timm/vit_tiny_patch16_225", "-o", "out"], "no such model", marks=pytest.mark.slow
        ),
        (["fieldguide:9", "-b", "MODEL", "-o", "out", "--pool", "tok"], "cannot pool as 'tok'"),
        (["--import-head", "head.pth", "-b", "MODEL", "-o", "out"], "--classes"),
        (["--compare"], "--compare needs the folders"),
        (["--compare", "nowhere"], "nowhere is not a model folder"),
        (["--compare", "MODEL", "--out", "table.txt"], ".md or .csv"),
        (["fieldguide:9", "-b", "MODEL", "-o", "out", "--device", "gpu9"], "device 'gpu9'"),
    ],
)
def test_misuse_is_one_line_and_status_2(typed: Any, model: Path, words: list[str], message: str) -> None:
    told = typed(*(str(model) if word == "MODEL" else word for word in words))
    assert told.exit_code == 2
    assert message in told.output
    assert len(told.output.strip().splitlines()) == 1
    assert "Traceback" not in told.output
