"""Class names that a model carries are used where none are given."""

from __future__ import annotations

import pytest
import torch

from finercam import FinerCAM, FinerCAMError
from finercam.names import names_in


def test_names_are_found_and_given_ones_come_first(toys, pictures):
    model = toys.gap(classes=3)
    assert names_in(model) is None and FinerCAM(model)(pictures(1)).class_names is None
    model.names = {0: "wren", 1: "robin", 2: "owl"}  # as Ultralytics has them
    answer = FinerCAM(model)(pictures(1), target="owl", against="wren")
    assert (answer.target_names, answer.reference_names) == (["owl"], [["wren"]])
    assert FinerCAM(model, class_names=["a", "b", "c"])(pictures(1), "b").target_names == ["b"]


@pytest.mark.parametrize(
    "carried", [{0: "0", 1: "1"}, ["LABEL_0", "LABEL_1"], "ab", {0: "wren", 2: "owl"}, [], None, torch.ones(2)]
)
def test_placeholders_and_other_things_are_no_names(toys, carried):
    model = toys.gap(classes=2)
    model.class_names = carried
    assert names_in(model) is None


def test_a_list_of_another_head_is_left_out(toys, pictures):
    model = toys.gap(classes=3)
    model.class_names = ["wren", "robin", "owl", "jay"]
    explain = FinerCAM(model)
    assert explain(pictures(1)).class_names is None and explain(pictures(1), target=2).class_names is None
    with pytest.raises(FinerCAMError, match="3"):
        FinerCAM(model)(pictures(1), target=3)
    with pytest.raises(FinerCAMError, match="4 class names for a model with 3"):
        FinerCAM(model, class_names=model.class_names)(pictures(1))


@pytest.mark.slow
def test_a_pipeline_of_transformers_is_explained_by_its_model(pictures):
    hf = pytest.importorskip("transformers")
    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, image_size=32,
        patch_size=8, id2label={0: "wren", 1: "robin", 2: "owl"},
    )  # fmt: skip
    model = hf.ViTForImageClassification(config).eval()
    processor = hf.ViTImageProcessor(size={"height": 32, "width": 32})
    pipe = hf.pipeline("image-classification", model=model, image_processor=processor)
    images = pictures(2, 32)
    answer = FinerCAM(pipe)(images, target="owl", against="wren")
    torch.testing.assert_close(answer.signed, FinerCAM(model)(images, target=2, against=0).signed)


@pytest.mark.slow
@pytest.mark.integration
def test_yolo_classifiers_are_explained_by_their_logits(pictures, tmp_path, monkeypatch):
    ultralytics = pytest.importorskip("ultralytics", reason="ultralytics is not installed; make integrations")
    monkeypatch.chdir(tmp_path)
    yolo = ultralytics.YOLO("yolo11n-cls.yaml")
    yolo.model.eval()
    images = pictures(2, 64)
    with pytest.warns(UserWarning, match="softmax"):
        answer = FinerCAM(yolo, preset="measured")(images)
    with torch.no_grad():
        probabilities, logits = yolo.model(images)
    torch.testing.assert_close(answer.logits, logits)
    torch.testing.assert_close(answer.probabilities, probabilities)
    assert answer.layers == ("model.10.conv",)
