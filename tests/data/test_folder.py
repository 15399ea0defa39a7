import csv

import numpy as np
import pytest
from PIL import Image

from finercam.data.folder import ImageFolder, PictureFolder


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "my birds"
    for name, files in {"wren": ["b.png", "a.PNG", "sub/c.png"], "Robin": ["d.png"], "nobody": []}.items():
        (root / name).mkdir(parents=True)
        for file in files:
            (root / name / file).parent.mkdir(exist_ok=True)
            Image.new("RGB", (30, 20), (len(file), 0, 0)).save(root / name / file)
    (root / "wren" / "notes.txt").write_text("not a picture")
    (root / "wren" / "._b.png").write_text("a resource fork")
    (root / ".cache").mkdir()
    return root


def write_boxes(root, *rows, header=("path", "x0", "y0", "x1", "y1")):
    with (root / "boxes.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def test_classes_and_order(folder, labels_of):
    data = ImageFolder(folder)
    assert data.classes == ["Robin", "nobody", "wren"]
    assert [s.id for s in data] == ["Robin/d.png", "wren/a.PNG", "wren/b.png", "wren/sub/c.png"]
    assert labels_of(data) == [0, 2, 2, 2]  # a class without pictures keeps its place
    assert data.skipped == [("nobody", "a class without pictures")]
    assert data[1].open().getpixel((0, 0)) == (5, 0, 0)
    assert data[0].annotation.box is None and data[0].annotation.masks == {}


def test_masks_and_boxes(folder):
    values = np.zeros((20, 30), np.uint8)
    values[4:9, 3:7] = 1  # 0/1 and 0/255 masks mean the same
    (folder / "masks" / "wren" / "b").mkdir(parents=True)
    Image.fromarray(values).save(folder / "masks" / "wren" / "b.png")
    Image.fromarray(values * 255).convert("RGB").save(folder / "masks" / "wren" / "b" / "beak.png")
    Image.fromarray(values * 0).save(folder / "masks" / "wren" / "b" / "tail.png")
    write_boxes(folder, ("wren/b.png", -5, 1, 12.5, 90), ("Robin/d.png", 40, 0, 50, 9))
    data = ImageFolder(folder)
    assert "masks" not in data.classes
    found = data[2].annotation
    assert found.box == (0, 1, 12.5, 20)
    np.testing.assert_array_equal(found.masks["object"], values.astype(bool))
    np.testing.assert_array_equal(found.masks["beak"], values.astype(bool))
    assert not found.masks["tail"].any()
    assert data[0].annotation.box is None  # wholly outside


def test_annotations_are_in_pixels_of_the_upright_picture(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(folder / "Robin" / "d.png", exif=exif)
    write_boxes(folder, ("Robin/d.png", 0, 0, 99, 99))
    sample = ImageFolder(folder)[0]
    assert sample.open().size == (20, 30) and sample.annotation.box == (0, 0, 20, 30)


def test_bad_masks_and_boxes(folder, refused):
    (folder / "masks" / "wren").mkdir(parents=True)
    Image.new("L", (20, 30)).save(folder / "masks" / "wren" / "b.png")
    with refused("20×30", "30×20"):
        _ = ImageFolder(folder)[2].annotation
    (folder / "masks" / "wren" / "b.png").write_bytes(b"")
    with refused("b.png", "empty"):
        _ = ImageFolder(folder)[2].annotation
    write_boxes(folder, ("wren/none.png", 0, 0, 1, 1), ("../x.png", 0, 0, 1, 1), ("/etc/passwd", 0, 0, 1, 1))
    assert [entry for entry, _ in ImageFolder(folder).skipped] == [
        "wren/none.png",
        "../x.png",
        "/etc/passwd",
        "nobody",
    ]
    write_boxes(folder, ("wren/b.png", 0, "nan", 1, 1))
    with refused("boxes.csv", "wren/b.png", "nan"):
        ImageFolder(folder)
    write_boxes(folder, ("wren/b.png", 0, 1))
    with refused("boxes.csv line 2"):
        ImageFolder(folder)
    write_boxes(folder, header=("path", "x", "y", "w", "h"))
    with refused("x0, y0, x1, y1", "it has path, x, y, w, h"):
        ImageFolder(folder)


def test_splits(tmp_path, refused):
    for split, names in {"train": ["b", "c"], "validation": ["b", "a"]}.items():
        for name in names:
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / split / name / "1.png")
    data = ImageFolder(tmp_path, "val")  # val, valid and validation are one
    assert data.classes == ["b", "c", "a"]  # as in train, then what train does not have
    assert [(s.id, s.label) for s in data] == [("validation/a/1.png", 2), ("validation/b/1.png", 0)]
    assert ImageFolder(tmp_path).name.endswith("validation")  # the first of test, val, …, train that is there
    with refused("'test'", "validation, train"):
        ImageFolder(tmp_path, "test")
    with refused("no split folders"):
        ImageFolder(tmp_path / "train", "train")


def test_links_that_go_round_in_circles(folder):
    (folder / "wren" / "again").symlink_to(folder, target_is_directory=True)
    (folder / "wren" / "self").symlink_to(folder / "wren" / "self")
    data = ImageFolder(folder)
    assert len([s for s in data if s.id.startswith("wren/") and "again" not in s.id]) == 3
    assert len(data) < 20


def test_flat_folder_and_empty_ones(folder, tmp_path, refused, labels_of):
    data = PictureFolder(folder / "wren")
    assert [s.id for s in data] == ["a.PNG", "b.png"] and labels_of(data) == [None, None] and data.classes == []
    (tmp_path / "empty").mkdir()
    with refused("no pictures", "empty"):
        PictureFolder(tmp_path / "empty")
    with refused("no pictures", "nobody: a class without pictures"):
        (tmp_path / "only" / "nobody").mkdir(parents=True)
        ImageFolder(tmp_path / "only")
    with refused("nowhere is not a folder"):
        ImageFolder(tmp_path / "nowhere")
