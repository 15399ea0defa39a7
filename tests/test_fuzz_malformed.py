"""A slice of `python -m fuzz.malformed`: damaged files, runs and calls are answered or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz import folders, malformed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_nothing_malformed_is_raw_slow_large_or_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {kind: malformed.KINDS[kind] for kind in ("picture", "file", "run", "call")}  # no library is imported
    monkeypatch.setattr(malformed, "KINDS", kinds)
    folders.make_run(tmp_path)
    results = malformed.hunt(40, seed=1)
    assert len(results) == 40 and {ended.kind for _, ended in results} == set(kinds)
    assert not [finding for _, ended in results for finding in ended.findings]
    assert any(ended.refused for _, ended in results)


def test_what_is_forbidden_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def opens(_draw: object, _place: Path):
        return lambda: __import__("socket").getaddrinfo("localhost", 1)

    monkeypatch.setattr(malformed, "KINDS", {"call": (1, opens), "file": (1, lambda *_: lambda: 1 / 0)})
    found = {ended.kind: ended.findings for _, ended in malformed.hunt(12, seed=0)}
    assert "socket.getaddrinfo" in found["call"][0] and "ZeroDivisionError" in found["file"][0]
