from __future__ import annotations

import errno
import json
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from finercam.errors import FinerCAMError
from finercam.images import Preprocess, read_image
from finercam.models import (
    LoadedModel,
    load_directory,
    load_model,
    model_sources,
    read_weights,
    save_directory,
)
from finercam.models.architectures import build_architecture
from finercam.models.loaded import parse_options
from finercam.models.preprocessing import open_clip_preprocess, processor_settings, timm_preprocess
from finercam.models.sources import builtin_names

BIRDS = Path(__file__).parents[2] / ".." / "shared" / "data" / "inat-birds"
WEIGHTS = Path(load_directory.__globals__["__file__"]).parent / "weights"
SMALL = {"num_classes": 3, "widths": [4, 4, 4, 8]}
BUILTIN = {"library": "builtin", "name": "cnn", "kwargs": SMALL}


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Any]:
    """The network says no, the caches are empty; lists what was tried."""
    tried: list[Any] = []

    def refuse(self: socket.socket, address: Any) -> None:
        tried.append(address)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")

    def resolve(host: Any, port: Any, *_args: Any, **_options: Any) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", port or 443))]

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tried


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = build_architecture(BUILTIN)
    return save_directory(
        tmp_path / "model",
        model,
        architecture=BUILTIN,
        class_names=["wren", "robin", "jay"],
        preprocess=Preprocess((32, 48), mode="squash", mean=(0.1, 0.2, 0.3), std=(1, 2, 3)),
        provenance={"trained": "never"},
    )


# --- strings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("resnet50", "no folder, and no source 'resnet50'"),
        ("tim/resnet18", "Did you mean 'timm'"),
        ("timm/", "name a model after timm/"),
        ("timm/resnt18", "timm has no such model. Did you mean 'timm/resnet18'"),
        ("torchvision/resnt18", "Did you mean 'resnet18'"),
        ("torchvision/deeplabv3_resnet50", "torchvision has no such classifier"),
        ("torchvision/resnet18?weights=V9", "no weights 'V9', only IMAGENET1K_V1"),
        ("open_clip/ViT-B-61/openai", "Did you mean 'ViT-B-16'"),
        ("open_clip/ViT-B-16/laion400_e32", "Did you mean 'laion400m_e32'"),
        ("open_clip/RN50?pretrained=false&pol=avg", "no option 'pol'.*Did you mean 'pool'"),
        ("open_clip/RN50?pretrained=false&pool=avg&image_size=32", "is for CLS pooled ViTs"),
        ("hf/./no/such/folder", "has no config.json"),
        ("timm/resnet18?pretrained", "not of the form key=value"),
        ("timm/resnet18?pretrained=false&no_such=1", "no_such"),
    ],
)
def test_wrong_strings_are_one_line(text: str, message: str, refused: list[Any]) -> None:
    with pytest.raises(FinerCAMError, match=message) as error:
        load_model(text)
    assert "\n" not in str(error.value)


def test_options_are_read_as_values() -> None:
    name, options = parse_options("timm/x?a=1&b=true&c=none&d=224x448&e=[1,2]&f=avg&g=0.5")
    assert name == "timm/x"
    assert options == {"a": 1, "b": True, "c": None, "d": (224, 448), "e": (1, 2), "f": "avg", "g": 0.5}


def test_sources_are_listed() -> None:
    patterns = [pattern for pattern, _ in model_sources()]
    assert "fieldguide/cnn" in patterns
    assert {p.split("/")[0] for p in patterns} >= {"timm", "torchvision", "hf", "open_clip", "FOLDER"}


@pytest.mark.parametrize("device", ["nonsense", "cuda:93"])
def test_a_device_that_is_not_there(device: str, saved: Path) -> None:
    with pytest.raises(FinerCAMError, match="cannot be used"):
        load_model(str(saved), device=device)


# --- the zoos, without their weights


