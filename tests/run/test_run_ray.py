"""The same rows from a local Ray cluster of two workers, one of which is killed."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from finercam import FinerCAMError
from finercam.models import load_model
from finercam.run import Cluster, explain_dataset


def hashes(out):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "rows").iterdir())}


def workers() -> list[int]:
    """Process ids of Ray's actors, which carry their class's name as title."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if line.startswith(b"ray::Actor"):
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.system
def test_a_killed_worker_loses_nothing(tmp_path, pictures_in, saved_model):
    pytest.importorskip("ray")
    data, small = pictures_in(tmp_path / "data", 24), {"shard": 4, "batch": 2, "threads": 1}
    loaded, text = load_model(saved_model), str(saved_model)
    explain_dataset(data, loaded, tmp_path / "local", model_string=text, **small)
    before, killed = set(workers()), []

    def kill(done, total):
        ours = [pid for pid in workers() if pid not in before]
        if 0 < done < total and not killed and ours:
            killed.append(ours[0])
            os.kill(ours[0], signal.SIGKILL)

    try:
        outcome = explain_dataset(
            data,
            loaded,
            tmp_path / "ray",
            model_string=text,
            cluster=Cluster("local", 2),
            readers=1,
            progress=kill,
            **small,
        )
    except FinerCAMError as error:
        if "timed out during startup" in str(error):  # Ray's own agents have 15 s, which a busy machine may exceed
            pytest.skip(str(error))
        raise
    assert killed and outcome.counts == {"ok": 24}
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "local")
    assert explain_dataset(data, loaded, tmp_path / "ray", model_string=text).explained_now == 0
    import ray

    assert not ray.is_initialized()
