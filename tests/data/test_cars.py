import contextlib
import struct
import zlib

import pytest

from finercam.data.cars import Cars
from finercam.data.matlab import read_variable
from finercam.errors import FinerCAMError


@pytest.mark.parametrize("split", ["train", "test"])
def test_labels_names_and_boxes(cars_tree, split, labels_of):
    data = Cars(cars_tree, split)
    assert data.classes[1] == "Ram C/V Cargo Van Minivan 2012"
    assert labels_of(data) == [0, 2, 1]  # the files count from 1
    assert [sample.id for sample in data] == [f"cars_{split}/{i:05d}.jpg" for i in (1, 2, 3)]
    # pixels from 1 with both ends inside: 1…60 is the whole width
    assert data[0].annotation.box == (0, 0, 60, 40)
    assert data[1].annotation.box == (10, 5, 30, 20)
    assert data[2].annotation.box == (39, 29, 60, 40)  # clipped
    assert data[0].open().size == (60, 40)
    assert labels_of(Cars(cars_tree.parent, split)) == labels_of(data)


def test_annotations_beside_the_kit(cars_tree):
    moved = cars_tree / "cars_test_annos_withlabels.mat"
    moved.rename(cars_tree / "devkit" / moved.name)
    assert len(Cars(cars_tree)) == 3


def test_by_class_folders(tmp_path, labels_of):
    from PIL import Image

    for split in ("train", "test"):
        for name in ("Audi R8 Coupe 2012", "AM General Hummer SUV 2000"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "000001.jpg")
    data = Cars(tmp_path)
    assert data.classes == ["AM General Hummer SUV 2000", "Audi R8 Coupe 2012"] and labels_of(data) == [0, 1]
    assert data[0].annotation.box is None and "no boxes" in data.name


def test_bad_files(cars_tree, refused):
    with refused("'tst'", "Did you mean 'test'"):
        Cars(cars_tree, "tst")
    (cars_tree / "cars_test_annos_withlabels.mat").write_bytes(b"MATLAB 5.0 MAT-file, but not")
    with refused("cars_test_annos_withlabels.mat", "not a MATLAB file"):
        Cars(cars_tree)
    (cars_tree / "cars_test_annos_withlabels.mat").unlink()
    (cars_tree / "devkit" / "cars_test_annos.mat").touch()
    with refused("cars_test_annos.mat has no labels"):
        Cars(cars_tree)
    (cars_tree / "devkit" / "cars_test_annos.mat").unlink()
    with refused("lacks cars_test_annos_withlabels.mat"):
        Cars(cars_tree)
    (cars_tree / "devkit" / "cars_meta.mat").unlink()
    with refused("devkit/cars_meta.mat"):
        Cars(cars_tree)


def test_annotations_without_a_field_or_with_a_class_too_many(cars_tree, refused):
    import numpy as np
    from scipy.io import savemat

    target = cars_tree / "cars_test_annos_withlabels.mat"
    savemat(target, {"annotations": np.array([("00001.jpg", 1)], dtype=[("fname", "O"), ("class", "O")])[None]})
    with refused("field 'bbox_x1'"):
        Cars(cars_tree)
    savemat(target, {"other": 1})
    with refused("no variable 'annotations'"):
        Cars(cars_tree)
    kinds = [(f"bbox_{end}", "O") for end in ("x1", "y1", "x2", "y2")] + [("class", "O"), ("fname", "O")]
    savemat(target, {"annotations": np.array([(1, 1, 2, 2, 4, "00001.jpg")], dtype=kinds)[None]})
    with refused("class 3", "3 classes"):
        Cars(cars_tree)
    savemat(target, {"annotations": np.array([(1, 1, 2, 2, 1, "../../x.jpg")], dtype=kinds)[None]})
    with refused("no pictures", "leads out"):
        Cars(cars_tree)
    savemat(target, {"annotations": np.array([(1, 1, 2, [2, 3], 1, "00001.jpg")], dtype=kinds)[None]})
    with refused("'bbox_y2' is [2, 3]"):
        Cars(cars_tree)


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_are_read_as_scipy_reads_them(tmp_path, compressed):
    import numpy as np
    from scipy.io import loadmat, savemat

    names = np.array(["a", "größer €", ""], dtype=object)
    rows = np.array([(1, 2.5, "x.jpg"), (300, -1e300, "y.jpg")], dtype=[("n", "O"), ("f", "O"), ("s", "O")])
    deep = np.array([np.array(["b", 7], dtype=object)], dtype=object)
    content = {"first": 1, "names": names[None], "rows": rows[None], "deep": deep, "many": np.arange(70000.0)}
    savemat(tmp_path / "x.mat", content, do_compression=compressed)
    whole = loadmat(tmp_path / "x.mat", squeeze_me=True)
    assert read_variable(tmp_path / "x.mat", "first") == 1
    assert read_variable(tmp_path / "x.mat", "names")[:2] == ["a", "größer €"]
    assert read_variable(tmp_path / "x.mat", "many") == whole["many"].tolist()
    assert [tuple(row.values()) for row in read_variable(tmp_path / "x.mat", "rows")] == whole["rows"].tolist()


def test_a_damaged_matlab_file_does_not_end_the_process(tmp_path, refused):
    """scipy's reader read past its memory here; compressed data may unfold without end, and shapes may lie."""
    import numpy as np
    from scipy.io import savemat

    savemat(tmp_path / "x.mat", {"class_names": np.array(["wren", "robin"], dtype=object)[None]})
    whole = (tmp_path / "x.mat").read_bytes()
    for at in range(120, len(whole)):
        for value in (0, 1, 0x7F, 0xFF):
            (tmp_path / "y.mat").write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            with contextlib.suppress(FinerCAMError):
                read_variable(tmp_path / "y.mat", "class_names")
    packed = zlib.compress(bytes(1 << 29), 1)
    (tmp_path / "z.mat").write_bytes(whole[:128] + struct.pack("<II", 15, len(packed)) + packed)
    with refused("more than 256 MB"):
        read_variable(tmp_path / "z.mat", "x")
