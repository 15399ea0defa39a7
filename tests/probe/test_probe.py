"""A probe from pictures to a model folder, heads from elsewhere, and the table over several probes."""

from __future__ import annotations

import csv
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from finercam import FinerCAM, load_model
from finercam.data import loader, open_dataset
from finercam.errors import FinerCAMError
from finercam.images import Preprocess
from finercam.models.backbone import Backbone
from finercam.models.towers import Tower
from finercam.probe import fit, import_head, poolings, probe, read_head
from finercam.probe.compare import grid, markdown, read_probe, to_csv

Writer = Callable[..., Path]


def test_from_pictures_to_a_classifier_on_disk(backbone: Backbone, pictures_of: Writer, tmp_path: Path) -> None:
    train = open_dataset(f"folder:{pictures_of(tmp_path / 'train', 10)}")
    test = open_dataset(f"folder:{pictures_of(tmp_path / 'test', 4, seed=1)}")
    told = []
    result = probe(
        train, backbone, tmp_path / "out", test=test, cache=tmp_path / "cache", seed=5,
        progress=lambda *step: told.append(step),
    )  # fmt: skip
    assert result.accuracy["test"] == {"top1": 1.0, "top5": 1.0, "count": 12}
    assert {split: row["count"] for split, row in result.accuracy.items()} == {"train": 30, "val": 6, "test": 12}
    assert len(result.tried) == 6
    assert sum(done for split, done, _ in told if split == "test") == 12
    loaded = load_model(tmp_path / "out")
    assert loaded.class_names == ["blue", "green", "red"]
    batch = next(loader(test, loaded.preprocess, 12))
    with torch.no_grad():
        assert loaded.model(batch.images).argmax(1).tolist() == batch.labels
    told_on_disk = json.loads((tmp_path / "out" / "config.json").read_text())["provenance"]
    assert told_on_disk["accuracy"] == result.accuracy
    assert told_on_disk["weight_decay"] == result.weight_decay
    assert told_on_disk["seed"] == 5
    assert told_on_disk["dataset"] == "train"
    assert told_on_disk["features"]["weights"] == backbone.fingerprint
    # The head is the optimum on all of the training features, not on those without the validation share.
    values = torch.cat([backbone.features(b.images) for b in loader(train, backbone.preprocess, 30, workers=0)])
    labels = torch.tensor([sample.label for sample in (train[i] for i in range(len(train)))])
    head = fit(values, labels, 3, result.weight_decay)
    torch.testing.assert_close(result.model.head.weight, head.weight, rtol=0.05, atol=0.05)
    answer = FinerCAM(loaded.model, class_names=loaded.class_names)(batch.images, target="red", against=["blue"])
    assert answer.signed.shape[0] == 12


def test_same_seed_same_head(backbone: Backbone, pictures_of: Writer, tmp_path: Path) -> None:
    train = open_dataset(f"folder:{pictures_of(tmp_path / 'train', 6)}")
    before = torch.random.get_rng_state()
    heads = [
        probe(train, backbone, cache=tmp_path / "cache", test_share=0.2, seed=seed, method=method).model.head.weight
        for seed, method in ((1, "lbfgs"), (1, "lbfgs"), (2, "lbfgs"), (1, "adamw"), (1, "adamw"))
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(heads[3], heads[4])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_splits_do_not_leak(backbone: Backbone, pictures_of: Writer, tmp_path: Path) -> None:
    """A test share is held out and named; with `val`, all other pictures are used for training."""
    train = open_dataset(f"folder:{pictures_of(tmp_path / 'train', 10)}")
    shared = probe(train, backbone, cache=tmp_path / "cache", test_share=0.3)
    assert {split: row["count"] for split, row in shared.accuracy.items()} == {"train": 21, "val": 3 * 1, "test": 9}
    assert len(set(shared.provenance["test_ids"])) == 9
    val = open_dataset(f"folder:{pictures_of(tmp_path / 'val', 2, seed=3)}")
    given = probe(train, backbone, val=val, cache=tmp_path / "cache")
    assert {split: row["count"] for split, row in given.accuracy.items()} == {"train": 30, "val": 6}
    alone = probe(train, backbone, cache=tmp_path / "cache", weight_decay=1e-2)
    assert list(alone.accuracy) == ["train"]
    assert alone.tried == ()


def test_classes_are_matched_by_name(backbone: Backbone, pictures_of: Writer, tmp_path: Path) -> None:
    """A test set with fewer classes has different label numbers; one with an additional class is refused."""
    train = open_dataset(f"folder:{pictures_of(tmp_path / 'train', 6)}")
    fewer = open_dataset(f"folder:{pictures_of(tmp_path / 'fewer', 3, 1, ('green', 'red'))}")
    result = probe(train, backbone, test=fewer, cache=tmp_path / "cache")
    assert result.accuracy["test"]["top1"] == 1.0
    (tmp_path / "fewer" / "green").rename(tmp_path / "fewer" / "grene")
    other = open_dataset(f"folder:{tmp_path / 'fewer'}")
    with pytest.raises(FinerCAMError, match="class 'grene' is not among the 3 classes of the training data"):
        probe(train, backbone, test=other, cache=tmp_path / "cache")
    single = open_dataset(f"folder:{pictures_of(tmp_path / 'single', 3, 1, ('red',))}")
    with pytest.raises(FinerCAMError, match="of one class only"):
        probe(single, backbone, cache=tmp_path / "cache")
    few = open_dataset(f"folder:{pictures_of(tmp_path / 'few', 1)}")
    with pytest.raises(FinerCAMError, match="no class has two pictures"):
        probe(few, backbone, cache=tmp_path / "cache")


class Pooled(Tower):
    """Token features in which only the CLS token (of a network trained so) tells the colours apart."""

    pools = ("avg", "tok")

    def patches(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(2).transpose(1, 2)[:, ::37].remainder(0.01) * 100 + self.model.weight.sum() * 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3)) if self.pool == "tok" else self.patches(images).mean(1)


