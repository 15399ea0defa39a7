"""What stops a run, or an image, from outside: one line that says what to do, nothing left behind, and a retry."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from finercam import FinerCAMError, open_run
from finercam.cli import app
from finercam.run import explain_dataset
from finercam.run.store import SCRATCH, Store

SMALL = {"shard": 4, "batch": 2}


def statuses(out):
    return open_run(out).table(["status"]).column(0).to_pylist()


def test_progress_moves_with_every_batch(tmp_path, pictures_in, toy):
    seen = []
    data = pictures_in(tmp_path / "data", 11)
    explain_dataset(
        data, toy(), tmp_path / "run", shard=8, batch=2, progress=lambda done, of: seen.append((done, of))
    )
    assert seen == [(done, 11) for done in (0, 2, 4, 6, 8, 10, 11)]


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_a_passing_error_is_tried_again(tmp_path, pictures_in, toy, monkeypatch, code):
    data, out, opened = pictures_in(tmp_path / "data", 8), tmp_path / "run", Path.open

    def failing(path, *more, **options):
        if path.name == "002.png":
            raise OSError(code, os.strerror(code))
        return opened(path, *more, **options)

    monkeypatch.setattr(Path, "open", failing)
    outcome = explain_dataset(data, toy(), out, **SMALL)
    assert outcome.counts == {"ok": 7, "unavailable": 1} and outcome.failed == 1
    assert os.strerror(code) in outcome.examples["unavailable"][1]
    assert explain_dataset(data, toy(), out).counts["unavailable"] == 1  # it still fails
    monkeypatch.undo()
    outcome = explain_dataset(data, toy(), out)
    assert outcome.counts == {"ok": 8} and outcome.explained_now == 4
    explain_dataset(data, toy(), tmp_path / "whole", **SMALL)
    for name in ("00000000.parquet", "00000001.parquet"):
        assert (out / "rows" / name).read_bytes() == (tmp_path / "whole" / "rows" / name).read_bytes()
    assert explain_dataset(data, toy(), out).explained_now == 0


@pytest.mark.parametrize("kind", ["file", "picture reader"])
def test_broken_pictures_are_not_tried_again(tmp_path, pictures_in, toy, kind):
    data, out = pictures_in(tmp_path / "data", 4), tmp_path / "run"
    (data / "wren" / "000.png").write_bytes((data / "wren" / "000.png").read_bytes()[:99])
    assert explain_dataset(data, toy(), out, **SMALL).counts == {"ok": 3, "unreadable": 1}
    assert explain_dataset(data, toy(), out).explained_now == 0


def test_a_full_disk_while_the_list_is_written(tmp_path, pictures_in, toy, monkeypatch):
    data, out = pictures_in(tmp_path / "data", 4), tmp_path / "run"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(FinerCAMError, match=r"list\.parquet cannot be written: No space left on device"):
        explain_dataset(data, toy(), out, **SMALL)
    monkeypatch.undo()
    assert sorted(path.name for path in out.iterdir()) == [".lock", "rows"]
    assert explain_dataset(data, toy(), out, **SMALL).counts == {"ok": 4}


def test_folders_in_the_place_of_files_are_one_line(tmp_path, pictures_in, toy):
    data, out = pictures_in(tmp_path / "data", 8), tmp_path / "run"
    explain_dataset(data, toy(), out, **SMALL)
    second = out / "rows" / "00000001.parquet"
    second.unlink()
    second.mkdir()
    (second / "mine.txt").write_text("not to be lost")
    with pytest.raises(FinerCAMError, match=r"00000001\.parquet is a folder, and a file of rows belongs there"):
        explain_dataset(data, toy(), out)
    assert (second / "mine.txt").read_text() == "not to be lost"
    shutil.rmtree(second)
    (out / "rows" / "notes").mkdir()  # a folder of another name is nobody's business
    assert explain_dataset(data, toy(), out).explained_now == 4
    (out / ".lock").unlink()
    (out / ".lock").mkdir()
    with pytest.raises(FinerCAMError, match=r"\.lock cannot be written: Is a directory"):
        explain_dataset(data, toy(), out)


def test_temporary_folders_of_killed_runs_are_removed(tmp_path, pictures_in, toy, monkeypatch):
    """Only a remote place needs one; a folder that another run holds stays, and so does one that is new."""
    data, temporary = pictures_in(tmp_path / "data", 3), tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    for name in ("killed", "held", "new"):
        (temporary / f"{SCRATCH}{name}").mkdir()
        (temporary / f"{SCRATCH}{name}" / "list.parquet").write_bytes(b"half")
    (temporary / "other").mkdir()
    with Store(temporary / f"{SCRATCH}held").locked():
        for name in ("killed", "held"):
            os.utime(temporary / f"{SCRATCH}{name}", (1, 1))
        explain_dataset(data, toy(), tmp_path / "near")
        (tmp_path / "far").mkdir()
        explain_dataset(data, toy(), (tmp_path / "far").as_uri())
    assert sorted(path.name for path in temporary.iterdir()) == [f"{SCRATCH}held", f"{SCRATCH}new", "other"]
    assert statuses(tmp_path / "far") == ["ok"] * 3


PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs inherit it ignored
from finercam.cli import main
from finercam.run.worker import Worker

explain = Worker._explain

def slow(worker, reads, rows):
    explain(worker, reads, rows)
    print("batch", flush=True)
    time.sleep(0.05)

Worker._explain = slow
main(sys.argv[1:])
"""


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.system
def test_interrupted_says_what_is_kept(tmp_path, pictures_in, saved_model, sent, status):
    data, out = pictures_in(tmp_path / "data", 40), tmp_path / "run"
    command = ["run", str(data), "--model", str(saved_model), "--out", str(out), "--shard", "4", "--batch-size", "2"]
    program = [sys.executable, "-c", PROGRAM, *command]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None and child.stderr is not None
        for _ in range(7):
            child.stdout.readline()
        child.send_signal(sent)
        error = child.stderr.read()
    kept = 4 * len(list((out / "rows").glob("*.parquet")))
    assert child.returncode == status and 12 <= kept < 40
    word = {130: "interrupted", 143: "terminated"}[status]
    assert error == f"finercam: {word}; {out} keeps {kept} of 40 images; run the same command again to continue\n"
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0 and f"{40 - kept} now" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["methods"], ["run"]])
@pytest.mark.system
def test_output_to_a_full_device_is_one_line(tmp_path, pictures_in, saved_model, command):
    if command == ["run"]:
        data = pictures_in(tmp_path / "data", 3)
        command = ["run", str(data), "--model", str(saved_model), "--out", str(tmp_path / "run")]
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-m", "finercam.cli", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "No space left on device" in done.stderr


