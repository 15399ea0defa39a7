"""Real photographs through the command line: does the contrast move to what a bird guide names?

The photos are shown at 448 px (maps of 14×14; at the model's own 224 px they are 7×7, and a cell is as large as the
beak). Boxes are drawn by hand on the photos, `(left, top, right, bottom)` as shares of width and height. The grosbeak's
photo has but 224 px of its own, and what the model sees in it at 448 depends on how it is enlarged: see the last test.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks.birds import (
    BEAK,
    CHICKADEE_HEAD,
    CHICKADEE_TAIL,
    CHICKADEE_WING,
    FOLDED_WING,
    HEAD,
    WING_BARS,
    inside,
)
from benchmarks.birds import FOLDER as BIRDS
from typer.testing import CliRunner

from finercam.cli import app
from finercam.images import Preprocess

pytestmark = [
    pytest.mark.birds,
    pytest.mark.skipif(not BIRDS.is_dir(), reason="../shared/data/inat-birds is not there"),
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """The classifier as a model folder, as a user would write it."""
    import timm
    from safetensors.torch import load_file

    from finercam.models import save_directory

    kwargs = {"num_classes": 965, "pad_type": "same"}
    network = timm.create_model("mobilenetv2_100", **kwargs)
    network.load_state_dict(load_file(BIRDS / "mobilenetv2_100.safetensors"))
    grey = (128 / 255,) * 3
    return save_directory(
        tmp_path_factory.mktemp("models") / "birds",
        network,
        architecture={"library": "timm", "name": "mobilenetv2_100", "kwargs": kwargs},
        class_names=(BIRDS / "labels.txt").read_text().splitlines(),
        preprocess=Preprocess((224, 224), mode="squash", interpolation="bilinear", mean=grey, std=grey),
    )


@pytest.fixture(scope="module")
def explained(model, tmp_path_factory):
    """`explained(photo, against, size, gamma)`: entry of the index, and the maps."""
    done: dict[tuple, tuple] = {}

    def one(photo: str, against: str, size: int, gamma: float, preset: str = "measured"):
        key = (photo, against, size, gamma, preset)
        if key not in done:
            out = tmp_path_factory.mktemp("out")
            asked = ["explain", BIRDS / "images" / f"{photo}.jpg", "--model", model, "--against", against]
            asked += ["--size", size, "--gamma", gamma, "--preset", preset, "--out", out]
            ran = CliRunner().invoke(app, [str(argument) for argument in asked])
            assert ran.exit_code == 0, ran.output
            entry = json.loads((out / "explanations.json").read_text())["explanations"][0]
            with np.load(out / entry["files"]["maps"], allow_pickle=False) as maps:
                done[key] = entry, {name: maps[name].astype(float) for name in maps}
        return done[key]

    return one


def energy(evidence: np.ndarray, box) -> float:
    """Share of the evidence that lies in the box."""
    return float(evidence[inside(box, evidence.shape)].sum() / evidence.sum())


def brightest_in(evidence: np.ndarray, box) -> bool:
    return bool(inside(box, evidence.shape).flat[evidence.argmax()])


def test_the_predictions_are_those_of_the_data_sheet(explained):
    for photo, name in (("blue_grosbeak", "Blue Grosbeak"), ("black-capped_chickadee", "Black-capped Chickadee")):
        rival = {"Blue Grosbeak": "Indigo Bunting"}.get(name, "Carolina Chickadee")
        for size in (224, 448):
            entry, _ = explained(photo, rival, size, 1.0)
            assert name in entry["prediction"]["name"] and rival in entry["references"][0]["name"]
            if size == 224:
                assert entry["prediction"]["probability"] > 0.7


def test_blue_grosbeak_against_indigo_bunting_moves_to_the_beak_then_the_wing_bars(explained):
    _, half = explained("blue_grosbeak", "Indigo Bunting", 448, 0.6)
    _, full = explained("blue_grosbeak", "Indigo Bunting", 448, 1.0)
    plain = full["plain_map"]
    assert not brightest_in(plain, BEAK)
    assert brightest_in(full["map"], BEAK)
    # at 0.6 the brightest cell is the throat just under it
    assert brightest_in(half["map"], HEAD)
    shares = [energy(evidence, BEAK) for evidence in (plain, half["map"], full["map"])]
    assert shares[1] > 1.5 * shares[0] and shares[2] > 2.5 * shares[0]
    # second comes the wing: at 0.6 the shoulder where the upper bar begins, at 1 the bar itself
    for evidence, second in ((half["map"], FOLDED_WING), (full["map"], WING_BARS)):
        elsewhere = np.where(inside((0, 0, 0.5, 0.36), evidence.shape), 0, evidence)
        assert brightest_in(elsewhere, second)


def test_chickadee_against_carolina_moves_to_the_wing_and_away_from_what_both_share(explained):
    _, half = explained("black-capped_chickadee", "Carolina Chickadee", 448, 0.6)
    _, full = explained("black-capped_chickadee", "Carolina Chickadee", 448, 1.0)
    plain = full["plain_map"]
    assert brightest_in(full["map"], CHICKADEE_WING) and brightest_in(half["map"], CHICKADEE_WING)
    wing, head, tail = (
        [energy(evidence, box) for evidence in (plain, half["map"], full["map"])]
        for box in (CHICKADEE_WING, CHICKADEE_HEAD, CHICKADEE_TAIL)
    )
    assert wing[0] + 0.03 < wing[1] < wing[2] - 0.03
    assert head[0] > head[1] > head[2] + 0.05
    assert tail[2] < 0.2 * tail[0]


def test_the_reverse_question_points_elsewhere(model, tmp_path):
    from finercam import FinerCAM, load_model
    from finercam.images import read_image

    loaded = load_model(model)
    grey = (128 / 255,) * 3
    prepare = Preprocess((448, 448), mode="squash", interpolation="bilinear", mean=grey, std=grey)
    photo = prepare(read_image(BIRDS / "images" / "black-capped_chickadee.jpg"))[None]
    asked = FinerCAM(loaded.model, "gradcam", gamma=1.0, class_names=loaded.class_names)(
        photo, against=["Carolina Chickadee"]
    )
    reverse = asked.reverse().maps[0].numpy()
    assert energy(reverse, CHICKADEE_TAIL) > 0.4 > energy(reverse, CHICKADEE_WING)


def test_at_the_models_own_size_a_cell_is_too_large_for_a_beak(explained):
    """What is not seen: at 224 px the grosbeak's contrast stays on shoulder and wing bar, and shuns the beak."""
    _, maps = explained("blue_grosbeak", "Indigo Bunting", 224, 1.0)
    assert maps["signed"].shape == (7, 7)
    assert energy(maps["map"], BEAK) < 0.05
    assert energy(maps["map"], WING_BARS) > energy(maps["plain_map"], WING_BARS) + 0.03


def test_with_nothing_said_the_grosbeaks_wing_bar_lights_at_the_models_own_size(explained):
    """The plain last-layer map lies on the shoulder; the default finds the brown wing bars, as a bird guide does."""
    _, plain = explained("blue_grosbeak", "Indigo Bunting", 224, 1.0)
    _, maps = explained("blue_grosbeak", "Indigo Bunting", 224, 1.0, "fine")
    assert maps["signed"].shape == (28, 28)
    assert brightest_in(maps["map"], FOLDED_WING)
    assert energy(maps["map"], FOLDED_WING) > 1.5 * energy(plain["plain_map"], FOLDED_WING)