@pytest.mark.slow
def test_timm_with_its_own_preprocessing_and_names() -> None:
    rng = torch.get_rng_state()
    loaded = load_model("timm/resnet18?pretrained=false")
    model, preprocess, names = loaded
    assert isinstance(loaded, LoadedModel)
    assert not model.training
    import timm.data

    config = timm.data.resolve_data_config(model=model)
    assert preprocess.size == (224, 224)
    assert preprocess.crop_ratio == config["crop_pct"]
    assert preprocess.mean == tuple(config["mean"])
    assert names[0].startswith("tench")
    assert len(set(names)) == 1000  # "crane" is a bird and a machine: each can be asked for
    assert torch.equal(torch.get_rng_state(), rng)
    again = load_model("timm/resnet18?pretrained=false").model
    assert torch.equal(again.fc.weight, model.fc.weight)


@pytest.mark.slow
def test_timm_with_another_head_and_size_has_no_names() -> None:
    model, preprocess, names = load_model(
        "timm/vit_tiny_patch16_224?pretrained=false&depth=1&num_classes=10&img_size=32x64&global_pool=avg"
    )
    assert names is None
    assert preprocess.size == (32, 64)
    assert model(torch.zeros(1, 3, 32, 64)).shape == (1, 10)


@pytest.mark.slow
def test_timm_preprocessing_makes_the_pixels_that_timm_makes() -> None:
    import numpy as np
    import timm.data
    import torchvision
    from PIL import Image

    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 255, (90, 130, 3), dtype=np.uint8))
    model, preprocess, _ = load_model("timm/resnet18?pretrained=false&num_classes=2")
    theirs = timm.data.create_transform(**timm.data.resolve_data_config(model=model))(image)
    assert (preprocess(image) - theirs).abs().max() < 0.05
    _, preprocess, _ = load_model("torchvision/mobilenet_v3_small?pretrained=false")
    weights = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT
    assert (preprocess(image) - weights.transforms(antialias=True)(image)).abs().max() < 0.05


@pytest.mark.slow
def test_torchvision_names() -> None:
    assert load_model("torchvision/shufflenet_v2_x0_5?pretrained=false").class_names[1] == "goldfish"
    model, _, names = load_model("torchvision/shufflenet_v2_x0_5?pretrained=false&num_classes=4")
    assert names is None
    assert model.fc.out_features == 4


def hf_folder(path: Path, **processor: Any) -> Any:
    import transformers as hf

    config = hf.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        image_size=32, patch_size=16, id2label={1: "jay", 0: "wren", 2: "jay"},
    )  # fmt: skip
    model = hf.ViTForImageClassification(config)
    model.save_pretrained(path)
    if processor:
        (path / "preprocessor_config.json").write_text(json.dumps(processor))
    return model.eval()


@pytest.mark.slow
def test_huggingface_folder(tmp_path: Path, refused: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = hf_folder(tmp_path / "vit", size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    images = torch.randn(2, 3, 32, 32)
    monkeypatch.chdir(tmp_path)
    for text in (f"hf/{tmp_path / 'vit'}", "hf/./vit"):
        model, preprocess, names = load_model(text)
        assert torch.equal(model(images).logits, theirs(images).logits)
        assert preprocess == Preprocess(
            (32, 32), mode="squash", interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3
        )
        assert names == ["wren", "jay (class 1)", "jay (class 2)"]
    with pytest.raises(FinerCAMError, match="load it as 'hf/"):
        load_model(tmp_path / "vit")


@pytest.mark.slow
def test_huggingface_folder_without_a_processor(tmp_path: Path, refused: list[Any]) -> None:
    hf_folder(tmp_path)
    with pytest.raises(FinerCAMError, match=r"no preprocessor_config\.json"):
        load_model(f"hf/{tmp_path}")


@pytest.mark.slow
def test_processor_settings_as_the_processors_use_them() -> None:
    """Equal to the processors of transformers on a picture, whatever their parameters."""
    import numpy as np
    import transformers as hf
    from PIL import Image

    noise = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    for processor in (
        hf.ViTImageProcessor(size={"height": 40, "width": 32}),
        hf.CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}),
        hf.ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.8),
        hf.EfficientNetImageProcessor(
            size={"height": 32, "width": 32}, do_center_crop=False, rescale_factor=1 / 127.5, rescale_offset=True,
            do_normalize=False, resample=2,
        ),
    ):  # fmt: skip
        image = Image.fromarray(noise)
        ours = processor_settings(processor.to_dict())(image)
        theirs = processor(image, return_tensors="pt")["pixel_values"][0]
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() < 0.05, type(processor).__name__


