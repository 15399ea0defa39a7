"""What SECURITY.md promises: files from strangers run no code, write nowhere else, and do not fill the memory."""

from __future__ import annotations

import json
import os
import pickle
import socket
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from finercam.cli import app
from finercam.concept import load_image_text
from finercam.data import open_dataset
from finercam.data.files import read_json
from finercam.errors import FinerCAMError
from finercam.images import MAX_BYTES, Preprocess, read_image
from finercam.models import load_model, read_weights, save_directory
from finercam.models.architectures import build_architecture
from finercam.models.backbone import load_backbone
from finercam.models.budget import Budget
from finercam.probe import compare
from finercam.probe.released import read_head

CNN = {"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 2, "widths": [4, 4, 4, 8]}}


class Payload:
    """A pickle that leaves a mark where it is executed."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Where a payload would leave its mark; no test may."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asks whether to run code"))
    place = tmp_path / "executed"
    yield place
    assert not place.exists()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No hub, an empty TORCH_HOME, which is returned."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch"


def refused(call: Any, says: str = "") -> None:
    with pytest.raises(FinerCAMError) as told:
        call()
    assert says in str(told.value) and "\n" not in str(told.value)
    assert len(str(told.value)) < 600


def claiming(path: Path, architecture: dict[str, Any]) -> Path:
    """A small model folder whose config.json names another architecture than its weights are of."""
    folder = save_directory(path / "model", build_architecture(CNN), architecture=CNN)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architecture": architecture}))
    return folder


def run(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


# --- weights and configurations run no code


def poisoned(path: Path, mark: Path, how: str) -> Path:
    """A file at `path` that runs a payload where it is unpickled."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"weight": torch.zeros(2, 8), "extra": Payload(mark)}
    if how == "raw":
        path.write_bytes(pickle.dumps(Payload(mark)))
    else:
        torch.save(state, path, _use_new_zipfile_serialization=how == "zip")
    return path


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["zip", "legacy", "raw"])
@pytest.mark.parametrize("file", ["model.pt", "model.pth", "model.safetensors"])
def test_a_model_folder(how: str, file: str, mark: Path, tmp_path: Path) -> None:
    folder = save_directory(tmp_path / "model", build_architecture(CNN), architecture=CNN)
    (folder / "model.safetensors").unlink()
    poisoned(folder / file, mark, how)
    refused(lambda: load_model(folder), file)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["zip", "legacy", "raw"])
def test_a_head_for_import(how: str, mark: Path, tmp_path: Path) -> None:
    poisoned(tmp_path / "head.pth", mark, how)
    (tmp_path / "names.txt").write_text("wren\nrobin\n")
    done = run(
        *("probe", "--import-head", tmp_path / "head.pth", "--classes", tmp_path / "names.txt"),
        *("--backbone", "fieldguide/cnn", "--out", tmp_path / "out"),
    )
    assert done.exit_code == 2 and "head.pth" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["zip", "legacy", "raw"])
def test_weights_of_timm(how: str, mark: Path, tmp_path: Path, offline: Path) -> None:
    file = poisoned(tmp_path / "weights.pth", mark, how)
    refused(lambda: load_model(f"timm/test_resnet?pretrained=false&checkpoint_path={file}"), "pickle")
    folder = tmp_path / "local"
    poisoned(folder / "pytorch_model.bin", mark, how)
    (folder / "config.json").write_text(json.dumps({"architecture": "test_resnet", "num_classes": 2}))
    refused(lambda: load_model(f"timm/local-dir:{folder}"), "pickle")


