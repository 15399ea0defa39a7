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
from finercam.export.onnx import _fold_transposes, about, export_onnx, moved_by_rounding
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
    pytest.param("vit", {"preset": "fast"}),
    pytest.param("gap", {"preset": "fast"}),
    pytest.param("cnn", {"method": "gradcam", "layer": "stage1", "references": "nearest"}),
    pytest.param(
        "cnn",
        {"method": "layercam", "layer": ["stage1", "stage2"], "fusion": "geometric", "references": "all"},
    ),
]


@pytest.mark.parametrize(("kind", "options"), CASES)
def test_the_function_answers_as_the_explainer(kind, options, toys, pictures, deep):
    """Without a trace, whose import takes seconds."""
    explain = FinerCAM(deep if kind == "deep" else head_twice(getattr(toys, kind)()), **options)
    images = pictures(2, 32 if kind == "deep" else 16)
    traced = Traced(explain.capture(images), explain.question, explain.head_rows(5))
    found = dict(zip(traced.names, traced(images, *given(*QUESTIONS[1][1:])), strict=True))
    assert (found["maps"] - wanted(explain, images, *QUESTIONS[1][1:])).abs().max() < 1e-4


@pytest.mark.slow
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


class Attends(nn.Module):
    """Attention between a strided convolution and a pooling over all places, for any number of images."""

    def __init__(self):
        super().__init__()
        self.embed, self.attn = nn.Conv2d(3, 8, 4, 4), nn.MultiheadAttention(8, 2, batch_first=True)
        self.pool, self.head = nn.AdaptiveAvgPool2d(1), nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 5))

    def forward(self, x):
        maps = self.embed(x)
        tokens = maps.flatten(2).transpose(1, 2)
        tokens = tokens + self.attn(tokens, tokens, tokens, need_weights=False)[0]
        return self.head(self.pool(tokens.transpose(1, 2).reshape(maps.shape)).flatten(1))


@pytest.fixture(scope="module")
def attending(pictures):
    torch.manual_seed(0)
    explain, images = FinerCAM(Attends().eval(), layer="embed"), pictures(3)
    traced = Traced(explain.capture(images), explain.question)
    return explain, traced, traced.trace(images, None)


@pytest.mark.slow
def test_pooling_leaves_no_strides_in_the_graph(attending, pictures):
    explain, traced, graph = attending
    assert not [node for node in graph.graph.nodes if "strided" in str(node.target)]
    for count, *question in QUESTIONS:
        found = dict(zip(traced.names, graph(pictures(3)[:count], *given(*question)), strict=True))
        assert (found["maps"] - wanted(explain, pictures(3)[:count], *question)).abs().max() < 1e-4


@pytest.mark.slow
def test_no_weights_are_copied_for_each_token(attending):
    _, _, graph = attending
    expanded = [node for node in graph.graph.nodes if "expand" in str(node.target)]
    copied = [node for node in expanded if node.meta["val"].ndim == 3 and 0 in node.meta["val"].stride()[:1]]
    assert [tuple(node.meta["val"].shape) for node in copied] == []


@needs_onnx
def test_weights_read_both_ways_are_stored_twice():
    """OpenVINO 2026.4 takes a square weight for its transpose where a graph reads both."""
    import onnx
    import onnx_ir
    from onnx import helper, numpy_helper

    weight = torch.arange(9.0).view(3, 3).numpy()
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["y", "t"], ["z"]),
    ]
    x, z = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3]) for name in "xz")
    graph = helper.make_graph(nodes, "g", [x], [z], [numpy_helper.from_array(weight, "w")])
    model = onnx_ir.from_proto(helper.make_model(graph))
    _fold_transposes(model.graph)
    assert [node.op_type for node in model.graph] == ["MatMul", "MatMul"]
    first, second = (model.graph.initializers[node.inputs[1].name].const_value.numpy() for node in model.graph)
    assert (first == weight).all() and (second == weight.T).all()


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
    names = [f"bird {k}" for k in range(5)]
    with pytest.warns(UserWarning, match="Relevance.*cannot be exported.*HiResCAM"):
        written = export_onnx(FinerCAM(model, class_names=names), pictures(2), file, name="toy", terms=True)
    return FinerCAM(model, class_names=names, preset="fast"), written


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
@pytest.mark.skipif(find_spec("openvino") is None, reason="no openvino: the comparison with it is left out")
def test_openvino_gives_the_explainers_maps(exported, pictures):
    import openvino

    explain, written = exported
    compiled = openvino.compile_model(str(written.file), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    for count, *question in QUESTIONS[2:]:
        images = pictures(count, seed=5)
        feeds = {n: v.numpy() for n, v in zip(INPUTS, (images, *given(*question)), strict=True)}
        maps = torch.from_numpy(compiled(feeds)[compiled.outputs[1]])
        assert (maps - wanted(explain, images, *question)).abs().max() < 1e-4


@needs_onnx
@pytest.mark.slow
def test_the_metadata_says_what_is_in_the_graph(exported):
    explain, written = exported
    said = about(written.file)
    assert said == json.loads(json.dumps(dict(written.about)))
    assert (said["method"], said["layers"], said["size"]) == ("hirescam", list(explain.layers), [16, 16])
    assert "Relevance" in said["note"] and "HiResCAM" in said["note"]
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
@pytest.mark.slow
def test_a_vit_with_nothing_said_is_exported_and_one_line_says_how(tmp_path):
    file, size = tmp_path / "vit.onnx", "img_size=64&depth=2&embed_dim=32&num_heads=2"
    model = f"timm/vit_tiny_patch16_224?pretrained=false&num_classes=5&{size}"
    done = CliRunner().invoke(app, ["export", "--model", model, "--out", str(file)])
    assert done.exit_code == 0, done.output
    (line,) = done.stderr.splitlines()
    assert line == f"finercam: {about(file)['note']}" and "cannot be exported" in line


def test_only_what_the_preset_chose_is_replaced(toys, pictures):
    images = pictures(1)
    fine = FinerCAM(toys.vit(), gamma=0.3)
    other = fine.without_relevance(images)
    assert torch.equal(other(images).maps, FinerCAM(fine.model, preset="fast", gamma=0.3)(images).maps)
    assert fine(images).method == "relevance" and other(images).method == "hirescam"
    for explain in (FinerCAM(fine.model, "relevance", layer="blocks.1"), FinerCAM(toys.cnn())):
        assert explain.without_relevance(images) is explain


def test_equal_values_in_a_pooling_window_are_found(deep, pictures):
    explain = FinerCAM(deep)
    assert moved_by_rounding(explain, pictures(1, 32)) < 1e-4
    assert moved_by_rounding(explain, torch.ones(1, 3, 32, 32)) > 1e-3


@needs_onnx
def test_another_file_is_no_exported_graph(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no graph")
    with pytest.raises(FinerCAMError, match=r"m\.onnx"):
        about(tmp_path / "m.onnx")
