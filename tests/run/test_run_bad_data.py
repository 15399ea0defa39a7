"""Whatever is wrong with pictures, lists, labels or the model: a row with its status and reason, and the run continues."""

from __future__ import annotations

import os
import struct
import zlib
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from finercam import FinerCAMError, open_run
from finercam.cli import app
from finercam.data.open import open_source
from finercam.run import explain_dataset


def rows(out, *columns):
    table = open_run(out).table(["path", "status", "error", *columns])
    return {row["path"].split("/")[-1]: row for row in table.to_pylist()}


def bomb() -> bytes:
    """A PNG of 40,000 × 40,000 pixels in a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


def test_bad_pictures_are_rows(tmp_path, pictures_in, toy):
    data = pictures_in(tmp_path / "data", 6)
    wren = data / "wren"
    whole = (wren / "000.png").read_bytes()
    (wren / "bomb.png").write_bytes(bomb())
    (wren / "empty.jpg").write_bytes(b"")
    (wren / "text.jpg").write_text("not a picture")
    (wren / "cut.png").write_bytes(whole[: len(whole) // 2])
    (wren / "misnamed.gif").write_bytes(whole)
    (wren / "loop.png").symlink_to(wren / "loop.png")
    (wren / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (wren / "round").symlink_to(data)  # a folder that holds itself
    (wren / "folder.png").mkdir()
    os.mkfifo(wren / "pipe.png")
    (wren / ".hidden.png").write_bytes(whole)
    (wren / "line\nbreak.png").write_bytes(whole)
    (wren / "vast.png").write_bytes(b"")
    os.truncate(wren / "vast.png", (1 << 29) + 1)
    with open(os.fsencode(wren) + b"/\xff.png", "wb") as file:  # noqa: PTH123 - a name that is not UTF-8
        file.write(whole)
    outcome = explain_dataset(data, toy(), tmp_path / "run", shard=8, batch=4)
    found = rows(tmp_path / "run", "content", "bytes")
    expected = {
        "bomb.png": ("unreadable", "more pixels than the limit"),
        "empty.jpg": ("unreadable", "is empty"),
        "text.jpg": ("unreadable", "no known picture format"),
        "cut.png": ("unreadable", "broken picture"),
        "misnamed.gif": ("ok", None),
        "loop.png": ("unreadable", "symbolic links"),
        "gone.png": ("missing", "does not exist"),
        "pipe.png": ("unreadable", "not a regular file"),
        "line\nbreak.png": ("ok", None),
        "vast.png": ("unreadable", "more than the limit"),
        "\\udcff.png": ("refused", "not UTF-8"),
    }
    for name, (status, error) in expected.items():
        assert found[name]["status"] == status, found[name]
        assert error is None or error in found[name]["error"]
    assert len(found) == 6 + len(expected) and sum(outcome.counts.values()) == len(found)
    assert found["cut.png"]["content"] and found["cut.png"]["bytes"] == len(whole) // 2
    assert outcome.counts == {"ok": 8, "unreadable": 7, "missing": 1, "refused": 1}
    assert outcome.same_content == 2 and outcome.failed == 9
    assert explain_dataset(data, toy(), tmp_path / "run").explained_now == 0
    (wren / "empty.jpg").write_bytes(whole)
    with pytest.raises(FinerCAMError, match=r"1 images have changed .*empty\.jpg"):
        explain_dataset(data, toy(), tmp_path / "run")
    assert explain_dataset(data, toy(), tmp_path / "run", redo=True).counts["ok"] == 9


def test_lists_cannot_lead_elsewhere_and_repeat_themselves(tmp_path, pictures_in, toy, paint):
    data = pictures_in(tmp_path / "data", 4)
    secret = paint(tmp_path / "secret.png", 9)
    (data / "wren" / "link.png").symlink_to(secret)
    entries = [
        ("wren/000.png", "wren"),
        ("../secret.png", "wren"),
        (str(secret), "wren"),
        ("wren/link.png", "wren"),
        ("wren/gone.png", "wren"),
        ("", "wren"),
        ("wren/000.png", "wren"),
        ("robin/001.png", "dodo"),
        ("robin/003.png", ""),
        ("https://example.org/a.png", "wren"),
        ("wren", "wren"),
    ]
    (data / "list.csv").write_text("# a comment\npath,label\n" + "".join(f'"{p}",{c}\n' for p, c in entries))
    pq.write_table(
        pa.table({"file": [p for p, _ in entries], "class": [c or None for _, c in entries]}), data / "list.parquet"
    )
    (tmp_path / "list.tsv").write_text("".join(f"{p}\t{c}\n" for p, c in entries if p))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png") if path.is_file()}
    statuses = [
        ("ok", None), ("refused", "leads out of"), ("refused", "leads out of"), ("refused", "through a link"),
        ("missing", "does not exist"), ("refused", "not a path"), ("duplicate", "at position 0"), ("ok", None),
        ("ok", None), ("refused", "leads out of"), ("unreadable", "not a regular file"),
    ]  # fmt: skip
    for name in ("list.csv", "list.parquet", f"list:{tmp_path / 'list.tsv'}?root={data}"):
        text = name if ":" in name else str(data / name)
        out = tmp_path / f"run-{name[-4:].strip('/')}"
        outcome = explain_dataset(text, toy(), out, shard=4, batch=4)
        found = open_run(out).table(["path", "status", "error", "label", "label_id"]).to_pylist()
        wanted = [status for (path, _), status in zip(entries, statuses, strict=True) if path or ":" not in name]
        assert [row["status"] for row in found] == [status for status, _ in wanted]
        for row, (_, error) in zip(found, wanted, strict=True):
            assert error is None or error in row["error"], row
        assert outcome.unknown_labels == 1 and outcome.counts["duplicate"] == 1
        assert {row["label"]: row["label_id"] for row in found} == {"wren": 0, "dodo": None, None: None}
        assert sorted(path.name for path in out.rglob("*") if path.is_file()) == sorted(
            [".lock", "list.parquet", "manifest.json", "summary.json", *(f"0000000{n}.parquet" for n in range(3))]
        )
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.png") if path.is_file()}


def test_labels_as_targets(tmp_path, pictures_in, toy):
    data = pictures_in(tmp_path / "data", 4)
    (data / "wren").rename(data / "dodo")
    outcome = explain_dataset(data, toy(), tmp_path / "run", target="label")
    assert outcome.counts == {"ok": 2, "unknown_label": 2}
    found = rows(tmp_path / "run", "target", "label_id")
    assert found["001.png"]["target"] == "robin" and "no class 'dodo'" in found["000.png"]["error"]
    (data / "ids.csv").write_text("robin/001.png,4\ndodo/000.png,5\ndodo/002.png,-1\n")
    assert explain_dataset(data / "ids.csv", toy(names=None), tmp_path / "ids", target="label").counts == {
        "ok": 1,
        "unknown_label": 2,
    }
    assert open_run(tmp_path / "ids")[0].target.tolist() == [4]


def test_a_label_of_two_signs_does_not_end_the_run(tmp_path, pictures_in, toy):
    """It counted as a number, and int() raised a bare ValueError in the middle of the run."""
    data = pictures_in(tmp_path / "data", 4)
    (data / "list.csv").write_text("image_path,label\nrobin/001.png,4\nwren/000.png,--5\n")
    outcome = explain_dataset(data / "list.csv", toy(), tmp_path / "run")
    assert outcome.counts == {"ok": 2} and outcome.unknown_labels == 2
    found = rows(tmp_path / "run", "label", "label_id")
    assert {name: (row["label"], row["label_id"]) for name, row in found.items()} == {
        "001.png": ("4", None),
        "000.png": ("--5", None),
    }


class Moody(nn.Module):
    """Gives NaN for dark pictures, and has no room for more than `room` pictures, or for bright ones."""

    def __init__(self, inner: nn.Module, room: int = 99, says: type[Exception] = RuntimeError) -> None:
        super().__init__()
        self.inner, self.room, self.says, self.seen = inner, room, says, []

    def forward(self, x):
        self.seen.append(len(x))
        bright = x.mean(dim=(1, 2, 3))
        if len(x) > self.room or bool((bright > 1.5).any()):
            raise self.says("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
        return torch.where((bright < -1.5)[:, None], torch.nan, self.inner(x))


@pytest.mark.parametrize("says", [RuntimeError, torch.cuda.OutOfMemoryError, MemoryError])
def test_nan_and_memory_are_found_picture_by_picture(tmp_path, pictures_in, toy, toys, says):
    from PIL import Image

    data = pictures_in(tmp_path / "data", 10)
    Image.new("RGB", (16, 16), "black").save(data / "robin" / "003.png")
    Image.new("RGB", (16, 16), "white").save(data / "robin" / "007.png")
    whole = toy(toys.gap())
    explain_dataset(data, whole, tmp_path / "calm", batch=8)
    model = Moody(toys.gap(), room=3, says=says)
    outcome = explain_dataset(data, toy(model), tmp_path / "run", batch=8, layer="inner.features")
    assert outcome.counts == {"ok": 8, "unexplained": 1, "out_of_memory": 1} and outcome.halved > 0
    found = rows(tmp_path / "run")
    assert "not finite" in found["003.png"]["error"] and "memory" in found["007.png"]["error"]
    assert all(later <= 3 or later <= earlier for earlier, later in pairwise(model.seen[2:]) if earlier <= 3)
    calm, halved = open_run(tmp_path / "calm"), open_run(tmp_path / "run")
    for path in ("wren/000.png", "robin/009.png"):
        torch.testing.assert_close(calm[path].signed, halved[path].signed, rtol=2e-3, atol=1e-5)
        assert calm[path].target.tolist() == halved[path].target.tolist()


def test_a_target_against_itself_is_unexplained(tmp_path, pictures_in, toy, toys):
    data = pictures_in(tmp_path / "data", 12)
    plain = explain_dataset(data, toy(toys.gap()), tmp_path / "plain")
    targets = open_run(tmp_path / "plain").table(["target"]).column(0).to_pylist()
    assert plain.failed == 0
    rival = max(set(targets), key=targets.count)
    outcome = explain_dataset(data, toy(toys.gap()), tmp_path / "run", against=[rival])
    assert outcome.counts.get("unexplained", 0) == targets.count(rival) > 0
    run = open_run(tmp_path / "run")
    assert {tuple(row) for row in run.table(["references"]).column(0).to_pylist() if row} <= {(rival,)}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"method": "gradcm"}, "Did you mean 'gradcam'"),
        ({"references": "all"}, "a map of each reference"),
        ({"weights": "orthogonal"}, "a run takes mean or probability"),
        ({"target": "dodo"}, "'dodo' is not among"),
        ({"against": ["dodo"]}, "'dodo' is not among"),
        ({"layer": "nowhere"}, "nowhere"),
        ({"precision": "int8"}, "float32, bfloat16, float16"),
        ({"batch": 0}, "batch=0"),
        ({"gamma": -1.0}, "gamma=-1.0"),
    ],
)
def test_wrong_questions_before_any_work(tmp_path, pictures_in, toy, question, message):
    data = pictures_in(tmp_path / "data", 2)
    with pytest.raises(FinerCAMError, match=message) as error:
        explain_dataset(data, toy(), tmp_path / "run", **question)
    assert "\n" not in str(error.value) and not (tmp_path / "run" / "manifest.json").exists()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    names=st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12), max_size=6),
    kind=st.sampled_from([".csv", ".tsv", ".txt"]),
)
def test_any_text_is_a_list_or_one_line(tmp_path, names, kind):
    file = tmp_path / f"list{kind}"
    file.write_text("\n".join(names), encoding="utf-8")
    try:
        found = list(open_source(file).entries())
    except FinerCAMError as error:
        assert "\n" not in str(error)
        return
    for one in found:
        inside = one.refused is not None or (tmp_path / one.path).resolve().is_relative_to(tmp_path.resolve())
        assert inside and "\0" not in one.path


def test_the_command_counts_and_its_status_says_so(tmp_path, pictures_in, saved_model):
    data, out = pictures_in(tmp_path / "data", 5), tmp_path / "run"
    command = ["run", str(data), "--model", str(saved_model), "--out", str(out)]
    assert CliRunner().invoke(app, [*command, "--against", "robin", "--keep", "5"]).exit_code in (0, 1)
    (data / "robin" / "001.png").write_bytes(b"")
    refused = CliRunner().invoke(app, [*command, "--against", "robin", "--keep", "5"])
    assert refused.exit_code == 2 and "1 images have changed" in refused.stderr and refused.stderr.count("\n") == 1
    done = CliRunner().invoke(app, [*command, "--redo"])
    assert done.exit_code == 1 and "unreadable" in done.stdout and "robin/001.png" in done.stdout
    (data / "robin" / "001.png").unlink()
    done = CliRunner().invoke(app, [*command, "--redo"])
    assert done.exit_code == 0 and "4 rows" in done.stdout
    missing = CliRunner().invoke(app, ["run", str(tmp_path / "no"), "--model", str(saved_model), "--out", str(out)])
    assert missing.exit_code == 2 and missing.stderr.count("\n") == 1