@pytest.mark.slow
def test_an_npz_for_timm(mark: Path, tmp_path: Path) -> None:
    content = np.array([Payload(mark)], dtype=object)
    np.savez(tmp_path / "weights.npz", **{"embedding/kernel": content, "cls": content})
    refused(
        lambda: load_model(f"timm/vit_tiny_patch16_224?pretrained=false&checkpoint_path={tmp_path / 'weights.npz'}")
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("how", ["zip", "legacy", "raw"])
def test_a_poisoned_cache_of_torchvision(how: str, mark: Path, offline: Path) -> None:
    poisoned(offline / "hub" / "checkpoints" / "squeezenet1_1-b8a52dc0.pth", mark, how)
    refused(lambda: load_model("torchvision/squeezenet1_1"), "a pickle that holds more than tensors")


@pytest.mark.slow
def test_a_folder_of_transformers(mark: Path, tmp_path: Path, offline: Path) -> None:
    """Pickled weights and code that the configuration names are refused, without a prompt."""
    folder = tmp_path / "hf"
    poisoned(folder / "pytorch_model.bin", mark, "zip")
    (folder / "preprocessor_config.json").write_text(json.dumps({"size": 16}))
    config: dict[str, Any] = {"model_type": "resnet", "hidden_sizes": [8], "depths": [1], "embedding_size": 8}
    (folder / "config.json").write_text(json.dumps(config))
    for load in (load_model, load_backbone):
        refused(lambda load=load: load(f"hf/{folder}"), str(folder))
    (folder / "code.py").write_text(f"import os\nos.mkdir({str(mark)!r})\nclass C: ...\n")
    own = {"AutoConfig": "code.C", "AutoModelForImageClassification": "code.C", "AutoModel": "code.C"}
    for model_type in ("resnet", "theirs"):
        (folder / "config.json").write_text(json.dumps(config | {"model_type": model_type, "auto_map": own}))
        for load in (load_model, load_backbone):
            refused(lambda load=load: load(f"hf/{folder}"), str(folder))


def test_a_poisoned_cache_of_features(mark: Path, tmp_path: Path) -> None:
    """Shards that are no safetensors, have another width or are not finite are skipped and computed again."""
    from finercam.probe.features import extract

    for name, colour in (("wren", 40), ("robin", 200)):
        (tmp_path / "birds" / name).mkdir(parents=True)
        Image.new("RGB", (32, 32), (colour, 90, 90)).save(tmp_path / "birds" / name / "a.png")
    dataset, backbone = open_dataset(tmp_path / "birds"), load_backbone("fieldguide/cnn", size=32)
    honest = extract(dataset, backbone, tmp_path / "cache")
    (shard,) = (tmp_path / "cache").rglob("*.safetensors")
    from safetensors import safe_open

    with safe_open(shard, "pt") as file:
        digests = file.metadata()
    poisoned(shard.with_name("a.safetensors"), mark, "raw")
    for rows in (torch.zeros(2, 3), torch.full((2, backbone.dim), torch.nan), torch.zeros(2)):
        save_file({"features": rows}, shard, digests)
        again = extract(dataset, backbone, tmp_path / "cache")
        torch.testing.assert_close(again.values, honest.values, rtol=0, atol=0)
        for made in set((tmp_path / "cache").rglob("*.safetensors")) - {shard, shard.with_name("a.safetensors")}:
            made.unlink()


def test_a_matlab_file(mark: Path, tmp_path: Path) -> None:
    (tmp_path / "devkit").mkdir()
    (tmp_path / "cars_test").mkdir()
    for content in (pickle.dumps(Payload(mark)), b"MATLAB 5.0 MAT-file" + b"\xff" * 300, b"", b"\0" * 200):
        (tmp_path / "devkit" / "cars_meta.mat").write_bytes(content)
        refused(lambda: open_dataset(f"cars:{tmp_path}"), "cars_meta.mat")


# --- nothing is larger than it looks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"num_classes": 10**9}, "too many for its weights"),
        ({"num_classes": 10**30}, ""),
        ({"widths": [4, 4, 10**6, 10**6]}, "too many for its weights"),
        ({"num_classes": -1}, ""),
        ({"num_classes": "2"}, ""),
        ({"num_classes": 2.5}, ""),
        ({"num_classes": None}, ""),
        ({"widths": {"a": 1}}, ""),
        ({"widths": []}, ""),
        ({"norm": [[[[]]]]}, "does not fit"),
    ],
    ids=str,
)
def test_an_absurd_architecture_is_one_line(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    folder = save_directory(tmp_path / "model", build_architecture(CNN), architecture=CNN)
    config = json.loads((folder / "config.json").read_text())
    config["architecture"]["kwargs"] |= change
    (folder / "config.json").write_text(json.dumps(config))
    refused(lambda: load_model(folder), says or str(folder))


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": {"img_size": 10**6}},
        {"library": "timm", "name": "vit_tiny_patch16_224", "kwargs": {"embed_dim": 3 * 10**5}},
        {"library": "timm", "name": "resnet18", "kwargs": {"num_classes": 10**8}},
        {"library": "torchvision", "name": "resnet18", "kwargs": {"num_classes": 10**8}},
        {"library": "transformers", "name": "vit", "kwargs": {"hidden_size": 12 * 10**6, "num_hidden_layers": 1}},
        {"library": "transformers", "name": "vit", "kwargs": {"image_size": 10**7, "num_hidden_layers": 1}},
        {"library": "builtin", "name": "vit", "kwargs": {"num_classes": 2, "grid": 10**5}},
        {
            "library": "probed",
            "name": "x",
            "kwargs": {"backbone": {**CNN, "pool": "avg"}, "dim": 10**6, "num_classes": 10**6, "bias": True},
        },
    ],
    ids=lambda value: f"{value['library']}-{next(iter(value['kwargs']))}",
)
def test_no_library_is_let_to_fill_the_memory(architecture: dict[str, Any], tmp_path: Path) -> None:
    refused(lambda: load_model(claiming(tmp_path, architecture)), "too many for its weights")