def test_processor_sizes_as_older_files_have_them() -> None:
    assert processor_settings({"size": 224}).mode == "squash"
    assert processor_settings({"size": 224, "crop_size": 224, "do_center_crop": True}).mode == "crop"
    assert processor_settings({"size": {"shortest_edge": 384}, "crop_pct": 0.875}).mode == "squash"
    with pytest.raises(FinerCAMError, match="without a size"):
        processor_settings({"do_resize": False})


@pytest.mark.slow
def test_open_clip_towers() -> None:
    published = load_model("open_clip/ViT-B-32?pretrained=false&image_size=64")
    mean = load_model("open_clip/ViT-B-32?pretrained=false&image_size=64&pool=avg")
    assert published.preprocess.size == (64, 64)
    assert published.preprocess.mean == pytest.approx((0.4815, 0.4578, 0.4082), abs=1e-4)
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one, other = published.model(images), mean.model(images)
        tower = mean.model.visual
        patches = tower.ln_post(tower.transformer(tower._embeds(images)))[:, 1:]
        assert torch.allclose(other, patches.mean(1) @ tower.proj, atol=1e-5)
    assert one.shape == (1, 512)
    assert not torch.allclose(one, other, atol=1e-3)


# --- no network


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "timm/resnet18",
        "timm/hf-hub:timm/resnet18.a1_in1k",
        "torchvision/resnet18",
        "hf/microsoft/resnet-18",
        "open_clip/ViT-B-32/laion400m_e32",
        "open_clip/RN50/openai",
    ],
)
def test_a_hub_out_of_reach_is_one_sentence_and_one_try(
    text: str, refused: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hubs' clients would try six times, pausing between."""
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    with pytest.raises(FinerCAMError, match="hub that has them cannot be reached; connect, or") as error:
        load_model(text)
    assert "\n" not in str(error.value)
    assert text in str(error.value)
    assert 1 <= len(refused) <= 3
    assert socket.getdefaulttimeout() is None


# --- folders


def test_folder_gives_back_what_was_saved(saved: Path) -> None:
    model = build_architecture(BUILTIN)
    model.load_state_dict(safetensors.torch.load_file(saved / "model.safetensors"))
    loaded = load_model(saved)
    images = torch.randn(2, 3, 32, 48)
    assert torch.equal(loaded.model(images), model(images))
    assert not loaded.model.training
    assert loaded.class_names == ["wren", "robin", "jay"]
    assert loaded.preprocess == Preprocess((32, 48), mode="squash", mean=(0.1, 0.2, 0.3), std=(1, 2, 3))
    assert loaded.source["provenance"] == {"trained": "never"}
    assert loaded.name == "model"
    assert load_model(saved, dtype=torch.float64).model(images.double()).dtype == torch.float64
    assert {path.name for path in saved.iterdir()} == {"model.safetensors", "config.json"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        {"library": "timm", "name": "mobilenetv2_035", "kwargs": {"num_classes": 3, "pad_type": "same"}},
        {"library": "torchvision", "name": "shufflenet_v2_x0_5", "kwargs": {"num_classes": 3}},
        {
            "library": "transformers",
            "name": "vit",
            "kwargs": {
                "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                "image_size": 32, "patch_size": 16, "num_labels": 3,
            },
        },
        {"library": "open_clip", "name": "ViT-S-32", "kwargs": {"pool": "avg", "image_size": [64, 32], "num_classes": 3}},
    ],
    ids=lambda architecture: architecture["library"],
)  # fmt: skip
def test_every_library_round_trips(architecture: dict[str, Any], tmp_path: Path) -> None:
    model = build_architecture(architecture).eval()
    save_directory(tmp_path / "m", nn.DataParallel(model), architecture=architecture)
    found = load_directory(tmp_path / "m").model
    images = torch.randn(1, 3, *((64, 32) if architecture["library"] == "open_clip" else (32, 32)))
    outputs = [out if isinstance(out, torch.Tensor) else out.logits for out in (model(images), found(images))]
    assert torch.equal(*outputs)
    assert outputs[0].shape == (1, 3)


