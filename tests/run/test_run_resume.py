"""Killed, interrupted, damaged, changed: the same command ends with the rows of an undisturbed run, or says why not."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from finercam import FinerCAMError, load_model, open_run
from finercam.run import explain_dataset

SMALL = {"shard": 4, "batch": 2}


def hashes(out):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((out / "rows").iterdir())}


def test_interrupted_then_as_if_never(tmp_path, pictures_in, toy):
    data = pictures_in(tmp_path / "data", 11)
    explain_dataset(data, toy(), tmp_path / "whole", **SMALL)

    def stop(done, total):
        if done >= 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explain_dataset(data, toy(), tmp_path / "run", **SMALL, progress=stop)
    run = open_run(tmp_path / "run")
    assert run.shards == [0] and not run.finished and len(list(run)) == 4
    with pytest.raises(FinerCAMError, match="not finished"):
        run[7]
    outcome = explain_dataset(data, toy(), tmp_path / "run")  # shard and batch are as the run was begun
    assert outcome.explained_now == 7 and outcome.counts == {"ok": 11}
    assert hashes(tmp_path / "run") == hashes(tmp_path / "whole")
    assert explain_dataset(data, toy(), tmp_path / "run").explained_now == 0


def test_damaged_shards_are_made_again(tmp_path, pictures_in, toy):
    data, out, warnings = pictures_in(tmp_path / "data", 12), tmp_path / "run", []
    explain_dataset(data, toy(), out, **SMALL)
    before = hashes(out)
    first, second, third = sorted((out / "rows").iterdir())
    first.write_bytes(first.read_bytes()[:-100])
    flipped = bytearray(second.read_bytes())
    flipped[len(flipped) // 3] ^= 1  # in some page; its checksum tells
    second.write_bytes(flipped)
    third.write_bytes((out / "list.parquet").read_bytes())
    (out / "rows" / ".writing-0123").write_bytes(b"half")
    (out / "rows" / "00000099.parquet").write_bytes(b"of a longer list")
    outcome = explain_dataset(data, toy(), out, warn=warnings.append)
    assert outcome.explained_now == 12 and len(warnings) == 3 and hashes(out) == before


@pytest.mark.parametrize("change", ["gamma", "weights", "list", "label"])
def test_what_has_changed_is_refused_or_redone(tmp_path, pictures_in, toy, paint, change):
    data, out = pictures_in(tmp_path / "data", 9), tmp_path / "run"
    explain_dataset(data, toy(), out, **SMALL)
    before = hashes(out)
    loaded, question = toy(seed=int(change == "weights")), {"gamma": 0.9} if change == "gamma" else {}
    if change == "list":
        paint(data / "wren" / "zzz.png", 99)
    if change == "label":
        (data / "wren" / "008.png").rename(data / "wren" / "008b.png")
    message = {"gamma": r"gamma \(0.6, now 0.9\)", "weights": "the model's weights"}.get(change, "the list of images")
    with pytest.raises(FinerCAMError, match=message + ".*--redo"):
        explain_dataset(data, loaded, out, **question)
    assert hashes(out) == before
    outcome = explain_dataset(data, loaded, out, redo=True, **SMALL, **question)
    explain_dataset(data, loaded, tmp_path / "whole", **SMALL, **question)
    assert hashes(out) == hashes(tmp_path / "whole")
    # robin has four pictures: of the other shards' lists only the last one's changed
    assert outcome.explained_now == {"list": 2, "label": 1}.get(change, 9)


def test_changed_images_are_noticed_and_touched_ones_are_not(tmp_path, pictures_in, toy, paint):
    data, out = pictures_in(tmp_path / "data", 9), tmp_path / "run"
    explain_dataset(data, toy(), out, **SMALL)
    touched, changed = data / "robin" / "001.png", data / "wren" / "000.png"
    os.utime(touched, (1, 1))
    assert explain_dataset(data, toy(), out).explained_now == 0
    paint(changed, 77)
    with pytest.raises(FinerCAMError, match=r"1 images have changed .*wren/000.png"):
        explain_dataset(data, toy(), out)
    assert explain_dataset(data, toy(), out, redo=True).explained_now == 4
    same = changed.stat()
    paint(changed, 78)  # noise of one size: the file's length may differ, its time is put back
    changed.write_bytes(changed.read_bytes().ljust(same.st_size, b"\0")[: max(same.st_size, changed.stat().st_size)])
    os.utime(changed, ns=(same.st_atime_ns, same.st_mtime_ns))
    with pytest.raises(FinerCAMError, match=r"wren/000\.png"):
        explain_dataset(data, toy(), out, check_contents=True)
    changed.unlink()
    with pytest.raises(FinerCAMError, match="the list of images"):
        explain_dataset(data, toy(), out)


def test_one_writer_at_a_time(tmp_path, pictures_in, toy):
    from finercam.run.store import Store

    data, out = pictures_in(tmp_path / "data", 4), tmp_path / "run"
    explain_dataset(data, toy(), out, **SMALL)
    with Store(out).locked(), pytest.raises(FinerCAMError, match="another run is writing here"):
        explain_dataset(data, toy(), out)
    assert explain_dataset(data, toy(), out).explained_now == 0


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, pictures_in, toy, monkeypatch):
    data, out = pictures_in(tmp_path / "data", 9), tmp_path / "run"
    explain_dataset(data, toy(), tmp_path / "whole", **SMALL)
    written, fsync = [], os.fsync

    def full(handle):
        written.append(handle)
        if len(written) > 6:  # manifest, list and the first shard, each with its folder
            raise OSError(28, "No space left on device")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FinerCAMError, match="cannot be written: No space left on device"):
        explain_dataset(data, toy(), out, **SMALL)
    monkeypatch.undo()
    assert 0 < explain_dataset(data, toy(), out).explained_now < 9
    assert hashes(out) == hashes(tmp_path / "whole")


def test_other_places_than_local_folders(tmp_path, pictures_in, toy):
    """A `file://` address goes through pyarrow's file systems, as object stores do."""
    data = pictures_in(tmp_path / "data", 9)
    place = (tmp_path / "far").as_uri()
    (tmp_path / "far").mkdir()
    explain_dataset(data, toy(), tmp_path / "near", **SMALL)
    explain_dataset(data, toy(), place, **SMALL)
    assert hashes(tmp_path / "far") == hashes(tmp_path / "near")
    (tmp_path / "far" / "rows" / "00000001.parquet").unlink()
    assert explain_dataset(data, toy(), place).explained_now == 4
    assert hashes(tmp_path / "far") == hashes(tmp_path / "near") and len(list(open_run(place))) == 9


