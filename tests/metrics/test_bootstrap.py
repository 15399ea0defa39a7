import numpy as np
import pytest
import torch

from finercam import metrics
from finercam.errors import FinerCAMError


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    base = torch.rand(80, generator=generator) + 0.5
    return base + 0.1 * torch.rand(80, generator=generator), base


@pytest.mark.slow
def test_agrees_with_scipy(pair):
    from scipy import stats

    a, b = (x.double().numpy() for x in pair)
    for got, statistic, data in (
        (metrics.bootstrap(pair[0]), np.mean, (a,)),
        (metrics.bootstrap_difference(*pair), lambda x, y, axis: x.mean(axis) - y.mean(axis), (a, b)),
        (metrics.bootstrap_ratio(*pair), lambda x, y, axis: x.mean(axis) / y.mean(axis), (a, b)),
    ):
        peer = stats.bootstrap(
            data, statistic, paired=len(data) > 1, method="percentile", n_resamples=4000, rng=1, vectorized=True
        ).confidence_interval
        width = peer.high - peer.low
        assert got.estimate == pytest.approx(statistic(*data, axis=0), rel=1e-6)
        assert got.low == pytest.approx(peer.low, abs=0.06 * width)
        assert got.high == pytest.approx(peer.high, abs=0.06 * width)
        assert got.pictures == 80


def test_pairing_narrows_the_interval(pair):
    paired = metrics.bootstrap_difference(*pair)
    broken = metrics.bootstrap_difference(pair[0], pair[1].flip(0))
    assert paired.estimate == pytest.approx(broken.estimate)
    assert paired.low > 0 > broken.low


def test_pairs_with_a_nan_leave_together(pair):
    a, b = pair[0].clone(), pair[1].clone()
    a[3], b[10], b[11] = torch.nan, torch.nan, torch.nan
    keep = [i for i in range(80) if i not in (3, 10, 11)]
    for function in (metrics.bootstrap_difference, metrics.bootstrap_ratio):
        assert function(a, b) == function(pair[0][keep], pair[1][keep])
    assert metrics.bootstrap(a).pictures == 79
    nothing = metrics.bootstrap(torch.full((3,), torch.nan))
    assert nothing.pictures == 0 and np.isnan(nothing.estimate)


def test_seed_level_and_the_chunks(pair, monkeypatch):
    import sys

    whole = metrics.bootstrap(pair[0], seed=1)
    assert whole == metrics.bootstrap(pair[0], seed=1) != metrics.bootstrap(pair[0], seed=2)
    narrow = metrics.bootstrap(pair[0], seed=1, level=0.5)
    assert whole.low < narrow.low < narrow.estimate < narrow.high < whole.high
    monkeypatch.setattr(sys.modules["finercam.metrics.bootstrap"], "_CHUNK", 1000)
    chunked = metrics.bootstrap(pair[0], seed=1)
    assert chunked.low == pytest.approx(whole.low, rel=0.02) and chunked.high == pytest.approx(whole.high, rel=0.02)
    before = torch.get_rng_state()
    metrics.bootstrap(pair[0])
    assert torch.equal(before, torch.get_rng_state())


def test_half_precision_is_summed_in_double():
    values = torch.full((5000,), 0.1, dtype=torch.float16)
    assert metrics.bootstrap(values, resamples=10).estimate == pytest.approx(float(values[0]), rel=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.bootstrap(torch.zeros(2, 2)), r"\(N,\)"),
        (lambda: metrics.bootstrap_difference(torch.zeros(2), torch.zeros(3)), "paired"),
        (lambda: metrics.bootstrap(torch.zeros(2), level=95), r"\(0, 1\)"),
    ],
)
def test_input_is_checked(call, message):
    with pytest.raises(FinerCAMError, match=message):
        call()


def test_the_names_are_metrics_only():
    wanted = {"adcc", "deletion", "energy", "pointing", "road", "spearman"}
    assert wanted <= set(metrics.__all__)
    helpers = {
        "Fill",
        "Interval",
        "bootstrap",
        "black",
        "uniform_map",
        "box_masks",
        "masked_scores",
        "zero",
        "impute",
    }
    assert not helpers & set(metrics.__all__) and all(hasattr(metrics, name) for name in helpers)
