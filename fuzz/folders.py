"""For `fuzz.malformed`: a small finished run to be damaged, and commands with arguments of every kind."""

from __future__ import annotations

import contextlib
import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["command", "copied_run", "make_run"]

NAMES = ["wren", "robin", "finch", "heron", "swift"]
COMMANDS = ("explain", "run", "evaluate", "probe", "report", "concept", "methods", "models")
TYPED = ["", "x", "0", "-1", "1e999", "nan", "9" * 40, "wren", "robin", "..", "\udcff", "\x1b[2J", "a" * 5000]
TYPED += [
    "gradcam",
    "scorecam",
    "features",
    "cub:.",
    "folder:.",
    "list:",
    "fieldguide:3",
    "fieldguide/cnn",
    "[]",
    "💥",
]

_base: list[Path] = []


def make_run(place: Path) -> None:
    """A tiny model, four pictures and a finished run of them; `copied_run` copies it."""
    import torch

    from finercam.data.fieldguide import Fieldguide
    from finercam.images import Preprocess
    from finercam.models import load_model
    from finercam.models.builtin import PatchCNN
    from finercam.models.directory import save_directory
    from finercam.run import explain_dataset

    torch.manual_seed(3)
    architecture = {"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 5, "widths": [4, 6, 8, 8]}}
    model = save_directory(
        place / "model", PatchCNN(5, (4, 6, 8, 8)), architecture=architecture, class_names=NAMES,
        preprocess=Preprocess((16, 16)),
    )  # fmt: skip
    birds = Fieldguide(4)
    for index in range(4):
        file = place / "data" / NAMES[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        birds.image(index).resize((20, 20)).save(file)
    explain_dataset(place / "data", load_model(str(model)), place / "run", shard=2, batch=2, threads=1)
    _base[:] = [place]


def copied_run(place: Path) -> tuple[Path, Path]:
    """A copy of the run and of its pictures in `place`: the run's folder and the model's."""
    for name in ("run", "data", "model"):
        shutil.copytree(_base[0] / name, place / name)
    return place / "run", place / "model"


def command(draw: random.Random, place: Path) -> Callable[[], Any]:
    """A command of the command line with odd arguments: it ends with status 0, 1 or 2 and without a traceback."""
    from typer.main import get_command

    from finercam.cli import app

    copied_run(place)
    paths = [
        str(place / name) for name in ("run", "data", "model", "data/wren/0.png", "run/manifest.json", "nothing")
    ]
    (place / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + draw.randbytes(40))
    (place / "list.csv").write_text(draw.choice(["path,label\n", "\0", "a.png,wren\n" * 3, "data/wren/0.png,wren\n"]))
    odd = [*TYPED, *paths, str(place / "broken.png"), f"list:{place / 'list.csv'}"]
    name = draw.choice(COMMANDS)
    known = get_command(app).commands[name]  # type: ignore[attr-defined]
    arguments = [name]
    for parameter in known.params:
        needed = parameter.param_type_name == "argument" or parameter.required
        fitting = {"images": paths[3], "data": paths[1], "out": str(place / "out"), "model": paths[2]}
        if parameter.name in ("help", "device") or (not needed and draw.random() < 0.85):
            continue
        value = fitting.get(parameter.name, draw.choice(odd)) if draw.random() < 0.7 else draw.choice(odd)
        if parameter.param_type_name == "argument":
            arguments.append(value)
        elif getattr(parameter, "is_flag", False):
            arguments.append(parameter.opts[0])
        else:
            arguments += [parameter.opts[0], value]
    return lambda: _typed(arguments, place)


def _typed(arguments: list[str], place: Path) -> None:
    from finercam.cli import app

    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(place), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(arguments)
            status: Any = 0
        except SystemExit as ended:
            status = ended.code
    said = err.getvalue()
    assert status in (0, 1, 2, None), f"status {status} of {arguments}: {said[-300:]}"
    assert "Traceback" not in said, f"{arguments}: {said[-600:]}"
    assert status != 2 or said.strip(), f"no reason given for {arguments}"
