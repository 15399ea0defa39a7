"""An unexpected skip fails a strict session, an expected one does not."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")
TESTS = """
import pytest
def test_runs(): pass
def test_skips(): pytest.skip({reason!r})
"""


@pytest.mark.parametrize(
    ("reason", "environment", "status"),
    [
        ("no reason", {"STRICT_SKIPS": "1"}, 1),
        ("../shared/data/inat-birds is not there", {"STRICT_SKIPS": "1"}, 0),
        ("no Chromium: left out", {"STRICT_SKIPS": "1", "EXPECTED_SKIPS": "no Chromium"}, 0),
        ("no reason", {"STRICT_SKIPS": "0"}, 0),
    ],
)
def test_an_unexpected_skip_fails_a_strict_session(pytester, monkeypatch, reason, environment, status):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    pytester.makepyfile(TESTS.format(reason=reason))
    assert pytester.runpytest_inprocess("-p", "no:cacheprovider", "-p", "no:xdist").ret == status
