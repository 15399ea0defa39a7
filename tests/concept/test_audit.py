"""Agreement of maps: closed forms, equality with scipy, invariances, and the baseline of shifts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finercam.concept import audit, cosine, energy_overlap, rank_correlation
from finercam.concept.audit import MEASURES, shifts
from finercam.errors import FinerCAMError

seeds = st.integers(0, 10_000)


def smooth(seed: int, *shape: int) -> torch.Tensor:
    coarse = torch.randn(*shape[:-2], 4, 4, generator=torch.Generator().manual_seed(seed))
    flat = coarse.reshape(1, -1, 4, 4)
    return torch.nn.functional.interpolate(flat, shape[-2:], mode="bilinear")[0].reshape(shape)


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(seeds, st.booleans())
def test_rank_correlation_is_scipys(seed: int, ties: bool) -> None:
    from scipy import stats

    one, other = smooth(seed, 6, 9), smooth(seed + 1, 6, 9)
    if ties:
        one, other = one.round(), other.clamp(min=0)
    expected = stats.spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic
    if np.isfinite(expected):
        assert rank_correlation(one, other).item() == pytest.approx(expected, abs=1e-5)


@settings(max_examples=15, deadline=None)
@given(seeds, st.floats(1e-20, 1e20))
def test_scale_and_order_do_not_matter_and_a_map_agrees_with_itself(seed: int, scale: float) -> None:
    one, other = smooth(seed, 8, 8), smooth(seed + 1, 8, 8)
    for measure in (cosine, energy_overlap, rank_correlation):
        value = measure(one, other)
        assert measure(one * scale, other).item() == pytest.approx(value.item(), abs=1e-4)
        assert measure(other, one).item() == pytest.approx(value.item(), abs=1e-5)
        assert measure(one, one).item() == pytest.approx(1, abs=1e-5)
        assert -1 - 1e-6 <= value.item() <= 1 + 1e-6


def test_negative_evidence_is_no_energy_but_has_a_rank() -> None:
    one, opposite = torch.tensor([[2.0, 1.0, -3.0]]), torch.tensor([[-2.0, -1.0, 3.0]])
    assert cosine(one, opposite) == 0
    assert energy_overlap(one, opposite) == 0
    assert rank_correlation(one, opposite).item() == pytest.approx(-1)
    blank = torch.zeros(1, 3)
    assert [measure(blank, one).item() for measure in (cosine, energy_overlap, rank_correlation)] == [0, 0, 0]


def test_the_trait_whose_place_it_is_comes_first_and_chance_is_what_unrelated_maps_reach() -> None:
    evidence = smooth(0, 5, 16, 16)
    unrelated = torch.stack([smooth(10 + t, 5, 16, 16) for t in range(3)], 1)
    concepts = torch.cat([unrelated, evidence[:, None] + 0.2 * smooth(20, 5, 1, 16, 16)], 1)
    found = audit(evidence, concepts, ["tail", "beak", "wing", "crest"])
    assert found[0].trait == "crest"
    assert found[0].p == pytest.approx(0.01)
    assert found[0].cosine > 0.9
    assert all(abs(one.excess()) < 0.25 for one in found[1:])
    assert all(one.p > 0.02 for one in found[1:])


def test_a_broad_trait_does_not_win_by_its_breadth() -> None:
    """A map that is bright everywhere overlaps any evidence, and as much wherever it is shifted to."""
    evidence = torch.zeros(1, 16, 16)
    evidence[0, 4:7, 4:7] = 1
    nearby = torch.zeros(1, 16, 16)
    nearby[0, 5:8, 5:9] = 1
    found = audit(evidence, torch.stack([torch.ones(1, 16, 16), nearby], 1), ["bird", "crest"], by="energy_overlap")
    assert [one.trait for one in found] == ["crest", "bird"]
    assert found[1].excess("energy_overlap") == pytest.approx(0, abs=1e-6)
    assert found[1].p == 1


def test_shifts_are_seeded_never_zero_and_leave_the_global_generator_alone() -> None:
    evidence, concepts = smooth(0, 2, 4, 4), smooth(1, 2, 3, 4, 4)
    state = torch.get_rng_state()
    first = shifts(evidence, evidence[:, None], "cosine", 40, 0)
    assert torch.equal(first, shifts(evidence, evidence[:, None], "cosine", 40, 0))
    assert torch.equal(state, torch.get_rng_state())
    assert first.shape == (40, 2, 1)
    assert (first < 0.999).all()  # a shift of zero would give 1
    assert not torch.equal(shifts(evidence, concepts, "cosine", 9, 0), shifts(evidence, concepts, "cosine", 9, 1))


@pytest.mark.parametrize("by", list(MEASURES))
def test_a_shift_is_the_measure_of_the_rolled_map(by: str) -> None:
    evidence, concepts = smooth(0, 2, 2, 3), smooth(1, 2, 3, 2, 3)
    all_five = shifts(evidence, concepts, by, 5, 0)
    rolled = [evidence.roll((place // 3, place % 3), dims=(1, 2)) for place in range(1, 6)]
    expected = torch.stack([MEASURES[by](maps[:, None], concepts) for maps in rolled])
    assert torch.allclose(all_five.sort(0).values, expected.sort(0).values, atol=1e-6)


def test_grids_may_differ() -> None:
    evidence = smooth(3, 2, 8, 8)
    large = torch.nn.functional.interpolate(evidence[:, None], (16, 16), mode="bilinear")
    (found,) = audit(evidence, large, ["crest"])
    assert found.cosine == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("maps", "concepts", "options", "says"),
    [
        (torch.ones(2, 4, 4), torch.ones(3, 1, 4, 4), {}, "N the same"),
        (torch.ones(2, 4, 4), torch.ones(2, 2, 4, 4), {}, r"\(N, 1, h', w'\)"),
        (torch.ones(4, 4), torch.ones(2, 1, 4, 4), {}, r"expected \(N, h, w\)"),
        (torch.ones(1, 1, 1), torch.ones(1, 1, 1, 1), {}, "no place"),
        (torch.ones(2, 4, 4), torch.ones(2, 1, 4, 4), {"by": "iou"}, "expected one of cosine"),
    ],
)
def test_what_does_not_fit_is_one_line(
    maps: torch.Tensor, concepts: torch.Tensor, options: dict[str, str], says: str
) -> None:
    with pytest.raises(FinerCAMError, match=says):
        audit(maps, concepts, ["crest"], **options)  # type: ignore[arg-type]
