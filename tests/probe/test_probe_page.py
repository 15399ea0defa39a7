"""The code of docs/probe.md runs, with a small backbone and a small data set in the place of the published ones."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from finercam import FinerCAM
from finercam.data.fieldguide import Fieldguide
from finercam.models import backbone as backbones

LABELS = (0, 1, 2)


def write_cub(root: Path, count: int) -> None:
    """A folder in the form of CUB: Fieldguide species, `count` pictures of each in either split."""
    guide, rows = Fieldguide(2 * count * len(LABELS)), []
    for index in range(len(guide)):
        label = LABELS[index % len(LABELS)]
        rows.append((index + 1, f"{label}/{index}.png", label + 1, int(index < len(guide) / 2)))
        (root / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(guide.picture(index, label).image).save(root / "images" / rows[-1][1])
    columns = {
        "images.txt": (0, 1),
        "image_class_labels.txt": (0, 2),
        "train_test_split.txt": (0, 3),
    }
    for name, wanted in columns.items():
        (root / name).write_text("".join(" ".join(str(row[c]) for c in wanted) + "\n" for row in rows))
    (root / "classes.txt").write_text("".join(f"{label + 1} {guide.classes[label]}\n" for label in LABELS))
    (root / "bounding_boxes.txt").write_text("".join(f"{row[0]} 1 1 90 90\n" for row in rows))


@pytest.mark.slow
def test_probe(run_page, tmp_path, monkeypatch):
    write_cub(tmp_path / "CUB_200_2011", 10)
    load = backbones.load_backbone
    small = "timm/vit_tiny_patch16_224?pretrained=false"
    monkeypatch.setattr(backbones, "load_backbone", lambda _text, **options: load(small, **options))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    names = run_page("probe.md", {"/data": str(tmp_path)}, images=images)
    assert names["result"].accuracy["test"]["count"] == 30
    assert (tmp_path / "heads" / "clip-cub" / "model.safetensors").exists()
    assert FinerCAM(names["result"].model)(images).signed.abs().max() > 0
