import numpy as np
import pytest
from PIL import Image

from finercam.data.aircraft import Aircraft


@pytest.mark.parametrize(
    "level, classes, labels",
    [
        ("variant", ["707-320", "A318", "F/A-18"], [0, 1, 2]),
        ("family", ["A320", "Boeing 707", "F/A-18"], [1, 0, 2]),
        ("manufacturer", ["Airbus", "Boeing", "McDonnell Douglas"], [1, 0, 2]),  # a name with a space
    ],
)
@pytest.mark.parametrize("split", ["train", "val", "trainval", "test"])
def test_levels(aircraft_tree, level, classes, labels, split, labels_of):
    data = Aircraft(aircraft_tree, split, level)
    assert data.classes == classes and labels_of(data) == labels
    assert data.name == f"FGVC-Aircraft {level} {split}"


def test_the_banner_is_cut_off_and_boxes_with_it(aircraft_tree):
    data = Aircraft(aircraft_tree / "data")
    stored = np.asarray(Image.open(aircraft_tree / "data" / "images" / "1025794.jpg"))
    np.testing.assert_array_equal(np.asarray(data[0].open()), stored[:40])
    assert data[0].annotation.box == (2, 3, 50, 40)  # from 1 with both ends inside, then clipped at row 40
    assert data[1].annotation.box == (0, 0, 60, 40)
    assert data[2].annotation.box is None  # wholly in the banner
    whole = Aircraft(aircraft_tree, banner=True)
    assert whole[0].open().size == (60, 60) and whole[2].annotation.box == (4, 40, 60, 60)


def test_bad_arguments_and_files(aircraft_tree, refused, labels_of):
    with refused("'familly'", "Did you mean 'family'"):
        Aircraft(aircraft_tree, level="familly")
    with refused("'valid'", "Did you mean 'val'"):
        Aircraft(aircraft_tree, "valid")
    (aircraft_tree / "data" / "variants.txt").write_text("707-320\nA318\n")
    data = Aircraft(aircraft_tree)
    assert labels_of(data) == [0, 1] and data.skipped == [("0056978", "'F/A-18' is not in variants.txt")]
    (aircraft_tree / "data" / "images_variant_test.txt").unlink()
    with refused("images_variant_test.txt"):
        Aircraft(aircraft_tree)
