"""An unexpected skip fails a strict session, an expected one does not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest
def test_runs(): pass
def test_skips(): pytest.skip({reason!r})
"""


def run(folder: Path, reason: str, **environment: str) -> int:
    (folder / "conftest.py").write_text(CONFTEST.read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "test_it.py").write_text(TESTS.format(reason=reason), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(command, cwd=folder, env=os.environ | environment, check=False).returncode


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reason", "environment", "status"),
    [
        ("no reason", {"STRICT_SKIPS": "1"}, 1),
        ("../shared/data/inat-birds is not there", {"STRICT_SKIPS": "1"}, 0),
        ("no Chromium: left out", {"STRICT_SKIPS": "1", "EXPECTED_SKIPS": "no Chromium"}, 0),
        ("no reason", {"STRICT_SKIPS": "0"}, 0),
    ],
)
def test_an_unexpected_skip_fails_a_strict_session(tmp_path, reason, environment, status):
    assert run(tmp_path, reason, **environment) == status
