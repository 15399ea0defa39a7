"""Files are written whole or not at all; hashes tell content and weights apart; errors fit on one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from copy import deepcopy
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from torch import nn

from finercam.errors import FinerCAMError
from finercam.io import PARTIAL, content_hash, one_line, scratch_folder, weights_hash, whole_file, write_whole


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_written_with_its_folders_and_replaced(tmp_path, sync):
    path = tmp_path / "new" / "folder" / "x.txt"
    assert write_whole(path, "ü", sync=sync) == path and path.read_bytes() == "ü".encode()
    write_whole(path, b"\x00", sync=sync)
    assert path.read_bytes() == b"\x00" and [entry.name for entry in path.parent.iterdir()] == ["x.txt"]


def test_a_failed_write_leaves_neither_half_a_file_nor_harm_to_the_old_one(tmp_path, monkeypatch):
    path = write_whole(tmp_path / "x.json", b"old")

    def full(self, content):
        Path.open(self, "wb").close()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(FinerCAMError, match=r"x.json cannot be written: No space left"):
        write_whole(path, b"new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_an_error_in_the_block_keeps_the_old_file_and_its_own_type(tmp_path):
    path = write_whole(tmp_path / "x.txt", "old")
    with pytest.raises(KeyError), whole_file(path) as partial:
        partial.write_text("half")
        raise KeyError("x")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["x.txt"]


@pytest.mark.slow
def test_what_a_killed_program_leaves_can_be_recognised(tmp_path):
    code = (
        "import os, signal\nfrom finercam.io import whole_file\n"
        f"with whole_file({str(tmp_path / 'x.txt')!r}) as partial:\n"
        "    partial.write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(PARTIAL)


@pytest.mark.slow
def test_the_temporary_folder_of_a_killed_program_is_removed_by_the_next(tmp_path):
    code = (
        "import os, pathlib, signal\nfrom finercam.io import scratch_folder\n"
        f"with scratch_folder('mine-[1]-', pathlib.Path({str(tmp_path)!r})) as folder:\n"
        "    (folder / 'x').write_text('half')\n    os.utime(folder, (1, 1))\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    (tmp_path / "mine-other").mkdir()
    os.utime(tmp_path / "mine-other", (1, 1))
    with scratch_folder("mine-[1]-", tmp_path) as first:
        os.utime(first, (1, 1))
        with scratch_folder("mine-[1]-", tmp_path) as second:  # the first one is held, so that it stays
            assert {path.name for path in tmp_path.iterdir()} == {"mine-other", first.name, second.name}
    assert not left.exists() and [path.name for path in tmp_path.iterdir()] == ["mine-other"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FinerCAMError, match=r"file/x\.txt cannot be written: "):
        write_whole(tmp_path / "file" / "x.txt", "")


def test_content_is_hashed_as_one_piece():
    assert content_hash("a", b"bc") == content_hash("abc") == sha256(b"abc").hexdigest()
    assert content_hash("abc") != content_hash("abd")


def test_weights_are_told_apart_by_value_type_shape_and_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    first = weights_hash(model)
    assert weights_hash(deepcopy(model)) == first
    assert weights_hash(deepcopy(model).half()) != first != weights_hash(nn.ModuleDict({"a": model}))
    with torch.no_grad():
        model[1].running_mean[1] = 1e-7  # a buffer counts too
    assert weights_hash(model) != first
    assert weights_hash(nn.ReLU()) == content_hash()


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("two\n\n  lines"), "two lines"),
        (PermissionError(13, "Permission denied", "/secret"), "Permission denied"),
        (OSError("truncated file"), "truncated file"),
        (RuntimeError(" \n"), "RuntimeError"),
        (RuntimeError("x" * 1000), "x" * 300),
    ],
)
def test_an_error_fits_on_one_line(error, line):
    assert one_line(error) == line
