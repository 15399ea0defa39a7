"""Training of the built-in classifiers: the codes of parts, short seeded runs, and the command."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training.classifiers import part_codes, train

from finercam.data.fieldguide import PARTS, SPECIES, discriminative_parts
from finercam.errors import FinerCAMError
from finercam.models.builtin import ARCHITECTURES
from training import classifiers

KINDRED = [(c, d) for c, d in combinations(range(len(SPECIES)), 2) if SPECIES[c].genus is SPECIES[d].genus]


def test_part_codes_are_equal_just_for_those_who_wear_a_part_alike() -> None:
    codes = part_codes()
    for c, d in KINDRED:
        differ = {PARTS[k] for k in np.nonzero(codes[c, 1:] != codes[d, 1:])[0]}
        assert differ == set(discriminative_parts(c, d))
    assert (codes[:, 0] == 0).all() and (codes[:, 1:] > 0).all()


@pytest.mark.parametrize("name", ["cnn", "resnet", "vit"])
@pytest.mark.slow
def test_training_is_seeded_and_writes_a_model_that_can_be_read(name: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    short = {"images": 32, "passes": 64, "fresh": 20, "workers": 1, "log": lambda line: None}
    record = train(name, tmp_path / "a", 1, **short)  # type: ignore[arg-type]
    train(name, tmp_path / "b", 1, **short)  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    assert 0 <= record["accuracy_interval"][0] <= record["accuracy"] <= record["accuracy_interval"][1] <= 1
    one, other = (load_file(tmp_path / folder / "model.safetensors") for folder in "ab")
    assert all(torch.equal(one[key], other[key]) for key in one)
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    assert config["class_names"] == [species.name for species in SPECIES]
    model = ARCHITECTURES[name](len(SPECIES), **config["options"])
    model.load_state_dict({key: value.float() for key, value in one.items()})
    model.get_submodule(config["layer"])  # raises AttributeError for a layer that does not exist


def test_an_unknown_model_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FinerCAMError, match="expected one of cnn, resnet, vit"):
        train("mlp", tmp_path)


def test_the_command_passes_on_what_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(classifiers, "train", lambda *arguments: calls.append(arguments))
    classifiers.main(["cnn", "--out", str(tmp_path), "--seed", "3"])
    assert calls == [("cnn", tmp_path, 3)]
    with pytest.raises(SystemExit):
        classifiers.main(["cnn"])  # --out is required


def test_wilson_interval_of_the_textbook() -> None:
    assert np.allclose(classifiers.wilson(0.1, 10), (0.0179, 0.4041), atol=1e-3)