def test_both_poolings_are_compared_and_reported(pictures_of: Writer, tmp_path: Path) -> None:
    """A head on the mean of the patches of a CLS-trained ViT was 20 points worse, without a word."""
    tower = Pooled(nn.Linear(1, 1))
    architecture = {"library": "builtin", "name": "cnn", "kwargs": {}, "pool": "avg"}
    backbone = Backbone(
        tower.eval(), 3, Preprocess((32, 32)), "toy", architecture, {"backbone": "toy", "pool": "avg"}
    )
    train = open_dataset(f"folder:{pictures_of(tmp_path / 'train', 10)}")
    test = open_dataset(f"folder:{pictures_of(tmp_path / 'test', 4, seed=1)}")
    both = poolings(backbone)
    assert [one.pool for one in both] == ["avg", "tok"] and both[0] is backbone
    assert both[1].model.model is tower.model and both[1].fingerprint == backbone.fingerprint
    for decay in ((), 1e-2):  # with one decay too: there is still a pooling to choose
        result = probe(train, both, tmp_path / "out", test=test, cache=tmp_path / "cache", weight_decay=decay)
        assert result.model.backbone.pool == "tok" and result.accuracy["test"]["top1"] == 1.0
        assert result.pools["tok"][1] < 0.5 * result.pools["avg"][1] and result.pools["avg"][0] < 0.9
        provenance = json.loads((tmp_path / "out" / "config.json").read_text())["provenance"]
        assert provenance["pool"] == "tok" == provenance["features"]["pool"] and set(provenance["pools"]) == {
            "avg",
            "tok",
        }
    alone = probe(train, backbone, test=test, cache=tmp_path / "cache")
    assert alone.model.backbone.pool == "avg" and alone.pools == {} and alone.accuracy["test"]["top1"] < 0.9


def test_no_path_of_this_machine_is_written(backbone: Backbone, pictures_of: Writer, tmp_path: Path) -> None:
    train = open_dataset(f"folder:{pictures_of(tmp_path / 'gulls', 6)}")
    (tmp_path / "my-model").mkdir()
    named = replace(backbone, name=str(tmp_path / "my-model"), provenance={"backbone": str(tmp_path / "my-model")})
    probe(train, named, tmp_path / "out", cache=tmp_path / "cache")
    written = (tmp_path / "out" / "config.json").read_text()
    assert str(tmp_path) not in written and "my-model" in written
    assert json.loads(written)["provenance"]["train"] == "gulls: 18 pictures, 3 classes"


# --- heads from elsewhere


def head_of(dim: int = 24, classes: int = 3) -> nn.Linear:
    head = nn.Linear(dim, classes)
    with torch.no_grad():
        head.weight.copy_(torch.randn(classes, dim, generator=torch.Generator().manual_seed(0)))
    return head


