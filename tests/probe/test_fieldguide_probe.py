"""The built-in ViT, frozen, with a head that a probe trained: as good as its own head, and its maps in closed form."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from finercam import FinerCAM, load_model
from finercam.data import loader, open_dataset
from finercam.data.fieldguide import Fieldguide
from finercam.models import builtin
from finercam.models.backbone import load_backbone
from finercam.models.builtin import PatchViT
from finercam.models.probed import probed, save_probed
from finercam.probe import accuracy, probe

HAVE_VIT = (files("finercam.models") / "weights" / "fieldguide-vit" / "model.safetensors").is_file()


@pytest.fixture
def untrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, toys) -> PatchViT:
    """`fieldguide/vit` as a small network with random weights, where `load_builtin` looks for it."""
    options = {"width": 24, "depth": 2, "heads": 2, "grid": 4}
    model = toys.seeded(PatchViT(5, **options))
    folder = tmp_path / "weights" / "fieldguide-vit"
    folder.mkdir(parents=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    meta = {"name": "fieldguide/vit", "architecture": "vit", "options": options, "class_names": list("abcde")}
    meta |= {"input_size": [32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "layer": "norm", "training": {}}
    (folder / "config.json").write_text(json.dumps(meta))
    monkeypatch.setattr(builtin, "files", lambda _: tmp_path)
    return model


def test_built_in_vit_as_a_backbone(untrained: PatchViT, tmp_path: Path, pictures) -> None:
    """Its features are the mean of its normalised patches, and α at its last norm is the head's row over their number:
    the paper's Eq. 4, also after a round trip over the disk, at another size than the network was made for."""
    backbone = load_backbone("fieldguide/vit", size=48)
    seen: list[torch.Tensor] = []
    untrained.norm.register_forward_hook(lambda _m, _i, out: seen.append(out))
    images = pictures(3, 48)
    with torch.no_grad():
        untrained(images)
        torch.testing.assert_close(backbone.features(images), seen[0].mean(1))
    head = nn.Linear(24, 7)
    save_probed(tmp_path / "out", probed(backbone, head.weight, head.bias), backbone, list("abcdefg"))
    loaded = load_model(tmp_path / "out")
    assert loaded.preprocess.size == (48, 48)
    answer = FinerCAM(loaded.model, gamma=0.6, layer="backbone.model.norm")(images, target=6, against=[0, 2, 3])
    row = (head.weight[6] - 0.6 * head.weight[[0, 2, 3]].mean(0)).detach()
    closed = (seen[0] @ row).unflatten(1, (6, 6)) / 36
    torch.testing.assert_close(answer.signed, closed, rtol=1e-4, atol=1e-6)


@pytest.mark.skipif(not HAVE_VIT, reason="the weights of fieldguide/vit are not in this package")
@pytest.mark.slow
def test_probe_is_as_good_as_the_trained_head(tmp_path: Path) -> None:
    """Within one point of the trained head on the same fresh pictures; its maps agree with the closed form."""
    train, test = Fieldguide(420, seed=11), Fieldguide(200, seed=12)
    backbone = load_backbone("fieldguide/vit")
    result = probe(train, backbone, tmp_path / "out", test=test, cache=tmp_path / "cache", batch_size=50)
    own = load_model("fieldguide/vit")
    logits, labels = [], []
    with torch.no_grad():
        for batch in loader(test, own.preprocess, 50):
            logits.append(own.model(batch.images))
            labels += batch.labels
    trained = accuracy(torch.cat(logits), torch.tensor(labels))["top1"]
    print(f"probe {result.accuracy['test']['top1']:.4f}, trained head {trained:.4f}")
    assert result.accuracy["test"]["top1"] >= trained - 0.01
    batch = next(loader(test, own.preprocess, 4))
    explain = FinerCAM(load_model(tmp_path / "out").model, layer="backbone.model.norm", class_names=result.classes)
    answer = explain(batch.images, target=batch.labels)
    weight = result.model.head.weight.detach()
    with torch.no_grad():
        norm: list[torch.Tensor] = []
        hook = backbone.model.model.get_submodule("norm").register_forward_hook(lambda _m, _i, out: norm.append(out))
        backbone.features(batch.images)
        hook.remove()
    rows = weight[batch.labels] - 0.6 * weight[answer.references].mean(1)
    closed = torch.einsum("npd,nd->np", norm[0], rows) / norm[0].shape[1]
    torch.testing.assert_close(answer.signed.flatten(1), closed, rtol=1e-3, atol=1e-5)


def test_fieldguide_opens_without_splits(tmp_path: Path, untrained: PatchViT) -> None:
    """A generator has no splits: a share is set aside, and the classes keep their order."""
    dataset = open_dataset("fieldguide:120?seed=3")
    backbone = load_backbone("fieldguide/vit")
    result = probe(dataset, backbone, cache=tmp_path / "cache", test_share=0.2, batch_size=30, weight_decay=1e-2)
    assert result.classes == dataset.classes
    assert result.accuracy["train"]["count"] + result.accuracy["test"]["count"] == 120
    assert result.accuracy["train"]["top1"] > 2 / len(dataset.classes)