def test_tied_tensors_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
            self.b.weight = self.a.weight

    monkeypatch.setitem(build_architecture.__globals__["BUILDERS"], "builtin", lambda name, kwargs: Tied())
    model = Tied()
    save_directory(tmp_path / "tied", model, architecture=BUILTIN)
    found = load_directory(tmp_path / "tied").model
    assert torch.equal(found.b.weight, model.a.weight)
    assert found.a.weight is found.b.weight


def test_saving_again_replaces_and_failing_leaves_the_old(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = build_architecture(BUILTIN)
    before = (saved / "config.json").read_text()
    monkeypatch.setattr("safetensors.torch.save_model", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_directory(saved, fresh, architecture=BUILTIN)
    assert (saved / "config.json").read_text() == before
    assert [path.name for path in saved.parent.iterdir()] == ["model"]
    monkeypatch.undo()
    save_directory(saved, fresh, architecture=BUILTIN, class_names=["a", "b", "c"])
    assert load_directory(saved).class_names == ["a", "b", "c"]
    assert torch.equal(load_directory(saved).model.head.weight, fresh.head.weight)
    assert [path.name for path in saved.parent.iterdir()] == ["model"]


def test_saving_over_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"x")
    with pytest.raises(FinerCAMError, match="is not a model folder; give another place"):
        save_directory(tmp_path / "photos", nn.Linear(1, 1), architecture=BUILTIN)
    assert (tmp_path / "photos" / "one.jpg").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "other"}, "is not a finercam model's"),
        ({"version": 7}, "has version 7; this finercam reads 1"),
        ({"architecture": None}, "must have library, name and kwargs"),
        ({"architecture": {"library": "os", "name": "system"}}, "unknown library 'os'"),
        ({"architecture": {"library": "tim", "name": "x"}}, "Did you mean 'timm'"),
        ({"architecture": BUILTIN | {"class": "os.system"}}, "must have library, name and kwargs"),
        ({"architecture": BUILTIN | {"name": "cn"}}, "no built-in architecture 'cn'. Did you mean 'cnn'"),
        ({"architecture": BUILTIN | {"kwargs": {"nom_classes": 3}}}, "builtin cannot build 'cnn'.*nom_classes"),
        ({"architecture": {"library": "timm", "name": "hf-hub:a/b"}}, "timm has no architecture 'hf-hub:a/b'"),
        ({"architecture": {"library": "timm", "name": "local-dir:/tmp"}}, "timm has no architecture"),
        *(
            (
                {"architecture": {"library": "timm", "name": "resnet18", "kwargs": {key: "x"}}},
                f"{key}' is not allowed",
            )
            for key in ("checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir", "trust_remote_code")
        ),
        (
            {"architecture": BUILTIN | {"kwargs": SMALL | {"num_classes": 4}}},
            "of another shape head.bias, head.weight",
        ),
        ({"classes": "wren"}, "classes must be a list of names"),
        ({"preprocess": None}, "preprocess is missing"),
        ({"preprocess": {"size": [8, 8], "men": 1}}, "no setting 'men'"),
    ],
)
def test_bad_configurations_are_one_line(change: dict[str, Any], message: str, saved: Path) -> None:
    config = json.loads((saved / "config.json").read_text()) | change
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(FinerCAMError, match=message) as error:
        load_model(saved)
    assert "\n" not in str(error.value)


def test_broken_files_are_one_line(saved: Path) -> None:
    weights, config = saved / "model.safetensors", (saved / "config.json").read_text()
    whole = weights.read_bytes()
    for broken in (b"", whole[:50], whole[:-9], b"\xff" * 100):
        weights.write_bytes(broken)
        with pytest.raises(FinerCAMError, match="cannot be read as weights") as error:
            load_model(saved)
        assert "\n" not in str(error.value)
    weights.unlink()
    with pytest.raises(FinerCAMError, match=r"has no model\.safetensors"):
        load_model(saved)
    for broken in ("{", "[]", "[" * 100_000, config[:40]):
        (saved / "config.json").write_text(broken)
        with pytest.raises(FinerCAMError, match=r"config\.json"):
            load_model(saved)
    (saved / "config.json").unlink()
    with pytest.raises(FinerCAMError, match=r"has no config\.json"):
        load_model(saved)


