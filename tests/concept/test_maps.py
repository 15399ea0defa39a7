"""Concept maps: what they are made of, and strings that name an image–text model."""

from __future__ import annotations

import pytest
import torch

from finercam.concept import concept_maps, load_image_text
from finercam.errors import FinerCAMError
from finercam.models.twotower import TwoTower

WORDS = TwoTower(["red", "crest", "wing", "bar", "bird"], width=12).eval()
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
TEXTS = ["red crest", "wing bar", "crest"]


@torch.no_grad()
def written_out(texts: list[str], against: str, gamma: float) -> torch.Tensor:
    """Places of the picture, times the difference of the texts' unit rows."""
    places = WORDS.visual.features(IMAGES).permute(0, 2, 3, 1) @ WORDS.visual.projection.weight.T
    rows = torch.nn.functional.normalize(WORDS.encode_text(WORDS.tokenize([*texts, against])), dim=1)
    direction = rows[:-1] - gamma * rows[-1]
    return WORDS.logit_scale.exp() * torch.einsum("nhwd,td->nthw", places, direction)


@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_a_map_is_the_places_times_the_difference_of_two_texts(gamma: float) -> None:
    found = concept_maps(WORDS, IMAGES, TEXTS, "bird", gamma=gamma)
    expected = written_out(TEXTS, "bird", gamma)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))


def test_without_a_general_word_it_is_the_plain_map() -> None:
    alone = concept_maps(WORDS, IMAGES, TEXTS, None)
    assert torch.equal(alone, concept_maps(WORDS, IMAGES, TEXTS, "bird", gamma=0))
    assert torch.allclose(alone[:, :1], concept_maps(WORDS, IMAGES, TEXTS[:1], None))


def test_texts_may_repeat_and_gradient_methods_work() -> None:
    twice = concept_maps(WORDS, IMAGES, ["crest", "red crest", "crest"], method="gradcam")
    assert torch.equal(twice[:, 0], twice[:, 2])
    assert not torch.allclose(twice[:, 0], twice[:, 1])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: concept_maps(WORDS, IMAGES, []), "expected a list"),
        (lambda: concept_maps(WORDS, IMAGES, "crest"), "expected a list"),
        (lambda: concept_maps(WORDS, IMAGES, ["bird"]), "against itself"),
        (lambda: concept_maps(WORDS, IMAGES, ["beak"]), "'beak' is not among"),
        (lambda: load_image_text("resnet50"), "expected twotower"),
        (lambda: load_image_text("open_clip/ViT-B-61/openai"), "Did you mean"),
        (lambda: load_image_text("open_clip/ViT-B-32/nobody"), "has the weights"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(call: object, says: str) -> None:
    with pytest.raises(FinerCAMError, match=says) as error:
        call()  # type: ignore[operator]
    assert "\n" not in str(error.value)
