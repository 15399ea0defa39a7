"""Fieldguide on disk agrees with the dataset in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image
from training.export import export, main

from finercam.data.fieldguide import Fieldguide


def test_export_writes_folders_that_agree_with_the_dataset(tmp_path) -> None:
    out = export(tmp_path / "guide", 6, seed=3, size=48)
    birds = Fieldguide(6, 3, 48)
    guide = json.loads((out / "guide.json").read_text())
    lines = [json.loads(line) for line in (out / "captions.jsonl").read_text().splitlines()]
    assert [one["name"] for one in guide["classes"]] == birds.classes
    assert len(lines) == 6
    for index, line in enumerate(lines):
        path = line["file"].removeprefix("images/")
        assert line["caption"] == birds.caption(index) and path.startswith(birds.classes[birds.label(index)] + "/")
        assert np.array_equal(np.asarray(Image.open(out / "images" / path)), birds.picture(index).image)
        assert np.array_equal(np.asarray(Image.open(out / "masks" / path)), birds.picture(index).parts)
        contrast = np.asarray(Image.open(out / "contrast" / path)) > 0
        assert np.array_equal(contrast, birds.contrast_mask(index, line["rival"]))


def test_the_command_writes_as_many_pictures_as_typed(tmp_path: Path, capsys) -> None:
    main([str(tmp_path / "birds"), "--count", "2", "--size", "48", "--seed", "3"])
    assert "2 pictures" in capsys.readouterr().out
    sizes = [Image.open(path).size for path in (tmp_path / "birds").rglob("*.png")]
    assert sizes == [(48, 48)] * 6
