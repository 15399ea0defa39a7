import pytest
import torch

from finercam import metrics
from finercam.errors import FinerCAMError


def test_shuffling_keeps_the_values_and_loses_the_places(maps):
    shuffled = metrics.shuffled_map(maps)
    assert torch.equal(shuffled.flatten(1).sort(1).values, maps.flatten(1).sort(1).values)
    assert metrics.spearman(shuffled, maps).abs().max() < 0.2
    assert not torch.equal(
        metrics.rank_pixels(shuffled[:1]), metrics.rank_pixels(metrics.shuffled_map(maps, seed=9)[:1])
    )


def test_seeds_by_picture_make_batches_irrelevant(maps):
    whole = metrics.shuffled_map(maps, seed=10)
    parts = torch.cat((metrics.shuffled_map(maps[:3], seed=10), metrics.shuffled_map(maps[3:], seed=13)))
    assert torch.equal(whole, parts)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(metrics.shuffled_map(maps[order], seed=[12, 10, 13, 11]), whole[order])
    noise = metrics.random_map(4, (5, 6), seed=3)
    assert torch.equal(noise[order], metrics.random_map(4, (5, 6), seed=[5, 3, 6, 4]))
    assert noise.min() >= 0 and noise.max() < 1


@pytest.mark.slow
def test_the_gaussian_is_centred_and_as_wide_as_said():
    from scipy.stats import norm

    got = metrics.gaussian_map(2, (41, 21), sigma=0.2)
    assert got[1].argmax() == 20 * 21 + 10
    assert torch.equal(got, got.flip(1)) and torch.equal(got, got.flip(2))
    want = norm.pdf(5, scale=0.2 * 41) / norm.pdf(0, scale=0.2 * 41)
    assert got[0, 25, 10].item() == pytest.approx(want, rel=1e-5)


def test_the_random_state_is_left_alone(maps):
    before = torch.get_rng_state()
    metrics.shuffled_map(maps)
    metrics.random_map(2, (3, 3))
    assert torch.equal(before, torch.get_rng_state())


def test_bad_input(maps):
    with pytest.raises(FinerCAMError, match="2 seeds for 4"):
        metrics.shuffled_map(maps, seed=[1, 2])
    with pytest.raises(FinerCAMError, match="sigma"):
        metrics.gaussian_map(1, (3, 3), sigma=0)
