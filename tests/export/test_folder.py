"""Explanations as files: complete, safe, readable without pickle, and with the question that they answer."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from finercam import FinerCAM, FinerCAMError
from finercam.export.folder import INDEX, safe_stem, save
from finercam.images import Preprocess


@pytest.fixture
def answer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))
    explain = FinerCAM(model, class_names=["wren", "<b>robin</b>", "finch 🐦", "owl"], preset="measured")
    return explain(torch.rand(2, 3, 12, 16), against=[["owl", "finch 🐦"], ["<b>robin</b>"]], target="wren")


def test_every_number_comes_back(answer, tmp_path):
    index = json.loads(save(answer, tmp_path / "new" / "folder", ["a", "b"], model_id="mine").read_text())
    assert (index["schema"], index["model"]) == (1, "mine")
    for sample, entry in enumerate(index["explanations"]):
        assert entry["target"]["name"] == "wren"
        assert [d["name"] for d in entry["references"]] == answer.reference_names[sample]
        assert entry["target"]["probability"] == pytest.approx(float(answer.probabilities[sample, 0]))
        near = [d["similarity"] for d in entry["references"]]
        assert near == pytest.approx([s for s in answer.similarity[sample].tolist() if not math.isnan(s)])
        assert (entry["method"], entry["gamma"], entry["layers"]) == ("gradcam", 0.6, list(answer.layers))
        with np.load(tmp_path / "new" / "folder" / entry["files"]["maps"], allow_pickle=False) as maps:
            assert np.array_equal(maps["signed"], answer.signed[sample].numpy())
            assert np.array_equal(maps["plain_signed"], answer.plain.signed[sample].numpy())
            assert np.abs(maps["map"] - answer.maps[sample].numpy()).max() < 1e-3
            assert maps["map"].dtype == np.float16 and maps["map"].shape == (12, 16)
            assert maps["references"].tolist() == [d["id"] for d in entry["references"]]
            assert not any(array.dtype.hasobject for array in maps.values())
        assert Image.open(tmp_path / "new" / "folder" / entry["files"]["panel"]).format == "PNG"


def test_a_class_head_that_is_not_linear_gives_null_and_not_nan(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    asked = FinerCAM(model, references="predicted", num_references=1, layer="1")(torch.rand(1, 3, 6, 6))
    entry = json.loads(asked.save(tmp_path).read_text())["explanations"][0]
    assert entry["references"][0]["similarity"] is None


def test_hostile_and_equal_names_stay_inside_and_apart(answer, tmp_path):
    out = tmp_path / "out"
    names = ["../../escape", "../../ESCAPE"]
    index = json.loads(answer.save(out, names).read_text())
    assert [entry["name"] for entry in index["explanations"]] == names
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    assert len(list(out.iterdir())) == 5
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


@given(
    st.lists(
        st.text(max_size=120) | st.sampled_from(["/", "..", "NUL", "a\0b", "\ud800", "É", "E\u0301"]), max_size=8
    )
)
@settings(max_examples=60, deadline=None)
def test_any_name_gives_a_distinct_file_name(names):
    taken: set[str] = set()
    stems = [safe_stem(name, taken) for name in names]
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        assert Path(stem).name == stem and not stem.startswith((".", "-")) and "\0" not in stem
        assert 0 < len(stem.encode()) <= 100


def test_the_shown_part_of_the_photo_is_on_record(answer, tmp_path):
    photos = [Image.new("RGB", (64, 48), "green"), Image.new("RGB", (32, 24), "red")]
    prepare = Preprocess((12, 16))
    entries = json.loads(answer.save(tmp_path, image=photos, preprocess=prepare).read_text())["explanations"]
    assert entries[0]["photo"] == {"width": 64, "height": 48, "shown": list(prepare.crop_box((64, 48)))}


def test_what_does_not_fit_is_refused_before_anything_is_written(answer, tmp_path):
    with pytest.raises(FinerCAMError, match="1 names for an explanation of 2"):
        answer.save(tmp_path / "a", ["one"])
    with pytest.raises(FinerCAMError, match="1 pictures for an explanation of 2"):
        answer.save(tmp_path / "a", image=Image.new("RGB", (4, 4)))
    assert not (tmp_path / "a").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(FinerCAMError, match="cannot be written"):
        answer.save(tmp_path / "file")


def test_the_same_explanation_gives_the_same_files(answer, tmp_path):
    one, other = (save(answer[0], tmp_path / name) for name in "ab")
    for name in (INDEX, "image-0000.png"):
        assert (one.parent / name).read_bytes() == (other.parent / name).read_bytes()
