import pytest
import torch
from scipy.ndimage import gaussian_filter

from finercam import metrics
from finercam.errors import FinerCAMError


def test_black_is_black_before_normalisation_and_zero_is_the_mean_colour():
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    images = (torch.rand(2, 3, 8, 8) - mean[:, None, None]) / std[:, None, None]

    def undo(x):
        return x * std[:, None, None] + mean[:, None, None]

    black = metrics.black(mean.tolist(), std.tolist()).backdrop(images)
    torch.testing.assert_close(undo(black), torch.zeros(1, 3, 1, 1), atol=1e-6, rtol=0)
    torch.testing.assert_close(undo(metrics.zero().backdrop(images))[0, :, 0, 0], mean)


def test_blur_is_scipys_gaussian(images):
    sigma = 0.1 * 20
    got = metrics.blur(0.1).backdrop(images)[0, 0]
    want = gaussian_filter(images[0, 0].double().numpy(), sigma, mode="nearest", radius=6)
    torch.testing.assert_close(got, torch.from_numpy(want).float(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["zero", "mean", "blur", "road"])
def test_only_removed_pixels_change(images, maps, name):
    removed = (maps > 0.5)[:, None]
    painted = metrics.as_fill(name).prepare(images)(removed)[:, 0]
    stay = ~removed.expand_as(images)
    assert torch.equal(painted[stay], images[stay])
    assert not torch.equal(painted, images)


def test_fills_say_their_names(model, images, maps):
    for fill, name in [("zero", "zero"), (metrics.black(0.5, 0.5), "black"), (metrics.blur(0.1), "blur(0.1)")]:
        assert metrics.deletion(model, images, maps, 0, steps=2, fill=fill).fill == name
        assert metrics.relative_drop(model, images, maps, 0, 1, fill=fill).fill == name
        assert metrics.kept_confidence(model, images, torch.ones_like(maps), 0, fill=fill).fill == name


def test_a_fill_made_from_the_rest_cannot_be_blended(images):
    with pytest.raises(FinerCAMError, match=r"road\(0\.01\)"):
        metrics.road_fill().backdrop(images)


@pytest.mark.parametrize("make", [lambda: metrics.black(0.5, 0), lambda: metrics.blur(0)])
def test_impossible_fills(make):
    with pytest.raises(FinerCAMError, match="positive"):
        make()
