"""Views for test-time smoothing."""

from __future__ import annotations

import pytest
import torch

from finercam import FinerCAM, FinerCAMError
from finercam.core.views import IDENTITY, View, views


def test_undo_brings_a_mirrored_map_back(pictures):
    images = pictures(2, size=8)
    maps = images.mean(dim=1)
    view = View(flip=True)
    assert torch.equal(view.undo(view.apply(images).mean(dim=1), (8, 8)), maps)


def test_a_scaled_view_of_a_ramp_comes_back_as_the_ramp():
    ramp = torch.linspace(0, 1, 32).expand(1, 3, 32, 32)
    view = View(scale=1.125)
    back = view.undo(view.apply(ramp).mean(dim=1), (32, 32))
    torch.testing.assert_close(back[..., 2:-2], ramp[:, 0, :, 2:-2], atol=0.01, rtol=0)


def test_what_smooth_asks_for():
    assert views(None) == (IDENTITY,)
    assert views("flip") == (IDENTITY, View(flip=True))
    assert [v.scale for v in views("scale")] == [1.0, 0.875, 1.125]
    assert len(set(views(("flip", "scale")))) == len(views(["scale", "flip"])) == 6


@pytest.mark.parametrize("wrong", ["mirror", True, 2, ("flip", "turn")])
def test_unknown_views_are_refused(wrong):
    with pytest.raises(FinerCAMError, match="smooth=") as caught:
        views(wrong)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigengradcam", "scorecam"])
def test_a_mirror_image_gets_a_mirror_map_when_smoothed_by_flip(toys, pictures, method):
    half = pictures(2, size=(16, 8))
    images = torch.cat([half, half.flip(-1)], dim=-1)
    model = toys.cnn()
    rough = FinerCAM(model, method=method, layer="stage2")(images).signed
    smooth = FinerCAM(model, method=method, layer="stage2", smooth="flip")(images).signed
    size = float(smooth.abs().max())
    assert float((rough - rough.flip(-1)).abs().max()) > 1e-3 * size  # or the test could not fail
    torch.testing.assert_close(smooth, smooth.flip(-1), atol=1e-5 * size, rtol=0)


def test_smoothing_is_the_mean_of_the_views_answers(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    question = {"target": [0, 1], "against": [[2], [3, 4]]}
    explain = FinerCAM(model, layer="stage2")
    by_hand = (explain(images, **question).signed + explain(images.flip(-1), **question).signed.flip(-1)) / 2
    found = FinerCAM(model, layer="stage2", smooth="flip")(images, **question).signed
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize("weights", ["mean", "probability", "orthogonal", "released"])
@pytest.mark.parametrize("keep", ["contrast", "references"])
def test_all_views_are_asked_the_same_question(toys, pictures, weights, keep):
    """The logits of a view differ from the image's; its references must keep their weights."""
    explain = FinerCAM(toys.cnn(), layer="stage1", weights=weights, smooth=("flip", "scale"), keep=keep)
    answer = explain(pictures(2))
    for view, evidence in answer.seen:
        assert torch.equal(evidence.logits, answer.logits.double()), view
    again = answer.ask(gamma=0.6)
    assert torch.equal(again.signed, answer.signed)


def test_every_view_is_on_the_grid_of_the_image(toys, pictures):
    answer = FinerCAM(toys.gap(), layer="features", smooth="scale")(pictures(1, size=24))
    assert answer.signed.shape == (1, 12, 12)
    assert [evidence.activations[0].shape[-1] for _, evidence in answer.seen] == [12, 11, 14]
