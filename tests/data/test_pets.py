import numpy as np
from PIL import Image

from finercam.data.pets import Pets


def test_labels_trimap_and_border(pets_tree, labels_of):
    data = Pets(pets_tree)
    assert data.classes == ["Abyssinian", "american bulldog"] and labels_of(data) == [0, 1, 0]
    found = data[0].annotation
    assert found.box == (10, 8, 50, 32) and found.masks["object"].sum() == 24 * 40
    inner = Pets(pets_tree, border=False)[0].annotation
    assert inner.box == (12, 10, 48, 30) and inner.masks["object"].sum() == 20 * 36
    assert data[1].id == "images/american_bulldog_12.jpg" and data[1].open().size == (60, 40)
    assert Pets(pets_tree.parent, "train").name == "Oxford-IIIT Pet trainval"


def test_faults(pets_tree, refused):
    with refused("'tests'", "'test'"):
        Pets(pets_tree, "tests")
    data = Pets(pets_tree)
    trimaps = pets_tree / "annotations" / "trimaps"
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(trimaps / "Abyssinian_100.png")
    with refused("Abyssinian_100.png", "not a trimap"):
        _ = data[0].annotation
    (trimaps / "american_bulldog_12.png").write_bytes(b"\x89PNG")
    with refused("american_bulldog_12.png"):
        _ = data[1].annotation
    (pets_tree / "annotations" / "test.txt").write_text(
        "#Image CLASS-ID\nAbyssinian_1 x 1 1\n../a_2 2 1 1\nb_1 2 1 1\n"
    )
    data = Pets(pets_tree)
    assert len(data) == 1 and len(data.skipped) == 2 and data.classes == ["class 1", "b"]
    (pets_tree / "annotations" / "test.txt").write_text("a_1 1 1 1\nb_1 1 1 1\n")
    with refused("'a' and also 'b'"):
        Pets(pets_tree)
    (pets_tree / "annotations" / "test.txt").write_text("")
    with refused("no pictures"):
        Pets(pets_tree)
