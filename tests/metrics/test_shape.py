import math

import numpy as np
import pytest
import torch

from finercam import metrics


@pytest.mark.peers
def test_sparseness_and_complexity_equal_quantus(maps):
    import quantus

    mass = maps.abs().double().numpy()
    gini = quantus.Sparseness(abs=True, normalise=False, disable_warnings=True)
    entropy = quantus.Complexity(abs=True, normalise=False, disable_warnings=True)
    want = gini.evaluate_batch(x_batch=mass[:, None], a_batch=mass[:, None].copy())
    np.testing.assert_allclose(metrics.sparseness(maps), np.asarray(want), atol=1e-6)
    want = entropy.evaluate_batch(x_batch=mass[:, None], a_batch=mass.reshape(4, -1).copy())
    np.testing.assert_allclose(metrics.complexity(maps), np.asarray(want), atol=1e-5)


@pytest.mark.peers
def test_mean_intensity_is_pytorch_grad_cams_complexity(maps):
    from pytorch_grad_cam.metrics.arcc import Complexity

    np.testing.assert_allclose(metrics.mean_intensity(maps), Complexity()(maps.numpy()), atol=1e-6)


def test_the_ends_of_the_ranges():
    one = torch.zeros(1, 5, 8)
    one[0, 2, 3] = 7
    flat = metrics.uniform_map(1, (5, 8))
    assert metrics.sparseness(one).item() == pytest.approx(1 - 1 / 40)
    assert metrics.complexity(one).item() == 0
    assert metrics.sparseness(flat).item() == pytest.approx(0, abs=1e-6)
    assert metrics.complexity(flat).item() == pytest.approx(math.log(40), rel=1e-6)


def test_scale_sign_and_precision_do_not_matter(maps):
    for measure in (metrics.sparseness, metrics.complexity):
        torch.testing.assert_close(measure(-1e-30 * maps), measure(maps), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(measure(maps.half()), measure(maps.half().float()))
        assert measure(torch.zeros(1, 3, 3)).isnan().all()
        order = torch.tensor([2, 1, 3, 0])
        assert torch.equal(measure(maps[order]), measure(maps)[order])


def test_a_hole_is_nan(maps):
    holed = maps.clone()
    holed[0, 0, 0] = torch.nan
    for measure in (metrics.sparseness, metrics.complexity, metrics.mean_intensity):
        assert measure(holed).isnan().tolist() == [True, False, False, False]