@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        {"library": "transformers", "name": "vit", "kwargs": {"num_labels": 10**8}},
        {"library": "transformers", "name": "clip", "kwargs": {"vision_config": {"num_labels": 10**8}}},
        {
            "library": "probed",
            "name": "x",
            "kwargs": {
                "backbone": {
                    "library": "transformers",
                    "name": "resnet",
                    "kwargs": {"depths": [10**8]},
                    "pool": "avg",
                },
                "dim": 2,
                "num_classes": 2,
                "bias": True,
            },
        },
    ],
    ids=("classifier", "part", "backbone"),
)
def test_tables_that_a_library_makes_before_the_model_are_limited_too(
    architecture: dict[str, Any], tmp_path: Path
) -> None:
    """transformers makes a dictionary of `num_labels` names, 11 GB for 268 bytes of configuration."""
    folder = claiming(tmp_path, architecture)
    tracemalloc.start()
    try:
        refused(lambda: load_model(folder), "too many for its weights")
        assert tracemalloc.get_traced_memory()[1] < 200e6
    finally:
        tracemalloc.stop()


VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
VIT |= {"image_size": 32, "patch_size": 16}
CLIP_PARTS = {"text_config": VIT | {"vocab_size": 10}, "projection_dim": 8}
ELSEWHERE = {
    "hub": ("timm_wrapper", {"architecture": "hf-hub:timm/resnet18.a1_in1k"}),
    "folder": ("timm_wrapper", {"architecture": "local-dir:/etc"}),
    "backbone": ("upernet", {"backbone": "microsoft/resnet-50"}),
    "attention": ("vit", {**VIT, "attn_implementation": "org/repo"}),
    "hidden-attention": ("vit", {**VIT, "_attn_implementation": "org/repo"}),
    "part": ("clip", {**CLIP_PARTS, "vision_config": {**VIT, "attn_implementation": "org/repo"}}),
    "name": ("vit", {**VIT, "hidden_act": "org/repo"}),
}


