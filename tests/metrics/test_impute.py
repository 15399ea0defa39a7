import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finercam import metrics
from finercam.errors import FinerCAMError


def dense_solution(image: np.ndarray, known: np.ndarray) -> np.ndarray:
    """The definition, one equation a pixel: mean of the neighbours inside the picture, weights 1/6 and 1/12."""
    height, width = known.shape
    matrix, right = np.eye(height * width), image.reshape(-1).astype(float).copy()
    for y in range(height):
        for x in range(width):
            if known[y, x]:
                continue
            row = np.zeros(height * width)
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy or dx) and 0 <= y + dy < height and 0 <= x + dx < width:
                        row[(y + dy) * width + x + dx] = 1 / 12 if dy and dx else 1 / 6
            matrix[y * width + x] -= row / row.sum()
            right[y * width + x] = 0
    return np.linalg.solve(matrix, right).reshape(height, width)


@given(st.integers(1, 19), st.integers(1, 19), st.floats(0.02, 0.98), st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_equals_the_dense_solution_for_any_mask(height, width, share, seed):
    rng = np.random.default_rng(seed)
    image, known = rng.normal(size=(height, width)), rng.random((height, width)) < share
    known.flat[rng.integers(height * width)] = True
    want = dense_solution(image, known)
    got = metrics.impute(torch.from_numpy(image)[None, None], torch.from_numpy(known)[None], noise=0, tolerance=1e-8)
    np.testing.assert_allclose(got[0, 0].numpy(), want, atol=1e-6)


@pytest.mark.peers
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_equals_pytorch_grad_cam(images, maps, kept):
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    known = maps < maps.flatten(1).quantile(kept, dim=1)[:, None, None]
    got = metrics.impute(images, known, noise=0)
    for i in range(len(images)):
        want = NoisyLinearImputer(noise=0)(images[i], known[i].float())
        torch.testing.assert_close(got[i], want, atol=1e-3, rtol=0)  # a tenth of ROAD's noise


def test_a_large_hole_in_a_large_picture_is_within_the_tolerance():
    side = 150
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    harmonic = ((x - 75.0) ** 2 - (y - 75.0) ** 2) / 75**2  # solves the stencil's equation exactly
    known = ((x - 75) ** 2 + (y - 70) ** 2) > 60**2
    spoiled = torch.where(known, harmonic, 9.0)
    got = metrics.impute(spoiled[None, None], known[None], noise=0)[0, 0]
    assert (got - harmonic).abs().max() < 2e-3


def test_stays_between_the_extremes_of_what_is_known(images, maps):
    known = maps < 0.8
    got = metrics.impute(images, known, noise=0)
    for i in range(len(images)):
        seen = images[i][:, known[i]]
        assert (got[i].amax((1, 2)) <= seen.amax(1) + 1e-3).all() and (
            got[i].amin((1, 2)) >= seen.amin(1) - 1e-3
        ).all()


def test_nothing_known_gives_the_mean_colour_and_all_known_the_picture(images):
    none = torch.zeros(4, 20, 24, dtype=torch.bool)
    got = metrics.impute(images, none, noise=0)
    torch.testing.assert_close(got, images.mean((2, 3), keepdim=True).expand_as(images), atol=1e-5, rtol=0)
    assert torch.equal(metrics.impute(images, ~none), images)


def test_noise_has_its_size_its_seed_and_its_place(images, maps):
    known = maps < -0.5
    bare = metrics.impute(images, known, noise=0)
    noisy = metrics.impute(images, known, noise=0.2, seed=1)
    difference = noisy - bare
    assert (difference.permute(0, 2, 3, 1)[known] == 0).all()
    assert difference.permute(0, 2, 3, 1)[~known].std().item() == pytest.approx(0.2, rel=0.1)
    assert torch.equal(noisy, metrics.impute(images, known, noise=0.2, seed=1))
    assert not torch.equal(noisy, metrics.impute(images, known, noise=0.2, seed=2))


def test_order_and_company_do_not_matter(images, maps):
    known, order = maps < 0, torch.tensor([2, 0, 3, 1])
    whole = metrics.impute(images, known)
    torch.testing.assert_close(metrics.impute(images[order], known[order]), whole[order], atol=1e-3, rtol=0)
    torch.testing.assert_close(metrics.impute(images[1:2], known[1:2]), whole[1:2], atol=1e-3, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_type(images, maps, dtype):
    known = maps < 0.3
    got = metrics.impute(images.to(dtype), known, noise=0)
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), metrics.impute(images, known, noise=0), atol=3e-2, rtol=0)


def test_the_random_state_is_left_alone(images, maps):
    before = torch.get_rng_state()
    metrics.impute(images, maps < 0)
    assert torch.equal(before, torch.get_rng_state())


def test_shapes_are_checked(images, maps):
    with pytest.raises(FinerCAMError, match=r"\(N, H, W\)"):
        metrics.impute(images, maps[:, None] < 0)
