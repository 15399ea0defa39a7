"""One ingestion layer: what a run streams and what a dataset holds are the same pictures with the same labels."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from finercam.data import open_dataset
from finercam.data.open import open_source
from finercam.data.source import FolderSource, ListSource, NoPicture
from finercam.errors import FinerCAMError


@pytest.fixture
def root(tmp_path):
    for name in ("a.png", "sub/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (10, 8), (len(name), 0, 0)).save(tmp_path / name)
    return tmp_path


def streamed(text):
    """`(path, label)` of what a run reads: followed, and not listed before."""
    found: dict[str, str | None] = {}
    for one in open_source(text).entries():
        if one.refused is None:
            found.setdefault(one.path, one.label)
    return list(found.items())


def held(text):
    """`(path, label)` of what evaluate, probe and report read."""
    data = open_dataset(text)
    return [
        (s.id, None if s.label is None else data.classes[s.label] if data.classes else str(s.label)) for s in data
    ]


@pytest.mark.parametrize("header", ["path,label", "image_path,label", "file_path,class_name", "species,image"])
def test_a_header_is_no_picture(root, header):
    """With the header `image_path,label` datasets took the header for a picture, and runs did not."""
    cells = ["wren,a.png", "robin,sub/b.png"] if header.startswith("species") else ["a.png,wren", "sub/b.png,robin"]
    (root / "list.csv").write_text("\n".join([header, *cells]))
    wanted = [("a.png", "wren"), ("sub/b.png", "robin")]
    assert streamed(root / "list.csv") == held(root / "list.csv") == wanted


def test_parquet_lists_are_datasets_too(root):
    pq.write_table(pa.table({"image": ["a.png", "sub/b.png", "../c.png"], "label": [1, None, 2]}), root / "x.parquet")
    for text in (root / "x.parquet", f"parquet:{root / 'x.parquet'}"):
        data = open_dataset(text)
        assert [(sample.id, sample.label) for sample in data] == [("a.png", 1), ("sub/b.png", None)]
        assert data[0].open().size == (10, 8) and "leads out" in dict(data.skipped)["../c.png"]
    pq.write_table(pa.table({"n": [1]}), root / "no.parquet")
    with pytest.raises(FinerCAMError, match="no column of paths"):
        open_dataset(root / "no.parquet")


def test_unknown_labels_and_numbers_mean_the_same_everywhere(root):
    (root / "list.csv").write_text("a.png,-1\n./sub//b.png,--5\n")
    assert streamed(root / "list.csv") == held(root / "list.csv") == [("a.png", None), ("sub/b.png", "--5")]


@pytest.mark.slow
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(["a.png", "./a.png", "sub/b.png", "../x.png", "", "path", "file", "gone.png", '"', "#a"]),
            st.sampled_from(["wren", "robin", "3", "-1", "--5", "", "²", "label", "0000000"]) | st.text(max_size=4),
        ),
        min_size=1,
        max_size=6,
    ),
    kind=st.sampled_from([("csv", ","), ("tsv", "\t"), ("txt", "\t"), ("txt", ",")]),
)
def test_any_list_is_the_same_to_runs_and_datasets(root, rows, kind):
    file = root / f"list.{kind[0]}"
    file.write_text("\n".join(kind[1].join(row) for row in rows), encoding="utf-8")
    try:
        stream = list(open_source(file).entries())
    except FinerCAMError as error:
        with pytest.raises(FinerCAMError) as caught:
            open_dataset(file)
        assert str(caught.value) == str(error)
        return
    first: dict[str, str | None] = {}
    for one in stream:
        if one.refused is None:
            first.setdefault(one.path, one.label)
    if not first:
        with pytest.raises(FinerCAMError, match="no pictures"):
            open_dataset(file)
        return
    numbers = not open_dataset(file).classes
    wanted = {path: None if numbers and label and int(label) < 0 else label for path, label in first.items()}
    found = dict(held(file))
    assert {path: found[path] and (str(int(found[path])) if numbers else found[path]) for path in found} == {
        path: label and (str(int(label)) if numbers else label) for path, label in wanted.items()
    }


def test_folders_are_the_same_to_runs_and_datasets(root):
    (root / "sub" / "deeper").mkdir()
    Image.new("RGB", (4, 4)).save(root / "sub" / "deeper" / "c.heic", "PNG")
    Image.new("RGB", (4, 4)).save(root / "sub" / ".hidden.png")
    assert [path for path, label in streamed(root) if label] == [path for path, _ in held(root)]
    assert dict(open_dataset(root).skipped) == {"a.png": "lies in no class folder"}
    assert streamed(f"pictures:{root}") == held(f"pictures:{root}") == [("a.png", None)]


def test_a_split_synonym_is_known_to_runs_too(root):
    (root / "data").mkdir()
    (root / "sub").rename(root / "data" / "wren")
    for split in ("train", "valid"):
        (root / split).mkdir()
        (root / "data" / "wren").rename(root / split / "wren") if split == "valid" else (
            root / split / "robin"
        ).mkdir()
    (root / "data").rmdir()
    (root / "a.png").unlink()
    entries = [(one.path, one.label) for one in open_source(root, "val").entries()]
    assert entries == [("valid/wren/b.png", "wren")]
    assert open_dataset(root, "val").classes == FolderSource(root, "val").classes() == ["robin", "wren"]


@pytest.mark.parametrize("text", ["list:{}?split=test", "list:{}?classes={}&other=1", "pictures:{}?split=test"])
def test_an_option_that_is_not_known_is_not_ignored(root, text):
    (root / "list.csv").write_text("a.png\n")
    place = root if text.startswith("pictures") else root / "list.csv"
    with pytest.raises(FinerCAMError, match="has no option"):
        open_source(text.format(place, place))


def test_a_cause_that_can_pass_has_a_status_of_its_own(root, monkeypatch):
    """An EIO of a network file system, or refused rights, are not the picture's fault; a loop of links is."""
    source = ListSource(root / "list.csv", root)
    found = {}
    for code in (errno.EIO, errno.ESTALE, errno.EACCES, errno.ELOOP):

        def fails(*_arguments, code=code, **_options):
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "open", fails)
            with pytest.raises(NoPicture, match="cannot be read") as caught:
                source.open(0, "a.png")
        found[code] = caught.value.status
    assert found.pop(errno.ELOOP) == "unreadable" and set(found.values()) == {"unavailable"}
    assert source.open(0, "a.png").image.size == (10, 8)


