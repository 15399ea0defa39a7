import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from finercam import metrics
from finercam.data import ImageDataset
from finercam.data.attributes import KEYPOINT_PARTS, PARTS
from finercam.data.cub import CUB
from finercam.images import Preprocess
from finercam.models import LoadedModel


def test_splits_labels_and_names(cub_tree, labels_of):
    test, train, every = CUB(cub_tree), CUB(cub_tree, "train"), CUB(cub_tree, "all")
    assert isinstance(test, ImageDataset)
    assert test.classes == ["Black footed Albatross", "Laysan Albatross"]
    assert [s.id.split("_")[-1] for s in test] == ["18.jpg", "1027.jpg"] and labels_of(test) == [0, 1]
    assert [s.id.split("_")[-1] for s in train] == ["34.jpg", "1033.jpg"]
    assert len(every) == 4 and every.skipped == []
    assert labels_of(CUB(cub_tree.parent)) == [0, 1]  # the folder above will do
    assert str(test).startswith("CUB-200-2011 test: 2 pictures, 2 classes")


def test_picture_box_parts_and_mask(cub_tree):
    sample = CUB(cub_tree)[0]
    stored = np.asarray(Image.open(cub_tree / "images" / sample.id))
    np.testing.assert_array_equal(np.asarray(sample.open()), stored)
    found = sample.annotation
    assert found.box == (10, 5, 40, 25)
    assert len(found.keypoints) == 14 and "left eye" not in found.keypoints  # that one is not visible
    assert found.keypoints["beak"] == (12, 8)
    rows, columns = np.nonzero(found.masks["object"])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (6, 24, 10, 39)  # 2 of 5 is too few


def test_a_box_that_overruns_is_clipped_and_a_part_outside_is_dropped(cub_tree):
    found = CUB(cub_tree)[1].annotation
    assert found.box == (50, 30, 60, 40)
    assert found.keypoints == {}


def test_without_the_separate_archives(cub_tree):
    shutil.rmtree(cub_tree.parent / "segmentations")
    shutil.rmtree(cub_tree / "parts")
    found = CUB(cub_tree)[0].annotation
    assert found.masks == {} and found.keypoints == {} and found.box is not None


def test_samples_travel_to_other_processes(cub_tree):
    sample = pickle.loads(pickle.dumps(CUB(cub_tree)[0]))
    assert sample.open().size == (60, 40) and sample.annotation.box == (10, 5, 40, 25)


def test_missing_files(cub_tree, refused):
    data = CUB(cub_tree)
    (cub_tree / "images" / data[0].id).unlink()
    with refused(data[0].id, "does not exist"):
        data[0].open()
    assert data[1].open().size == (60, 40)
    (cub_tree.parent / "segmentations" / data[1].id).with_suffix(".png").unlink()
    with refused("segmentations", "does not exist"):
        _ = data[1].annotation
    (cub_tree / "train_test_split.txt").unlink()
    with refused("train_test_split.txt", "does not exist"):
        CUB(cub_tree)


def test_a_mask_of_another_size(cub_tree, refused):
    data = CUB(cub_tree)
    Image.new("L", (60, 39)).save((cub_tree.parent / "segmentations" / data[0].id).with_suffix(".png"))
    with refused("60×39", "60×40"):
        _ = data[0].annotation


@pytest.mark.parametrize("line", ["1 ../../secret.jpg", "1 /etc/passwd", "1 ..\\secret.jpg", "1 C:/secret.jpg"])
def test_paths_do_not_leave_the_root(cub_tree, line):
    lines = (cub_tree / "images.txt").read_text().splitlines()
    (cub_tree / "images.txt").write_text("\n".join([line, *lines[1:]]))
    data = CUB(cub_tree)
    assert len(data) == 1
    assert data.skipped[0][0] == line[2:] and "leads out" in data.skipped[0][1]


