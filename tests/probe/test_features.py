"""The feature cache: nothing is computed twice, nothing stale is served, nothing finished is lost."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from finercam.data import open_dataset
from finercam.errors import FinerCAMError
from finercam.models.backbone import Backbone
from finercam.probe import extract
from finercam.probe import features as module
from finercam.probe.features import picture_digest

Writer = Callable[..., Path]


def by_hand(backbone: Backbone, folder: Path, ids: list[str]) -> Tensor:
    from finercam.images import read_image

    return backbone.features(torch.stack([backbone.preprocess(read_image(folder / name)) for name in ids]))


def test_features_are_the_backbones_and_come_from_the_cache_afterwards(
    backbone: Backbone, pictures_of: Writer, tmp_path: Path
) -> None:
    folder = pictures_of(tmp_path / "data", 4)
    dataset = open_dataset(f"folder:{folder}")
    first = extract(dataset, backbone, tmp_path / "cache", batch_size=5, workers=0)
    torch.testing.assert_close(first.values, by_hand(backbone, folder, first.ids), rtol=1e-5, atol=1e-6)
    assert first.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert first.computed == 12
    again = extract(dataset, backbone, tmp_path / "cache")
    assert again.computed == 0
    assert torch.equal(again.values, first.values)
    assert again.ids == first.ids
    assert not [
        path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".pt", ".pkl", ".npy", ".writing")
    ]


def test_the_key_is_the_content(backbone: Backbone, pictures_of: Writer, tmp_path: Path) -> None:
    """Renamed and re-encoded pictures are found in the cache; a changed picture is computed again."""
    folder = pictures_of(tmp_path / "data", 3)
    extract(open_dataset(f"folder:{folder}"), backbone, tmp_path / "cache")
    (folder / "blue" / "000.png").rename(folder / "blue" / "zzz.png")
    picture = Image.open(folder / "green" / "001.png").convert("RGB")
    picture.save(folder / "green" / "001.bmp")
    (folder / "green" / "001.png").unlink()
    assert extract(open_dataset(f"folder:{folder}"), backbone, tmp_path / "cache").computed == 0
    Image.fromarray(255 - np.array(picture)).save(folder / "red" / "002.png")
    changed = extract(open_dataset(f"folder:{folder}"), backbone, tmp_path / "cache")
    assert changed.computed == 1
    torch.testing.assert_close(changed.values, by_hand(backbone, folder, changed.ids), rtol=1e-5, atol=1e-6)


def test_other_settings_are_other_features(backbone: Backbone, pictures_of: Writer, tmp_path: Path) -> None:
    """Weights, pooling's name, and every setting of the preprocessing have a cache of their own."""
    dataset = open_dataset(f"folder:{pictures_of(tmp_path / 'data', 2)}")
    cache = tmp_path / "cache"
    assert extract(dataset, backbone, cache).computed == 6
    others = [
        replace(backbone, preprocess=replace(backbone.preprocess, mean=(0.5, 0.5, 0.5))),
        replace(backbone, preprocess=replace(backbone.preprocess, mode="squash")),
    ]
    for other in others:
        assert extract(dataset, other, cache).computed == 6
    with torch.no_grad():
        next(iter(backbone.model.parameters())).mul_(1.001)
    assert extract(dataset, replace(backbone), cache).computed == 6
    assert len(list(cache.iterdir())) == 4


def test_an_interrupted_run_goes_on(
    backbone: Backbone, pictures_of: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = open_dataset(f"folder:{pictures_of(tmp_path / 'data', 5)}")
    calls = []

    def cut_off(self: Backbone, images: Tensor) -> Tensor:
        calls.append(len(images))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return self.model(images).detach()

    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "features", cut_off)
        with pytest.raises(KeyboardInterrupt):
            extract(dataset, backbone, tmp_path / "cache", batch_size=4, workers=0)
    rest = extract(dataset, backbone, tmp_path / "cache", batch_size=4)
    assert rest.computed == 15 - 8
    assert len(rest.ids) == 15


def test_broken_pictures_and_shards_stop_nothing(
    backbone: Backbone, pictures_of: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARD", 4)
    folder = pictures_of(tmp_path / "data", 3)
    (folder / "green" / "001.png").write_bytes(b"nothing")
    dataset = open_dataset(f"folder:{folder}")
    told = []
    first = extract(dataset, backbone, tmp_path / "cache", batch_size=4, progress=told.append)
    assert [name for _, name, _ in first.errors] == ["green/001.png"]
    assert "green/001.png" not in first.ids
    assert first.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert sum(told) == 8
    shards = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(shards) == 2
    shards[0].write_bytes(shards[0].read_bytes()[:-7])
    again = extract(dataset, backbone, tmp_path / "cache")
    assert again.computed == 4
    assert torch.equal(again.values, first.values)
    shutil.rmtree(folder / "blue")
    shutil.rmtree(folder / "red")
    for path in (folder / "green").iterdir():
        path.write_bytes(b"nothing")
    with pytest.raises(FinerCAMError, match="no labelled picture could be read"):
        extract(open_dataset(f"folder:{folder}"), backbone, tmp_path / "cache")


def test_twins_are_computed_once_and_unlabelled_pictures_left_out(
    backbone: Backbone, pictures_of: Writer, tmp_path: Path
) -> None:
    folder = pictures_of(tmp_path / "data", 2)
    shutil.copy(folder / "blue" / "000.png", folder / "red" / "twin.png")
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    lines = [f"{name},{name.split('/')[0] if 'green' not in name else ''}" for name in names]
    (folder / "list.csv").write_text("path,label\n" + "\n".join(lines))
    found = extract(open_dataset(f"list:{folder / 'list.csv'}"), backbone, tmp_path / "cache")
    assert found.unlabelled == 2
    assert found.computed == 4
    assert len(found.ids) == 5
    rows = dict(zip(found.ids, found.values, strict=True))
    assert torch.equal(rows["red/twin.png"], rows["blue/000.png"])


def test_digest_tells_shape_and_pixels() -> None:
    wide, tall = Image.new("RGB", (4, 2), (1, 2, 3)), Image.new("RGB", (2, 4), (1, 2, 3))
    assert picture_digest(wide) != picture_digest(tall)
    assert picture_digest(wide) == picture_digest(wide.convert("RGBA"))