class Payload:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_pickle_with_a_payload_is_refused_and_not_run(saved: Path, tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    (saved / "model.safetensors").unlink()
    torch.save({"weight": torch.zeros(1), "x": Payload(mark)}, saved / "model.pt")
    with pytest.raises(FinerCAMError, match="no file of plain tensors and was not opened further") as error:
        load_model(saved)
    assert "\n" not in str(error.value)
    (tmp_path / "raw.bin").write_bytes(pickle.dumps(Payload(mark)))
    with pytest.raises(FinerCAMError):
        read_weights(tmp_path / "raw.bin")
    assert not mark.exists()


def test_state_dicts_in_their_usual_wrappings(tmp_path: Path) -> None:
    state = {"weight": torch.randn(3, 2), "bias": torch.randn(3)}
    for name, content in (
        ("plain", state),
        ("lightning", {"state_dict": state, "epoch": 3}),
        ("model", {"model": {f"module.{k}": v for k, v in state.items()}}),
    ):
        torch.save(content, tmp_path / f"{name}.pth")
        found = read_weights(tmp_path / f"{name}.pth")
        assert list(found) == ["weight", "bias"]
        assert torch.equal(found["weight"], state["weight"])
    torch.save([1, 2], tmp_path / "list.pt")
    for name in ("list.pt", "missing.pt"):
        with pytest.raises(FinerCAMError):
            read_weights(tmp_path / name)


def test_weights_that_do_not_fit(saved: Path) -> None:
    state = safetensors.torch.load_file(saved / "model.safetensors")
    state["extra.weight"] = torch.zeros(1)
    del state["head.bias"]
    safetensors.torch.save_file(state, saved / "model.safetensors")
    with pytest.raises(FinerCAMError, match=r"missing head\.bias; unexpected extra\.weight"):
        load_model(saved)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"])
def test_every_filter_of_pillow_stays_what_it_is(name: str) -> None:
    """timm and open_clip name the filter, transformers gives Pillow's number."""
    import torchvision
    from PIL import Image

    number = int(Image.Resampling[name.upper()])
    config = {"input_size": (3, 8, 8), "mean": (0.5,) * 3, "std": (0.5,) * 3, "interpolation": name}
    assert timm_preprocess(config).interpolation == name
    assert open_clip_preprocess({**config, "size": 8}).interpolation == name
    assert processor_settings({"size": 8, "resample": number}).interpolation == name
    noise = Image.effect_noise((30, 30), 90).convert("RGB")
    theirs = torchvision.transforms.functional.pil_to_tensor(noise.resize((8, 8), Image.Resampling(number))) / 255
    ours = Preprocess((8, 8), interpolation=name, mean=(0, 0, 0), std=(1, 1, 1))(noise)
    torch.testing.assert_close(ours, theirs)


def test_a_filter_that_pillow_does_not_have_is_refused() -> None:
    with pytest.raises(FinerCAMError, match="interpolation='random' is not one of bicubic"):
        timm_preprocess({"input_size": (3, 8, 8), "mean": (0,) * 3, "std": (1,) * 3, "interpolation": "random"})


def test_bare_weights_say_how_they_become_a_model_folder(tmp_path: Path) -> None:
    torch.save({"weight": torch.zeros(1)}, tmp_path / "best.pth")
    for path in (tmp_path, tmp_path / "best.pth"):
        with pytest.raises(FinerCAMError, match=r"no config\.json.*make one of best\.pth.*save_directory\(") as error:
            load_model(path)
        assert "\n" not in str(error.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FinerCAMError, match=r"is not a model folder: it has no config\.json$"):
        load_model(tmp_path / "empty")


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o027, 0o640, 0o750)])
def test_a_saved_model_has_the_rights_that_the_umask_leaves(
    mask: int, file: int, folder: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        saved = save_directory(tmp_path / "model", build_architecture(BUILTIN), architecture=BUILTIN)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in saved.iterdir()} == {file}
    assert saved.stat().st_mode & 0o777 == folder