@pytest.mark.parametrize("damage", ["[]", "{", '{"format": "finercam-run"}', "settings", "data", "classes", "shard"])
def test_manifests_that_cannot_be_trusted(tmp_path, pictures_in, toy, damage):
    data, out = pictures_in(tmp_path / "data", 3), tmp_path / "run"
    explain_dataset(data, toy(), out)
    manifest = json.loads((out / "manifest.json").read_text())
    if damage in ("settings", "data"):
        manifest[damage] = {"text": "../../etc"}
    elif damage == "classes":
        manifest["settings"]["class_names"] = ["one"]
    elif damage == "shard":
        manifest["settings"]["shard"] = "../x"
    (out / "manifest.json").write_text(json.dumps(manifest) if damage.isalpha() else damage)
    with pytest.raises(FinerCAMError, match=r"manifest\.json"):
        open_run(out)
    with pytest.raises(FinerCAMError, match=r"manifest\.json"):
        explain_dataset(data, toy(), out)


PROGRAM = """
import sys, time
from finercam import load_model
from finercam.run import explain_dataset

def show(done, total):
    print(done, flush=True)
    time.sleep(0.02)

explain_dataset(sys.argv[1], load_model(sys.argv[2]), sys.argv[3], shard=4, batch=2, threads=1, progress=show)
"""


@pytest.mark.slow
@pytest.mark.system
def test_killed_again_and_again(tmp_path, pictures_in, saved_model):
    """SIGKILL at random moments, twice; benchmarks/kills.py has 1,000 of eight kinds."""
    data, out, chance = pictures_in(tmp_path / "data", 60), tmp_path / "run", random.Random(5)
    explain_dataset(data, load_model(str(saved_model)), tmp_path / "whole", **SMALL, threads=1)
    kept = [0]
    for turn in range(3):
        program = [sys.executable, "-c", PROGRAM, str(data), str(saved_model), str(out)]
        with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert int(child.stdout.readline()) >= kept[-1]  # nothing that was finished is lost
            if turn < 2:  # some moment before or after the next file of rows; by the clock alone it might have ended
                for _ in range(chance.randint(0, 5)):
                    child.stdout.readline()
                time.sleep(chance.uniform(0.0, 0.02))
                child.kill()
            child.stdout.read()
        assert child.returncode == (-signal.SIGKILL if turn < 2 else 0)
        kept.append(4 * len(list((out / "rows").glob("*.parquet"))))
    assert kept[1] < 60 and kept[-1] == 60 and hashes(out) == hashes(tmp_path / "whole")
