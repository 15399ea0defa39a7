import shutil

import numpy as np
from PIL import Image

from finercam.data.funnybirds import FunnyBirds


def test_parts_by_their_colours(funnybirds_tree, labels_of):
    data = FunnyBirds(funnybirds_tree)
    assert labels_of(data) == [0, 1, 2] and len(data.classes) == 3 and data[2].id == "test/2/000002.png"
    found = data[0].annotation
    assert sorted(found.masks) == ["beak", "eye", "foot", "object", "tail", "wing"]
    assert found.masks["eye"].sum() == 30 and found.masks["beak"].sum() == 15  # two eyes, one beak
    assert found.box == (10, 10, 50, 40)  # the body too, but nothing of the background
    for part, mask in found.masks.items():
        assert (found.masks["object"] & mask).sum() == mask.sum(), part
    assert "beak" not in data[1].annotation.masks  # it cannot be seen there
    stored = np.asarray(Image.open(funnybirds_tree / "test" / "0" / "000000.png"))[..., :3]
    np.testing.assert_array_equal(np.asarray(data[0].open()), stored)


def test_telling_parts_and_contrast_mask(funnybirds_tree, refused):
    data = FunnyBirds(funnybirds_tree)
    assert data.discriminative_parts(0, 1) == data.discriminative_parts(1, 0) == ("beak",)
    assert data.discriminative_parts(0, 2) == ("tail", "wing") and data.discriminative_parts(1, 1) == ()
    masks = data[0].annotation.masks
    np.testing.assert_array_equal(data.contrast_mask(0, 1), masks["beak"])
    np.testing.assert_array_equal(data.contrast_mask(0, 2), masks["tail"] | masks["wing"])
    assert not (data.contrast_mask(0, 2) & masks["beak"]).any()
    hidden = data.contrast_mask(1, 0)
    assert hidden.shape == (64, 64) and hidden.dtype == bool and not hidden.any()
    with refused("0 to 2", "not 3"):
        data.discriminative_parts(0, 3)
    assert data.discriminative_parts("bird 00", 2) == ("tail", "wing")
    with refused("'bird 0'", "'bird 00'"):
        data.discriminative_parts("bird 0", 1)
    assert not data.contrast_mask(0, 0).any()  # its own class


def test_faults(funnybirds_tree, refused):
    with refused("'valid'", "train, test"):
        FunnyBirds(funnybirds_tree, "valid")
    shutil.rmtree(funnybirds_tree / "train_part_map")
    train = FunnyBirds(funnybirds_tree, "train")
    assert train[0].annotation.masks == {} and train[0].open().size == (64, 64)
    with refused("train_part_map", "missing"):
        train.contrast_mask(0, 1)
    data = FunnyBirds(funnybirds_tree)
    (funnybirds_tree / "test_part_map" / "0" / "000000.png").unlink()
    with refused("000000.png", "does not exist"):
        data.contrast_mask(0, 1)
    (funnybirds_tree / "dataset_test.json").write_text('[{"class_idx": 7}]')
    with refused("class 7", "3 classes"):
        FunnyBirds(funnybirds_tree)
    (funnybirds_tree / "dataset_test.json").write_text('[{"beak": 7}]')
    with refused("dataset_test.json", "class_idx"):
        FunnyBirds(funnybirds_tree)
    (funnybirds_tree / "classes.json").write_text("{")
    with refused("classes.json"):
        FunnyBirds(funnybirds_tree)
