"""`?native`: every library's classifiers on pictures at their own shape, or one line where they cannot."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from finercam import FinerCAM, FinerCAMError, load_model
from finercam.cli import app
from finercam.commands.explain import load
from finercam.images import Preprocess
from finercam.models import LoadedModel, save_directory
from finercam.models.backbone import load_backbone
from finercam.models.native import any_size, at_native_size, native_preprocess
from finercam.models.openclip import ImageTower

pytestmark = pytest.mark.slow  # imports the libraries of models

VIT = {"depth": 2, "embed_dim": 48, "num_heads": 3, "img_size": 64, "num_classes": 5}
TIMM_VIT = "timm/vit_tiny_patch16_224?pretrained=false&" + "&".join(f"{key}={value}" for key, value in VIT.items())
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
SMALL |= {"image_size": 64, "patch_size": 16, "num_labels": 3}


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported when the first test runs, so that collecting the tests stays cheap."""
    global hf, open_clip, timm, torchvision
    import open_clip.model
    import timm
    import torchvision
    import transformers as hf


def photo(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)


def hf_folder(path: Path, model: Any) -> str:
    model.save_pretrained(path)
    settings = {"size": {"height": 64, "width": 64}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return f"hf/{path}"


def timm_folder(path: Path) -> str:
    """A ViT that was saved without a word of other sizes."""
    architecture = {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": VIT}
    save_directory(path, fixed_vit(), architecture=architecture, preprocess=Preprocess((64, 64)))
    return str(path)


def fixed_vit(**options: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", **VIT | options).eval()


def same_weights(twin: nn.Module) -> Callable[[nn.Module], nn.Module]:
    def fill(model: nn.Module) -> nn.Module:
        twin.load_state_dict(model.state_dict())
        return twin.eval()

    return fill


def interpolating(model: Any) -> Callable[..., Any]:
    """transformers' classifier, from its own folder, called as its documentation says."""
    fresh = type(model).from_pretrained(model.name_or_path).eval()
    return lambda images: fresh(pixel_values=images, interpolate_pos_encoding=True).logits


def plain(model: Any) -> Callable[..., Any]:
    fresh = type(model).from_pretrained(model.name_or_path).eval()
    return lambda images: fresh(pixel_values=images).logits


def builtin(name: str) -> tuple[Callable[[Path], str], Callable[[Any], Any], int, int]:
    stride = {"cnn": 4, "resnet": 16, "vit": 8}[name]
    return lambda _: f"fieldguide/{name}", lambda _: load_model(f"fieldguide/{name}").model, max(stride, 8), stride


# what names it; the same by hand; what sides are rounded up to; the stride of the map
CASES: dict[str, tuple[Callable[[Path], str], Callable[[Any], Any], int, int]] = {
    "timm-vit": (lambda _: TIMM_VIT, lambda m: same_weights(fixed_vit(dynamic_img_size=True))(m), 16, 16),
    "timm-folder": (timm_folder, lambda m: same_weights(fixed_vit(dynamic_img_size=True))(m), 16, 16),
    "timm-cnn": (
        lambda _: "timm/test_resnet?pretrained=false&num_classes=5",
        lambda m: same_weights(timm.create_model("test_resnet", num_classes=5))(m), 32, 32,
    ),
    "torchvision": (
        lambda _: "torchvision/resnet18?pretrained=false&num_classes=5",
        lambda m: same_weights(torchvision.models.resnet18(num_classes=5))(m), 32, 32,
    ),
    "hf-vit": (lambda p: hf_folder(p, hf.ViTForImageClassification(hf.ViTConfig(**SMALL))), interpolating, 16, 16),
    "hf-dinov2": (
        lambda p: hf_folder(p, hf.Dinov2ForImageClassification(hf.Dinov2Config(**SMALL | {"patch_size": 14}))),
        plain, 14, 14,
    ),
    "fieldguide-cnn": (*builtin("cnn")[:2], 32, 4),
    "fieldguide-resnet": (*builtin("resnet")[:2], 32, 16),
    "fieldguide-vit": (*builtin("vit")[:2], 8, 8),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_maps_have_the_shape_of_the_picture(name: str, tmp_path: Path) -> None:
    string, by_hand, multiple, stride = CASES[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        text = string(tmp_path / "model")
    mark = "&" if "?" in text else "?"
    model, prepare, names = load_model(f"{text}{mark}native=130")
    reference: Any = by_hand(model)
    for size in ((200, 120), (120, 200), (90, 90)):
        image = photo(*size)
        images = prepare(image)[None]
        shrink = min(1, 130 / max(size))
        width, height = (-(-int(side * shrink) // multiple) * multiple for side in size)
        assert images.shape == (1, 3, height, width)
        answer = FinerCAM(model, class_names=names, preset="measured")(images)
        assert answer.signed.shape == (1, height // stride, width // stride)
        assert answer.maps.shape[-2:] == (height, width)
        with torch.no_grad():
            torch.testing.assert_close(answer.logits, reference(images))


def test_positions_are_not_only_accepted(tmp_path: Path) -> None:
    """A ViT's own size stays what it was, to the last bit, and its table is interpolated elsewhere."""
    square = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fixed, free = load_model(TIMM_VIT), load_model(f"{TIMM_VIT}&native")
    with torch.no_grad():
        assert torch.equal(fixed.model(square), free.model(square))
        assert torch.equal(fixed_vit()(square), any_size(fixed_vit())(square))
        with pytest.raises(AssertionError):
            fixed.model(torch.zeros(1, 3, 48, 80))
    assert free.preprocess == replace(fixed.preprocess, size=None, mode="native", crop_ratio=1.0, max_side=1000)
    assert free.source["model"].endswith("&native")


@torch.no_grad()
def test_open_clip_is_interpolated_as_its_own_resize_does(toys: Any) -> None:
    def clip(size: Any) -> Any:
        vision = {"image_size": size, "patch_size": 16, "layers": 2, "width": 64, "head_width": 32}
        text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
        return open_clip.model.CLIP(24, vision, text).eval()

    visual = toys.seeded(clip(64).visual)
    wide = clip((112, 64))
    state = {f"visual.{name}": value.clone() for name, value in visual.state_dict().items()}
    open_clip.model.resize_pos_embed(state, wide)
    wide.load_state_dict(state, strict=False)
    square = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    published = visual(square)
    loaded = at_native_size("open_clip/x?native", LoadedModel(ImageTower(visual, 24), Preprocess((64, 64))), 100)
    torch.testing.assert_close(loaded.model(square), published)
    images = loaded.preprocess(photo(120, 200))[None]
    assert images.shape == (1, 3, 112, 64)
    torch.testing.assert_close(loaded.model(images), wide.visual(images))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("torchvision/vit_b_32?pretrained=false&native", "takes 224x224 pixels only, so leave .native out"),
        ("timm/mixer_s32_224?pretrained=false&native", "takes 224x224 pixels only"),
        ("fieldguide/vit?native=0", "native=0 is not the longest side in pixels"),
        ("fieldguide/vit?native=200x300", r"native=\(200, 300\) is not the longest side"),
        ("fieldguide/vit?natve=300", "no option 'natve'.*Did you mean 'native'"),
        ("fieldguide/vit?pretrained", "not of the form key=value"),
    ],
)
def test_what_cannot_be_is_one_line(text: str, message: str) -> None:
    with pytest.raises(FinerCAMError, match=message) as told:
        load_model(text)
    assert "\n" not in str(told.value)


def test_false_is_the_model_as_it_is() -> None:
    assert load_model("fieldguide/cnn?native=false").preprocess == load_model("fieldguide/cnn").preprocess


def test_a_folder_that_is_native_takes_another_side(tmp_path: Path) -> None:
    architecture = {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": VIT | {"dynamic_img_size": True}}
    prepare = native_preprocess(Preprocess((64, 64)), 100, 16)
    folder = save_directory(tmp_path / "vit", fixed_vit(), architecture=architecture, preprocess=prepare)
    assert load_model(f"{folder}?native=500").preprocess == replace(prepare, max_side=500)


def test_a_backbone_takes_the_same_string() -> None:
    text = "timm/vit_tiny_patch16_224?pretrained=false&depth=1&img_size=64"
    native = load_backbone(f"{text}&native=130")
    assert native.preprocess == load_backbone(text, native=True, max_side=130).preprocess
    with pytest.raises(FinerCAMError, match="leave size=64 out"):
        load_backbone(f"{text}&native", size=64)


def test_a_transformer_can_be_copied_and_pickled(tmp_path: Path) -> None:
    """What makes it interpolate goes with the copy and stays with its own model."""
    model = any_size(hf.ViTForImageClassification(hf.ViTConfig(**SMALL)).eval())
    images = torch.zeros(1, 3, 48, 80)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            twin.classifier.bias += 1
            torch.testing.assert_close(twin(images).logits, model(images).logits + 1)


def test_the_commands_take_it(tmp_path: Path) -> None:
    """Through `explain` (where --size is the longest side) and `evaluate`, with lying and standing pictures at once."""
    names = load_model("fieldguide/vit").class_names or []
    data = tmp_path / "data"
    for at, (width, height) in enumerate(((120, 200), (200, 120), (104, 200), (120, 200))):
        file = data / names[at % 2] / f"{at}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(width, height).save(file)

    def run(*arguments: object) -> Any:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, result.output
        return result

    for name, cell, long in (("vit", 8, 200), ("cnn", 4, 224)):
        out = tmp_path / name
        run(
            "explain",
            data / names[0] / "0.png",
            "--model",
            f"fieldguide/{name}?native",
            "--preset",
            "measured",
            "--out",
            out,
        )
        entry = json.loads((out / "explanations.json").read_text())["explanations"][0]
        assert entry["map_size"] == [long // cell, {200: 120, 224: 128}[long] // cell]
        with np.load(out / entry["files"]["maps"], allow_pickle=False) as maps:
            loaded = load_model(f"fieldguide/{name}")
            prepare = native_preprocess(loaded.preprocess, 1000, {"vit": 8, "cnn": 1}[name])
            expected = FinerCAM(loaded.model, preset="measured")(prepare(photo(120, 200))[None])
            np.testing.assert_allclose(maps["signed"], expected.signed[0].numpy(), atol=1e-6)
    assert load("fieldguide/vit?native", "cpu", 80).preprocess.max_side == 80
    out = tmp_path / "table"
    options = ["--contrasts", "pair", "--metrics", "shape", "--target", "prediction", "--limit", 3]
    run("evaluate", data, "--model", "fieldguide/vit?native=96", "--out", out, *options)
    assert "at their own size (native)" in (out / "summary.md").read_text()
    assert json.loads((out / "summary.json").read_text())