@pytest.mark.slow
def test_names_of_classes_that_stand_in_the_configuration(tmp_path: Path, refused: list[Any]) -> None:
    """`id2label` gives the names, of a model folder too; the placeholders that transformers fills in are no names."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    small |= {"image_size": 32, "patch_size": 16}
    named = small | {"id2label": {"0": "wren", "1": "jay"}}
    for kwargs, expected in ((named, ["wren", "jay"]), (small | {"num_labels": 3}, None)):
        architecture = {"library": "transformers", "name": "vit", "kwargs": kwargs}
        model: Any = build_architecture(architecture)
        save_directory(tmp_path / "folder", model, architecture=architecture)
        assert load_model(tmp_path / "folder").class_names == expected
        model.save_pretrained(tmp_path / "hf")
        (tmp_path / "hf" / "preprocessor_config.json").write_text(json.dumps({"size": 32}))
        assert load_model(f"hf/{tmp_path / 'hf'}").class_names == expected


@pytest.mark.slow
def test_listing_models_imports_no_torch() -> None:
    code = (
        "import sys; from finercam.cli import main\n"
        "try: main(['models'])\nexcept SystemExit as end: assert not end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "fieldguide/vit" in done.stdout and "open_clip/<name>" in done.stdout


# --- built in


@pytest.mark.skipif(not (WEIGHTS / "fieldguide-cnn").is_dir(), reason="not trained yet")
@pytest.mark.parametrize("name", ["fieldguide", *builtin_names()])
def test_built_in_models_need_no_network(name: str, refused: list[Any]) -> None:
    model, preprocess, names = load_model(name)
    assert model(torch.zeros(1, 3, *preprocess.size)).shape == (1, len(names))
    assert refused == []


def test_an_unknown_built_in_model() -> None:
    with pytest.raises(FinerCAMError, match="fieldguide/cnn"):
        load_model("fieldguide/cmn")


# --- the bird classifier

TOP = {
    "black-capped_chickadee": ("Black-capped Chickadee", 0.76),
    "blue_grosbeak": ("Blue Grosbeak", 0.88),
    "scarlet_macaw": ("Scarlet Macaw", 0.73),
    "burrowing_owl": ("Burrowing Owl", 0.97),
}


@pytest.mark.slow
@pytest.mark.birds
@pytest.mark.skipif(not BIRDS.is_dir(), reason="the bird classifier is not on this machine")
def test_bird_classifier_as_a_folder(tmp_path: Path) -> None:
    import timm

    kwargs = {"num_classes": 965, "pad_type": "same"}
    model = timm.create_model("mobilenetv2_100", **kwargs)
    model.load_state_dict(safetensors.torch.load_file(BIRDS / "mobilenetv2_100.safetensors"))
    save_directory(
        tmp_path / "birds",
        model,
        architecture={"library": "timm", "name": "mobilenetv2_100", "kwargs": kwargs},
        class_names=(BIRDS / "labels.txt").read_text().splitlines(),
        preprocess=Preprocess(
            (224, 224), mode="squash", interpolation="bilinear", mean=(128 / 255,) * 3, std=(128 / 255,) * 3
        ),
        provenance={"source": "google-coral/test_data, Apache-2.0"},
    )
    model, preprocess, names = load_model(tmp_path / "birds")
    assert len(names) == 965
    paths = [next((BIRDS / "images").glob(f"{stem}.*")) for stem in TOP]
    with torch.no_grad():
        probabilities = model(torch.stack([preprocess(read_image(path)) for path in paths])).softmax(1)
    for row, (name, published) in zip(probabilities, TOP.values(), strict=True):
        assert f"({name})" in names[int(row.argmax())]
        assert float(row.max()) == pytest.approx(published, abs=0.1)  # those were read off the quantised model
