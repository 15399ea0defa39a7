"""The two-tower model: folding, tokens, locality, the file format, and what ships with the package."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F
from training.hybrids import vocabulary

from finercam.data.fieldguide import SPECIES, caption, traits
from finercam.errors import FinerCAMError
from finercam.images import Preprocess
from finercam.models.twotower import TextTower, TwoTower, TwoTowerMeta, load_twotower, save_twotower

WORDS = ["a", "and", "bars", "bird", "crest", "red", "two", "white", "wing", "with"]


def model(norm: bool = False) -> TwoTower:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TwoTower(WORDS, width=16, norm=norm)


def images(side: int = 64) -> torch.Tensor:
    return torch.randn(3, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_folding_the_normalisation_leaves_the_function_as_it_was() -> None:
    tower = model(norm=True).visual
    for layer in tower.features:
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 2)
            torch.nn.init.normal_(layer.bias)
    tower.train()
    tower(images() + 1)  # moves the running statistics
    tower.eval()
    folded = tower.folded()
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in folded.features)
    assert torch.allclose(folded(images()), tower(images()), atol=1e-4)


@torch.no_grad()
def test_a_feature_sees_23_pixels_and_no_more() -> None:
    tower = model().visual
    picture = images(96)[:1]
    poked = picture.clone()
    poked[..., 48, 48] += 3
    changed = (tower.features(picture) != tower.features(poked)).any(1)[0].nonzero()
    reach = (changed * 4 - 48).abs().max()
    assert len(changed) > 9
    assert reach <= 12


@torch.no_grad()
def test_an_embedding_is_the_mean_of_its_places() -> None:
    tower = model().visual
    places = tower.projection(tower.features(images()).permute(0, 2, 3, 1))
    assert torch.allclose(places.mean((1, 2)), tower(images()), atol=1e-5)


@torch.no_grad()
def test_padding_and_hyphens_do_not_matter() -> None:
    two = model()
    alone = two.encode_text(two.tokenize("a red crest"))
    padded = two.encode_text(two.tokenize(["A red-crest!", "a bird with two white wing bars and a red crest"]))
    assert torch.allclose(alone[0], padded[0], atol=1e-6)
    assert not torch.allclose(padded[0], padded[1], atol=1e-3)


@torch.no_grad()
def test_colours_are_bound_to_their_parts() -> None:
    two = model()
    one, other = two.encode_text(two.tokenize(["red crest and white wing bars", "white crest and red wing bars"]))
    assert not torch.allclose(one, other, atol=1e-4)


def test_unknown_words_are_named_with_the_nearest() -> None:
    with pytest.raises(FinerCAMError, match=r"the word 'crets' is not among the 10 .* Did you mean 'crest'\?"):
        model().tokenize("red crets")
    with pytest.raises(FinerCAMError, match="has no word"):
        model().tokenize(["red", "--"])


@torch.no_grad()
def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    two = model().eval()
    two.load_state_dict({key: value.half() for key, value in two.state_dict().items()})
    meta = TwoTowerMeta(WORDS, 16, Preprocess((64, 64)), {"seed": 0})
    again, read = load_twotower(save_twotower(two, meta, tmp_path / "new"))
    tokens = two.tokenize(["red crest", "bird"])
    assert torch.equal(again(images(), tokens), two(images(), tokens))
    assert read == meta
    (tmp_path / "new" / "config.json").write_text(json.dumps({"format": "other"}))
    with pytest.raises(FinerCAMError, match="no two-tower model"):
        load_twotower(tmp_path / "new")
    with pytest.raises(FinerCAMError, match="expected a folder"):
        load_twotower(tmp_path / "none")


def test_text_tower_learns_nothing_of_the_padding() -> None:
    tower = TextTower(3, 4)
    tower(torch.tensor([[1, 2, 0]])).sum().backward()
    gradient = tower.words.weight.grad
    assert gradient is not None
    assert (gradient[0] == 0).all()
    assert (gradient[1] != 0).any()


def test_what_ships_is_small_and_knows_the_books_words() -> None:
    folder = files("finercam.models") / "weights" / "twotower"
    assert len((folder / "model.safetensors").read_bytes()) < 4_000_000
    state = torch.get_rng_state()
    two, meta = load_twotower()
    assert torch.equal(state, torch.get_rng_state())
    assert meta.words == vocabulary()
    assert meta.training["command"].startswith("python -m training.twotower --out")
    assert two.tokenize([caption(0), *traits(0).values()]).shape[0] == 1 + len(traits(0))


@torch.no_grad()
def test_what_ships_reads_pictures() -> None:
    """49 captions are told apart far above chance (1/49), and one-trait twins by the trait's phrase alone."""
    from training.classifiers import normed

    from finercam.data.fieldguide import Fieldguide

    two, _ = load_twotower()
    birds = Fieldguide(49, seed=77)
    pixels = normed(birds.batch(range(49)))
    answers = two(pixels, two.tokenize([caption(label) for label in range(len(SPECIES))])).argmax(1)
    assert (answers.numpy() == birds.labels(range(49))).mean() > 0.2
    names = [species.name for species in SPECIES]
    crested, plain = names.index("Red-crested Pippin"), names.index("Plain Pippin")
    twins = [birds.picture(index, label).image for label in (crested, plain) for index in range(12)]
    embedded = F.normalize(
        two.encode_image(normed(torch.stack([torch.from_numpy(x) for x in twins]).numpy())), dim=-1
    )
    score = (embedded @ F.normalize(two.encode_text(two.tokenize("a red crest")), dim=-1).T)[:, 0]
    assert (score[:12] > score[12:]).float().mean() > 0.9


@pytest.mark.parametrize(
    "change",
    [
        {"words": None}, {"words": "bird"}, {"words": [1]}, {"width": 10**9}, {"width": "96"}, {"width": 7},
        {"preprocess": {"size": "no"}}, {"preprocess": {"sizes": 1}}, {"format": "other"}, "[]", "{", "[" * 100_000,
    ],
    ids=str,
)  # fmt: skip
def test_a_broken_folder_is_told_in_one_line(tmp_path, change):
    model, meta = load_twotower()
    save_twotower(model, meta, tmp_path)
    text = change
    if isinstance(change, dict):
        text = json.dumps(json.loads((tmp_path / "config.json").read_text()) | change)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(FinerCAMError) as told:
        load_twotower(tmp_path)
    assert "\n" not in str(told.value)


def test_weights_that_are_none_are_told_in_one_line(tmp_path):
    save_twotower(*load_twotower(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(FinerCAMError, match=r"model\.safetensors"):
        load_twotower(tmp_path)