def test_wrong_arguments_and_broken_tables(cub_tree, tmp_path, refused):
    with refused("split 'tests'", "Did you mean 'test'"):
        CUB(cub_tree, "tests")
    with refused("nothing", "not a folder"):
        CUB(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with refused("empty", "images.txt"):
        CUB(tmp_path / "empty")
    (cub_tree / "bounding_boxes.txt").write_text("1 a b c d\n")
    with refused("bounding_boxes.txt", "image 1", "numbers"):
        CUB(cub_tree)
    (cub_tree / "bounding_boxes.txt").write_text("1 2\n")
    with refused("bounding_boxes.txt line 1"):
        CUB(cub_tree)


ATTRIBUTES = ["has_bill_shape::dagger", "has_bill_shape::hooked", "has_bill_color::red", "has_bill_color::black"]
ATTRIBUTES += ["has_bill_length::long", "has_under_tail_color::red", "has_under_tail_color::black", "has_size::large"]
ATTRIBUTES += ["has_head_pattern::plain", "has_eye_color::red", "has_eye_color::black", "has_primary_color::red"]


@pytest.fixture
def attributes(cub_tree):
    (cub_tree / "attributes").mkdir()
    lines = [f"{number} {name}" for number, name in enumerate(ATTRIBUTES, 1)]
    (cub_tree / "attributes" / "attributes.txt").write_text("\n".join(lines))
    rows = ["30 10 50 50 0 0 20 5 9 0 0 100", "10 30 20 0 99 30 10 90 3 1 2 0"]
    (cub_tree / "attributes" / "class_attribute_labels_continuous.txt").write_text("\n".join(rows))
    return cub_tree


def test_attribute_difference_by_hand(attributes, refused):
    """Total variation of the normalised frequencies; the largest over the colour, pattern and shape of a part."""
    data = CUB(attributes)
    # beak: shape ½(|.75-.25| + |.25-.75|) = .5, colour ½(|.5-1| + |.5-0|) = .5; tail ½(|0-.75| + |1-.25|) = .75;
    # eyes: nobody described those of the first species; length, size, head and the primary colour are of no part
    assert data.attribute_difference(0, 1) == pytest.approx({"beak": 0.5, "eyes": 0.0, "tail": 0.75})
    assert data.attribute_difference("Laysan Albatross", 0) == data.attribute_difference(0, 1)
    assert set(data.attribute_difference(0, 0).values()) == {0.0}
    with refused("'Dodo'"):
        data.attribute_difference("Dodo", 0)
    (attributes / "attributes" / "attributes.txt").rename(attributes.parent / "attributes.txt")  # as published
    assert CUB(attributes).attribute_difference(0, 1)["tail"] == 0.75


def test_without_or_with_broken_attributes(attributes, refused):
    table = attributes / "attributes" / "class_attribute_labels_continuous.txt"
    table.write_text(table.read_text().splitlines()[0])
    with refused("class_attribute_labels_continuous.txt", "2 lines", "12 frequencies"):
        CUB(attributes)
    table.unlink()
    assert not hasattr(CUB(attributes), "attribute_difference")


def test_every_keypoint_belongs_to_a_part(cub_tree):
    names = [line.split(maxsplit=1)[1] for line in (cub_tree / "parts" / "parts.txt").read_text().splitlines()]
    assert {KEYPOINT_PARTS[name] for name in names} == set(PARTS)


DEV = Path(__file__).parents[3] / "shared" / "data" / "cub-dev" / "CUB_200_2011"


@pytest.mark.skipif(not DEV.is_dir(), reason="../shared/data/cub-dev is not there")
def test_attributes_of_the_published_tables():
    data = CUB(DEV)
    found = data.attribute_difference("Red winged Blackbird", "Yellow headed Blackbird")
    assert set(found) == set(PARTS) and max(found, key=found.get) in ("crown", "nape", "throat", "breast", "forehead")
    assert data.attribute_difference("American Crow", "Fish Crow")["crown"] < 0.3 < found["crown"]


def test_siblings_share_the_last_word_of_their_names(cub_tree):
    names = ["1 001.Brewer_Blackbird", "2 002.Rusty_Blackbird"]
    (cub_tree / "classes.txt").write_text("\n".join(names) + "\n")
    assert CUB(cub_tree).siblings("Brewer Blackbird") == (1,) and CUB(cub_tree).siblings(1) == (0,)
    (cub_tree / "classes.txt").write_text("1 001.Brewer_Blackbird\n2 002.American_Crow\n")
    assert CUB(cub_tree).siblings(0) == ()


def test_keypoints_and_attributes_reach_the_evaluation(attributes, tmp_path):
    """The one picture with visible keypoints: every pixel near the tail or the beak is on a part that differs."""
    from finercam.evaluation import evaluate

    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 2))
    data = CUB(attributes)
    model = LoadedModel(net.eval(), Preprocess((40, 60), mode="squash"), list(reversed(data.classes)), "small")
    lines = evaluate(data, model, tmp_path, contrasts=["pair"], groups=["parts"])
    (uniform,) = [x for x in lines if (x.contrast, x.metric) == ("uniform", "part_share")]
    placed = model.preprocess.annotation(data[0].annotation, data[0].open().size)
    points = torch.tensor([list(placed.keypoints.values())])
    x0, y0, x1, y1 = placed.box
    radius = torch.tensor([0.12 * ((x1 - x0) * (y1 - y0)) ** 0.5])
    nearest = metrics.keypoint_regions(points, radius, (40, 60))[0]
    parts = [KEYPOINT_PARTS[name] for name in placed.keypoints]
    known = data.attribute_difference(0, 1)
    share = sum((nearest == k).sum().item() for k, part in enumerate(parts) if known.get(part, 0) == 0.75)
    whole = sum((nearest == k).sum().item() for k, part in enumerate(parts) if part in known)
    assert uniform.pictures == 1 and uniform.mean == pytest.approx(share / whole)
