"""What coding assistants read: the skill's tasks run, and llms.txt lists every page."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from finercam import methods, metrics
from finercam.cli import app
from finercam.core.presets import PRESETS
from finercam.data.fieldguide import Fieldguide

ROOT = Path(__file__).parents[1]
SKILL = (ROOT / "skills" / "finercam" / "SKILL.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_tasks_of_the_skill_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Fieldguide(1, seed=4242)[0].open().save("photo.png")
    names: dict = {}
    for block in re.findall(r"^```python\n(.*?)^```", SKILL, re.DOTALL | re.MULTILINE):
        exec(block, names)
    assert names["answer"].maps.max() == 1 and (tmp_path / "out" / "photo.png").exists()
    (commands,) = re.findall(r"^```sh\n(.*?)^```", SKILL, re.DOTALL | re.MULTILINE)
    for line in commands.splitlines():
        done = CliRunner().invoke(app, shlex.split(line)[1:])
        assert done.exit_code == 0, f"{line}\n{done.output}"
    assert (tmp_path / "out" / "report.html").exists()


def test_the_skill_names_what_exists():
    head = SKILL.split("---")[1]
    assert "name: finercam" in head and len(re.search(r"description: (.*)", head)[1]) < 1024
    assert set(re.findall(r'preset="(\w+)"', SKILL.replace('" | "', '" preset="'))) <= set(PRESETS)
    assert "layercam" in methods.names() and all(
        hasattr(metrics, name) for name in re.findall(r"metrics\.(\w+)", SKILL)
    )
    for module in re.findall(r"finercam\.compat\.\w+", SKILL):
        assert (ROOT / "src" / module.replace(".", "/")).with_suffix("").exists()


def test_every_page_is_listed_once():
    listed = re.findall(r"\]\(([\w./-]+)\)", (ROOT / "docs" / "llms.txt").read_text(encoding="utf-8"))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} | {"api/index.md"}
    assert sorted(listed) == sorted(pages)
