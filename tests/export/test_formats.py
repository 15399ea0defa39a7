"""Explanations in the formats of other tools, read back by the tools' own libraries where these are installed."""

from __future__ import annotations

import csv
import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image
from torch import nn

from finercam import FinerCAM, FinerCAMError
from finercam.export.coco import rle
from finercam.export.formats import write
from finercam.export.label_studio import label_config
from finercam.export.record import Record, lit, on_photo, records
from finercam.images import Preprocess

NAMES = ["wren", '<b>"robin"</b>', "finch 🐦", "owl"]
PREPARE = Preprocess((16, 16), crop_ratio=0.8)


class Bright(nn.Module):
    """Class k is where channel k mod 3 is bright, so that the lit region is known."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 3, 1, bias=False)
        self.head = nn.Linear(3, 4, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.eye(3)[:, :, None, None])
            self.head.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [0, 0, 0]]))

    def forward(self, images):
        return self.head(self.features(images).mean(dim=(2, 3)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Black photos of different shapes with a red square in the middle."""
    folder, paths = tmp_path_factory.mktemp("photos"), []
    for name, size in (("a b.png", (80, 60)), ("c.png", (60, 90))):
        photo = Image.new("RGB", size)
        photo.paste((255, 0, 0), (size[0] // 2 - 10, size[1] // 2 - 10, size[0] // 2 + 10, size[1] // 2 + 10))
        photo.save(folder / name)
        paths.append(folder / name)
    return paths


@pytest.fixture(scope="module")
def answer(photos):
    images = torch.stack([PREPARE(Image.open(path)) for path in photos])
    explain = FinerCAM(Bright(), method="hirescam", layer="features", class_names=NAMES)
    return explain(images, target="wren", against='<b>"robin"</b>', gamma=1.0)


def test_the_map_lies_on_the_photos_own_pixels(answer, photos):
    for record, (left, top) in zip(records(answer, photos, PREPARE), ((30, 20), (20, 35)), strict=True):
        assert record.map.shape == record.size[::-1] and record.file.endswith(".png")
        (region,) = lit(record)
        x, y, width, height = region.box
        assert np.abs(np.array([x, y, x + width, y + height]) - [left, top, left + 20, top + 20]).max() <= 2
        assert region.share > 0.8


@settings(max_examples=30)
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(4, 30), st.floats(4, 30))
def test_a_constant_map_is_constant_where_the_model_saw_and_zero_elsewhere(x, y, width, height):
    placed = on_photo(np.full((3, 5), 0.5, np.float32), (20, 12), (x, y, x + width, y + height))
    columns, rows = np.meshgrid(np.arange(20) + 0.5, np.arange(12) + 0.5)
    inside = (columns > x) & (columns < x + width) & (rows > y) & (rows < y + height)
    assert np.allclose(placed[inside], 0.5) and not placed[~inside].any()


@settings(max_examples=50)
@given(arrays.arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
def test_run_lengths_are_pycocotools_own(mask):
    tools = pytest.importorskip("pycocotools.mask")
    packed = tools.frPyObjects(rle(mask), *mask.shape)
    assert np.array_equal(tools.decode(packed).astype(bool), mask)


@pytest.mark.parametrize("shape", ["rle", "polygon"])
def test_coco_is_read_by_pycocotools(answer, photos, tmp_path, shape):
    coco = pytest.importorskip("pycocotools.coco")
    (tmp_path / "coco.json").write_text(json.dumps(answer.to_coco(photos, PREPARE, shape=shape)))
    read = coco.COCO(str(tmp_path / "coco.json"))
    assert [one["name"] for one in read.loadCats(read.getCatIds())] == ["wren"]
    for image, record in zip(read.loadImgs(read.getImgIds()), records(answer, photos, PREPARE), strict=True):
        (annotation,) = read.loadAnns(read.getAnnIds(image["id"]))
        (region,) = lit(record)
        mask, own = read.annToMask(annotation).astype(bool), region.mask
        assert (mask & own).sum() / (mask | own).sum() > (0.999 if shape == "rle" else 0.8)
        assert annotation["attributes"]["against"] == ['<b>"robin"</b>'] and annotation["area"] == region.area


def test_label_studio_polygons_are_percent_of_the_photo(answer, photos):
    tasks = json.loads(json.dumps(answer.to_label_studio(photos, PREPARE, prefix="/data/?d=")))
    interface = ElementTree.fromstring(label_config(NAMES))
    labels = [label.get("value") for label in interface.iter("Label")]
    assert labels == NAMES
    for task, record in zip(tasks, records(answer, photos, PREPARE), strict=True):
        assert task["data"]["image"] == f"/data/?d={record.file}"
        (result,) = task["predictions"][0]["result"]
        points = np.array(result["value"]["points"])
        assert interface.find(f".//*[@name='{result['from_name']}']").get("toName") == result["to_name"]
        x, y, width, height = lit(record)[0].box
        low, high = points.min(0) * record.size / 100, points.max(0) * record.size / 100
        assert np.allclose([*low, *high], [x, y, x + width, y + height], atol=0.51)
        assert set(result["value"]["polygonlabels"]) <= set(labels)


def test_regions_are_fractions(answer, photos):
    rows = list(csv.DictReader(io.StringIO(answer.to_regions(photos, PREPARE))))
    assert [row["ac:isROIOf"] for row in rows] == [path.as_posix() for path in photos]
    for row, record in zip(rows, records(answer, photos, PREPARE), strict=True):
        x, _, _, height = lit(record)[0].box
        assert float(row["ac:xFrac"]) * record.size[0] == pytest.approx(x, abs=1e-3)
        assert float(row["ac:heightFrac"]) * record.size[1] == pytest.approx(height, abs=1e-3)
        assert row["dcterms:description"] == 'what tells wren from <b>"robin"</b>'


def test_rasters_are_pixel_for_pixel(answer, photos, tmp_path):
    folder = answer.to_rasters(tmp_path / "new", photos, PREPARE)
    for stem, record in zip(("a_b", "c"), records(answer, photos, PREPARE), strict=True):
        (file,) = folder.glob(f"*{stem}.png")
        image = Image.open(file)
        assert image.size == record.size and np.abs(np.asarray(image) / 65535 - record.map).max() < 1e-4
        said = json.loads(file.with_suffix(".json").read_text())
        assert said["photo"] == record.file and said["target"]["name"] == "wren"


@pytest.mark.slow
def test_a_dataset_keeps_photos_and_maps(answer, photos, tmp_path):
    datasets = pytest.importorskip("datasets")
    answer.to_dataset(photos, PREPARE).to_parquet(tmp_path / "birds.parquet")
    read = datasets.Dataset.from_parquet(str(tmp_path / "birds.parquet"), cache_dir=str(tmp_path / "cache"))
    for row, record in zip(read, records(answer, photos, PREPARE), strict=True):
        assert row["image"].size == row["map"].size == record.size
        assert np.abs(np.asarray(row["map"]) / 255 - record.map).max() < 3e-3
        assert (row["target"], row["references"]) == ("wren", ['<b>"robin"</b>'])


@pytest.mark.slow
@pytest.mark.integration
def test_fiftyone_samples_hold_the_heatmap(answer, photos):
    pytest.importorskip("fiftyone", reason="fiftyone is not installed; make integrations")
    for sample, record in zip(answer.to_fiftyone(photos, PREPARE), records(answer, photos, PREPARE), strict=True):
        assert sample.filepath.endswith(record.file.rpartition("/")[2])
        assert np.array_equal(sample.finercam.map, record.map) and sample.finercam.range == [0, 1]
        assert sample.finercam_target.label == "wren"


def test_a_weak_map_has_no_region(answer, photos):
    record = next(records(answer, photos, PREPARE))
    assert lit(Record(record.file, record.size, record.answer, record.map * 0.3, record.open)) == []
    dark = FinerCAM(Bright(), method="hirescam", layer="features", class_names=NAMES)(torch.zeros(1, 3, 16, 16))
    assert dark.to_coco(photos[:1], PREPARE)["annotations"] == []


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda one, photos: one.to_coco(photos[:1], PREPARE), "1 pictures for an explanation of 2"),
        (lambda one, photos: one.to_coco(photos, lambda x: x), "preprocess=function: expected a finercam"),
        (lambda one, photos: one.to_coco(photos, PREPARE, shape="box"), "shape='box'"),
        (lambda one, photos: one.to_regions(photos, PREPARE, level=0), "level=0"),
        (lambda one, photos: one.to_coco(torch.zeros(2, 3, 8, 8), PREPARE), "given as a photo"),
        (lambda one, photos: write("cocoa", [], photos[0].parent), "'cocoa': expected one of coco"),
    ],
)
def test_bad_calls_are_one_line(answer, photos, ask, words):
    with pytest.raises(FinerCAMError, match=words) as caught:
        ask(answer, photos)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.integration
def test_label_studio_takes_the_predictions(answer, photos):
    pytest.importorskip("label_studio_sdk", reason="label_studio_sdk is not installed; make integrations")
    from label_studio_sdk.label_interface import LabelInterface

    interface = LabelInterface(label_config(NAMES))
    for task in answer.to_label_studio(photos, PREPARE):
        assert all(interface.validate_prediction(prediction) for prediction in task["predictions"])
        assert not interface.validate_prediction(
            {"result": [task["predictions"][0]["result"][0] | {"from_name": "x"}]}
        )