@pytest.mark.parametrize("prefix", ["", "linear.", "module.fc.", "classifier.0."])
def test_released_heads_whatever_the_layer_is_called(
    prefix: str, backbone: Backbone, tmp_path: Path, pictures: Any
) -> None:
    head = head_of()
    torch.save({f"{prefix}{name}": value for name, value in head.state_dict().items()}, tmp_path / "head.pth")
    (tmp_path / "names.txt").write_text("Blue Grosbeak\nIndigo Bunting\n\nLazuli Bunting\n")
    model, names = import_head(tmp_path / "head.pth", tmp_path / "names.txt", backbone, tmp_path / "out")
    images = pictures(2, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(images), head(backbone.features(images)))
        torch.testing.assert_close(load_model(tmp_path / "out").model(images), model(images), rtol=0, atol=0)
    assert names == load_model(tmp_path / "out").class_names == ["Blue Grosbeak", "Indigo Bunting", "Lazuli Bunting"]


def test_the_right_layer_of_several(tmp_path: Path) -> None:
    state = {"blocks.0.weight": torch.ones(9, 24), "head.weight": torch.zeros(3, 24), "head.bias": torch.ones(3)}
    save_file(state, tmp_path / "head.safetensors")
    weight, bias = read_head(tmp_path / "head.safetensors", 24)
    assert weight.shape == (3, 24) and bias is not None
    with pytest.raises(FinerCAMError, match="no linear layer that reads 768 features; its matrices: blocks"):
        read_head(tmp_path / "head.safetensors", 768)
    save_file({"a.weight": torch.ones(9, 24), "b.weight": torch.ones(3, 24)}, tmp_path / "two.safetensors")
    with pytest.raises(FinerCAMError, match="2 linear layers"):
        read_head(tmp_path / "two.safetensors")


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("payload-ran",)


def test_a_head_that_carries_code_is_refused_unrun(
    backbone: Backbone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    state = head_of().state_dict()
    torch.save({**state, "extra": Payload()}, tmp_path / "zip.pth")
    torch.save({**state, "extra": Payload()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Payload()))
    torch.save(head_of(), tmp_path / "module.pth")
    (tmp_path / "text.pth").write_text("no tensors")
    for name in ("zip.pth", "old.pth", "raw.pth", "module.pth", "text.pth", "absent.pth"):
        with pytest.raises(FinerCAMError, match=name) as told:
            read_head(tmp_path / name)
        assert "\n" not in str(told.value)
    assert not (tmp_path / "payload-ran").exists()


def test_head_classes_and_backbone_must_fit(backbone: Backbone, tmp_path: Path) -> None:
    torch.save(head_of().state_dict(), tmp_path / "head.pth")
    (tmp_path / "two.txt").write_text("a\nb\n")
    (tmp_path / "twice.txt").write_text("a\nb\na\n")
    with pytest.raises(FinerCAMError, match=r"names 2 classes, but the head in .* has 3 rows"):
        import_head(tmp_path / "head.pth", tmp_path / "two.txt", backbone)
    with pytest.raises(FinerCAMError, match="names the class 'a' twice"):
        import_head(tmp_path / "head.pth", tmp_path / "twice.txt", backbone)
    torch.save({"weight": torch.full((3, 24), torch.nan)}, tmp_path / "nan.pth")
    with pytest.raises(FinerCAMError, match="not finite"):
        read_head(tmp_path / "nan.pth")


# --- several probes


def test_table_of_backbones_and_datasets(backbone: Backbone, pictures_of: Writer, tmp_path: Path) -> None:
    other = replace(backbone, name="other|one", provenance={"backbone": "other|one", "pool": "avg"})
    folders = []
    for data in ("finches", "gulls"):
        train = open_dataset(f"folder:{pictures_of(tmp_path / data, 6)}")
        for one in (backbone, other) if data == "finches" else (backbone,):
            folders.append(tmp_path / f"{data}-{len(folders)}")
            probe(train, one, folders[-1], test_share=0.3 if data == "finches" else 0, cache=tmp_path / "cache")
    rows = [read_probe(folder) for folder in folders]
    header, lines = grid(rows)
    assert header == ["backbone", "pool", "finches", "gulls"]
    assert lines == [
        ["toy", "avg", "100.0 / 100.0", "100.0 / 100.0 (val)"],
        ["other|one", "avg", "100.0 / 100.0", "–"],
    ]
    assert "| other\\|one | avg | 100.0 / 100.0 | – |" in markdown(rows)
    table = list(csv.DictReader(StringIO(to_csv(rows))))
    assert [line["dataset"] for line in table] == ["finches", "finches", "gulls"]
    assert float(table[0]["top1"]) == 1.0
    with pytest.raises(FinerCAMError, match="was not written by 'finercam probe'"):
        (tmp_path / "config.json").write_text("{}")
        read_probe(tmp_path)
    with pytest.raises(FinerCAMError, match="is not a model folder"):
        read_probe(tmp_path / "nowhere")