@pytest.fixture
def unplugged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Every try to reach the network is refused at the socket, and fails the test at its end."""
    tried: list[Any] = []

    def refuse(*args: Any, **_options: Any) -> None:
        tried.append(args[-2:])
        raise ConnectionRefusedError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield
    assert tried == []


@pytest.mark.slow
@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_model_folder_leads_nowhere_else(case: str, unplugged: None, tmp_path: Path) -> None:
    name, kwargs = ELSEWHERE[case]
    architecture = {"library": "transformers", "name": name, "kwargs": kwargs}
    refused(lambda: load_model(claiming(tmp_path, architecture)), str(tmp_path))
    with pytest.raises(FinerCAMError, match=r"here|allowed"):
        build_architecture(architecture)
    with pytest.raises(FinerCAMError):
        save_directory(tmp_path / "other", torch.nn.Linear(1, 1), architecture=architecture)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("library", "name", "kwargs"),
    [
        ("timm", "resnet18", {"features_only": True}),
        ("timm", "vit_tiny_patch16_224", {"act_layer": "../../etc/x"}),
        ("timm", "resnet18", {"pretrained_cfg_overlay": {"file": "/etc/x"}}),
        ("torchvision", "resnet18", {"weights": "DEFAULT"}),
        ("torchvision", "resnet18", {"check_hash": True, "model_dir": "/etc"}),
        ("open_clip", "ViT-B-32", {"pretrained": "openai"}),
        ("open_clip", "ViT-B-32", {"force_custom_text": True}),
        ("open_clip", "hf-hub:org/repo", {}),
    ],
)
def test_options_that_are_not_known_are_refused(
    library: str, name: str, kwargs: dict[str, Any], unplugged: None
) -> None:
    with pytest.raises(FinerCAMError, match=r"allowed|has no architecture"):
        build_architecture({"library": library, "name": name, "kwargs": kwargs}, budget=0)


@pytest.mark.slow
def test_an_image_tower_needs_no_text_tower_of_the_hub(unplugged: None) -> None:
    """open_clip describes the text tower of this one by a repository."""
    tower = build_architecture(
        {"library": "open_clip", "name": "coca_roberta-ViT-B-32", "kwargs": {"image_size": 32}}
    )
    with torch.no_grad():
        assert tower.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 512)


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in ELSEWHERE if case != "name"])
@pytest.mark.parametrize("load", [load_model, load_backbone, load_image_text], ids=lambda load: load.__name__)
def test_a_folder_of_transformers_leads_nowhere_else(
    case: str, load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    name, settings = ELSEWHERE[case]
    (tmp_path / "config.json").write_text(json.dumps({**settings, "model_type": name}))
    monkeypatch.setattr(
        "finercam.models.hub._hub_answers", lambda: True
    )  # the only look at the network that is meant
    with monkeypatch.context() as patched:
        tried: list[Any] = []
        patched.setattr(socket.socket, "connect", lambda *args: tried.append(args))
        patched.setattr(socket, "getaddrinfo", lambda *args, **_: tried.append(args))
        refused(lambda: load(f"hf/{tmp_path}"), "which leads elsewhere")
        assert tried == []


def test_the_budget_brings_no_compiler() -> None:
    """Wrapped by PyTorch to keep Dynamo out, it would import it: seconds for every model folder."""
    assert not hasattr(Budget.__torch_dispatch__, "__wrapped__")


def test_a_configuration_without_end(tmp_path: Path) -> None:
    folder = save_directory(tmp_path / "model", build_architecture(CNN), architecture=CNN)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(config + " " * (1 << 24))
    refused(lambda: load_model(folder), "a model's has at most")
    for text in ("[" * 200_000, '{"a":' * 200_000, '{"architecture": ' + "9" * 10_000 + "}"):
        (folder / "config.json").write_text(text)
        refused(lambda: load_model(folder), "config.json")
        refused(lambda: read_json(folder / "config.json"))
        refused(lambda: compare.read_probe(folder), "was not written by")


@pytest.mark.parametrize(
    "settings",
    [
        {"size": [10**9, 10**9]},
        {"size": [float("inf"), 2]},
        {"size": "big"},
        {"size": [8, 8], "mean": [float("nan")] * 3},
        {"size": [8, 8], "std": [1, 1, 1e999]},
        {"size": [8, 8], "crop_ratio": 1e-9},
        {"size": [8, 8], "crop_ratio": "1"},
        {"mode": "native", "max_side": float("nan")},
        {"mode": "native", "multiple": 0.5},
        {"mode": "native", "multiple": True},
        {"mode": ["native"]},
        {"size": {"height": 1}},
    ],
    ids=str,
)
def test_absurd_preprocessing_is_one_line(settings: dict[str, Any]) -> None:
    refused(lambda: Preprocess.from_json(settings))


@pytest.mark.parametrize("settings", [{"max_side": 10**9, "multiple": 10**6}, {"max_side": 1, "multiple": 10**9}])
def test_a_patch_size_that_would_blow_a_picture_up(settings: dict[str, Any]) -> None:
    refused(lambda: Preprocess(mode="native", **settings)(Image.new("RGB", (8, 8))), "would become")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_weights_that_unfold(tmp_path: Path) -> None:
    """A compressed archive; a view that repeats one number; tensors without numbers in the file."""
    torch.save({"weight": torch.zeros(2, 2_000_000)}, tmp_path / "plain.pth")
    assert read_weights(tmp_path / "plain.pth")["weight"].shape == (2, 2_000_000)
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            bomb.writestr(entry.filename, plain.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    refused(lambda: read_weights(tmp_path / "bomb.pth"), "would unfold")
    wide = torch.zeros(1).expand(10**9, 768)
    for name, value in (
        ("view", wide),
        ("meta", torch.empty(10**6, 768, device="meta")),
        ("sparse", torch.zeros(4, 4).to_sparse()),
    ):
        torch.save({"weight": value}, tmp_path / f"{name}.pth")
        refused(lambda name=name: read_head(tmp_path / f"{name}.pth", 768))


@pytest.mark.filterwarnings("ignore:Image")
def test_a_picture_inside_a_picture_has_its_own_size(tmp_path: Path) -> None:
    """An icon's directory says 16 x 16, and the PNG inside it is larger than is allowed."""
    Image.new("1", (13_000, 13_000)).save(tmp_path / "inner.png", optimize=False)
    inner = (tmp_path / "inner.png").read_bytes()
    head = b"\0\0\1\0\1\0" + bytes([16, 16, 0, 0, 1, 0, 32, 0]) + len(inner).to_bytes(4, "little") + b"\x16\0\0\0"
    (tmp_path / "bomb.ico").write_bytes(head + inner)
    refused(lambda: read_image(tmp_path / "bomb.ico"), "limit")


