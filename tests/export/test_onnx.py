"""The exported graph gives the explainer's own maps, whatever the number of images and rivals."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from finercam import FinerCAM, FinerCAMError
from finercam.cli import app
from finercam.export.onnx import about, export_onnx
from finercam.export.traced import INPUTS, Traced

QUESTIONS = [
    (3, [-1, -1, -1], [[-1], [-1], [-1]], [1.0, 1.0, 1.0]),
    (2, [0, 4], [[1, 2], [3, -1]], [0.6, 0.0]),
    (1, [-1], [[-1, -1, -1]], [2.0]),
    (1, [2], [[4]], [0.3]),
]
"""Number of images, targets, rivals and gammas."""
needs_onnx = pytest.mark.skipif(
    not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))), reason="no onnx: the export's tests are left out"
)


def given(targets, rivals, gammas):
    return torch.tensor(targets), torch.tensor(rivals), torch.tensor(gammas)


def wanted(explain, images, targets, rivals, gammas):
    """The maps of FinerCAM, image by image, because the questions differ in what they leave open."""
    maps = []
    for image, target, row, gamma in zip(images, targets, rivals, gammas, strict=True):
        named = [d for d in row if d >= 0]
        target = None if target < 0 else target
        maps.append(explain(image[None], target=target, against=[named] if named else None, gamma=gamma).maps)
    return torch.cat(maps)


def head_twice(model):
    """A larger head: with random weights the contrast would be almost nothing."""
    model.head.weight.data *= 5
    return model


@pytest.fixture(scope="module")
def deep():
    """Three resolutions with pooling, a strided convolution and a residual connection between."""

    class Residual(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

        def forward(self, x):
            return torch.relu(x + self.norm(self.conv(x)))

    torch.manual_seed(1)
    stages = [nn.Conv2d(3, 6, 3, 2, 1), nn.SiLU(), nn.AvgPool2d(2), Residual(6), nn.MaxPool2d(2), Residual(6)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 5)).eval()


CASES = [
    pytest.param(
        "gap", {"method": "hirescam", "references": "similar", "num_references": 2, "weights": "probability"}
    ),
    pytest.param("deep", {}),
    pytest.param("vit", {}),
    pytest.param("gap", {"preset": "fast"}, marks=pytest.mark.slow),
    pytest.param("cnn", {"method": "gradcam", "layer": "stage1", "references": "nearest"}, marks=pytest.mark.slow),
    pytest.param(
        "cnn",
        {"method": "layercam", "layer": ["stage1", "stage2"], "fusion": "geometric", "references": "all"},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_traced_graph_answers_as_the_explainer(kind, options, toys, pictures, deep):
    model = deep if kind == "deep" else head_twice(getattr(toys, kind)())
    explain, images = FinerCAM(model, **options), pictures(3, 32 if kind == "deep" else 16)
    traced = Traced(explain.capture(images), explain.question, explain.head_rows(5))
    batch = 1 if kind == "vit" else None  # it calls len(x), which a trace takes for a constant
    graph = traced.trace(images, batch)
    assert not [node for node in graph.graph.nodes if "backward" in str(node.target)]
    for count, *question in QUESTIONS if batch is None else QUESTIONS[2:]:
        found = dict(zip(traced.names, graph(images[:count], *given(*question)), strict=True))
        assert (found["maps"] - wanted(explain, images[:count], *question)).abs().max() < 1e-4
        assert torch.allclose(found["logits"], model(images[:count]), atol=1e-5)


def test_a_question_that_would_be_refused_gives_nan(toys, pictures):
    explain, images = FinerCAM(toys.cnn(), preset="fast"), pictures(2)
    traced = Traced(explain.capture(images), explain.question)
    cases = [([5, 0], [1]), ([-2, 0], [1]), ([2, 0], [2]), ([0, 0], [5]), ([0, 0], [-3]), ([0, 0], [1, 1])]
    for targets, row in cases:
        _, maps, *_ = traced(images, *given(targets, [row, [3, -1][: len(row)]], [1.0, 1.0]))
        assert maps[0].isnan().all() and maps[1].isfinite().all()
    for gamma in (-0.1, float("nan"), float("inf")):
        _, maps, *_ = traced(images, *given([0, 0], [[1], [1]], [gamma, 1.0]))
        assert maps[0].isnan().all() and maps[1].isfinite().all()


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"method": "scorecam"}, "scorecam"),
        ({"method": "eigengradcam"}, "eigengradcam"),
        ({"smooth": "flip"}, "smooth"),
        ({"weights": "orthogonal", "preset": "measured"}, "orthogonal"),
        ({"layer": "input", "method": "relevance"}, "relevance"),
        ({"method": "layercam", "terms": True}, "not linear"),
    ],
)
@needs_onnx
def test_what_cannot_be_exported_is_refused(options, word, toys, pictures, tmp_path):
    terms = options.get("terms", False)
    explain = FinerCAM(toys.gap(), **{key: value for key, value in options.items() if key != "terms"})
    with pytest.raises(FinerCAMError, match=word):
        export_onnx(explain, pictures(1), tmp_path / "m.onnx", terms=terms)
    assert not list(tmp_path.iterdir())


@needs_onnx
def test_the_half_precision_model_is_refused(toys, pictures, tmp_path):
    with pytest.raises(FinerCAMError, match="bfloat16"):
        export_onnx(FinerCAM(toys.gap().to(torch.bfloat16)), pictures(1), tmp_path / "m.onnx")


@pytest.fixture(scope="module")
def exported(toys, pictures, tmp_path_factory):
    model, file = head_twice(toys.vit()), tmp_path_factory.mktemp("onnx") / "vit.onnx"
    explain = FinerCAM(model, class_names=[f"bird {k}" for k in range(5)])
    return explain, export_onnx(explain, pictures(2), file, name="toy", terms=True)


@needs_onnx
@pytest.mark.slow
def test_onnxruntime_gives_the_explainers_maps(exported, pictures):
    import onnxruntime

    explain, written = exported
    session = onnxruntime.InferenceSession(str(written.file), providers=["CPUExecutionProvider"])
    assert written.about["batch"] == 1  # the model calls len(x)
    images = pictures(1, seed=5)
    for count, *question in QUESTIONS[2:]:
        feeds = {n: v.numpy() for n, v in zip(INPUTS, (images[:count], *given(*question)), strict=True)}
        found = dict(zip(written.about["outputs"], map(torch.from_numpy, session.run(None, feeds)), strict=True))
        assert (found["maps"] - wanted(explain, images, *question)).abs().max() < 1e-4
        terms = found["terms_0"]
        rebuilt = terms[:, 0] - torch.tensor(question[2])[:, None, None] * terms[:, 1]
        assert torch.allclose(rebuilt, found["signed"], atol=1e-6)


@needs_onnx
@pytest.mark.slow
def test_the_metadata_says_what_is_in_the_graph(exported):
    explain, written = exported
    said = about(written.file)
    assert said == json.loads(json.dumps(dict(written.about)))
    assert (said["method"], said["layers"], said["size"]) == ("hirescam", list(explain.layers), [16, 16])
    assert said["classes"][3] == "bird 3" and said["difference"] < 1e-4


@needs_onnx
@pytest.mark.slow
def test_the_command_writes_a_graph(tmp_path):
    file = tmp_path / "new" / "cnn.onnx"
    done = CliRunner().invoke(app, ["export", "--model", "fieldguide/cnn", "--preset", "fast", "--out", str(file)])
    assert done.exit_code == 0, done.output
    said = about(file)
    assert "evidence" in said["outputs"] and said["preprocess"]["size"] == said["size"]
    assert said["model"] and len(said["classes"]) > 10 and said["batch"] is None


@needs_onnx
def test_another_file_is_no_exported_graph(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(FinerCAMError, match=r"m\.onnx"):
        about(tmp_path / "m.onnx")