def unprivileged() -> list[str]:
    """How to start a program for which permissions count: root starts it without the rights to override them."""
    if os.getuid() != 0:
        return []
    if shutil.which("setpriv") is None:
        pytest.skip("root is refused nothing, and there is no setpriv to give its rights up")
    taken = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={taken}", f"--inh-caps={taken}"]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="needs POSIX permissions")
@pytest.mark.system
def test_refused_permissions(tmp_path, pictures_in, saved_model):
    data, out = pictures_in(tmp_path / "data", 6), tmp_path / "run"
    command = ["run", str(data), "--model", str(saved_model), "--out", str(out), "--shard", "4"]

    def run():
        program = [*unprivileged(), sys.executable, "-m", "finercam.cli", *command]
        return subprocess.run(program, capture_output=True, text=True, check=False)

    (data / "wren" / "002.png").chmod(0)
    done = run()
    assert done.returncode == 1 and "Permission denied" in done.stdout and statuses(out).count("unavailable") == 1
    (data / "wren" / "002.png").chmod(0o644)  # neither its size nor its time of change differs
    done = run()
    assert done.returncode == 0 and statuses(out) == ["ok"] * 6, done.stderr
    (out / "rows" / "00000000.parquet").unlink()
    (out / "rows").chmod(0o555)
    done = run()
    (out / "rows").chmod(0o755)
    assert done.returncode == 2 and "cannot be written: Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1
    (out / ".lock").chmod(0)
    done = run()
    assert done.returncode == 2 and ".lock cannot be written: Permission denied" in done.stderr
    assert done.stderr.count("\n") == 1