def test_refused_permissions_are_one_line(root):
    """As a user who may not read some of it: single pictures and folders are reported, the rest is read."""
    (root / "closed").mkdir()
    Image.new("RGB", (4, 4)).save(root / "closed" / "c.png")
    (root / "closed").chmod(0)
    (root / "a.png").chmod(0)
    for folder in (root, *root.parents):  # pytest's own folders are closed to others, at a depth that xdist changes
        if folder == Path(tempfile.gettempdir()).resolve():
            break
        folder.chmod(0o755)
    is_root = os.geteuid() == 0  # who may read everything
    if is_root:
        os.seteuid(65534)
    try:
        source = FolderSource(root)
        listed = {one.path: one.refused for one in source.entries()}
        assert listed == {"a.png": None, "closed": "folder cannot be read: Permission denied", "sub/b.png": None}
        with pytest.raises(NoPicture, match="Permission denied") as caught:
            source.open(0, "a.png")
        assert caught.value.status == "unavailable" and source.open(2, "sub/b.png").image.size == (10, 8)
        assert [sample.id for sample in open_dataset(root)] == ["sub/b.png"]
        with pytest.raises(FinerCAMError, match="closed cannot be read: Permission denied"):
            open_dataset(root / "closed")
    finally:
        if is_root:
            os.seteuid(0)
        (root / "closed").chmod(0o755)