def test_a_file_of_gigabytes_is_not_opened(tmp_path: Path) -> None:
    with (tmp_path / "hollow.webp").open("wb") as stream:
        stream.write(b"RIFF\xff\xff\xff\xffWEBPVP8 ")
        stream.truncate(MAX_BYTES + 1)
    refused(lambda: read_image(tmp_path / "hollow.webp"), "more than the limit")


# --- paths


def test_lists_lead_nowhere_else_and_names_write_nowhere_else(tmp_path: Path) -> None:
    inside, secret = tmp_path / "pictures", tmp_path / "secret.png"
    (inside / "sub").mkdir(parents=True)
    for file in (secret, inside / "a.png", inside / "sub" / "b.png"):
        Image.new("RGB", (32, 32)).save(file)
    (inside / "link.png").symlink_to(secret)
    outside = [
        "../secret.png",
        str(secret),
        "sub/../../secret.png",
        "link.png",
        "~/x.png",
        "C:\\x.png",
        "\\\\host\\x",
    ]
    (inside / "list.txt").write_text("\n".join([*outside, "sub/b.png", "a.png"]) + "\n")
    dataset = open_dataset(f"list:{inside / 'list.txt'}")
    assert [sample.id for sample in dataset] == ["sub/b.png", "a.png"]
    assert len(dataset.skipped) == len(outside)  # type: ignore[attr-defined]
    names = ["../../up", "/etc/x\x1b[2J<script>alert(1)</script>"]
    folder = save_directory(tmp_path / "model", build_architecture(CNN), architecture=CNN, class_names=names)
    before = {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")}
    done = run("explain", inside / "a.png", "--model", folder, "--target", "0", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.output
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")} == before
    for page in (tmp_path / "out").rglob("*.html"):
        assert "<script>alert" not in page.read_text(encoding="utf-8")


def test_annotation_files_lead_nowhere_else(tmp_path: Path) -> None:
    root = tmp_path / "CUB_200_2011"
    (root / "images" / "001.A").mkdir(parents=True)
    Image.new("RGB", (32, 32)).save(root / "images" / "001.A" / "a.jpg")
    (tmp_path / "segmentations").mkdir()
    (root / "images.txt").write_text("1 001.A/a.jpg\n2 ../../x.jpg\n3 /x.jpg\n4 .\n5 a/\n")
    (root / "image_class_labels.txt").write_text("".join(f"{i} 1\n" for i in range(1, 6)))
    (root / "train_test_split.txt").write_text("".join(f"{i} 0\n" for i in range(1, 6)))
    (root / "classes.txt").write_text("1 001.A\n")
    (root / "bounding_boxes.txt").write_text("")
    dataset = open_dataset(f"cub:{root}")
    assert next(sample.id for sample in dataset) == "001.A/a.jpg"
    assert all("001.A" in sample.id or sample.id == "a/" for sample in dataset)
