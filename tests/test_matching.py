"""Lit regions and matched places on maps and features that are made by hand."""

import pytest
import torch

from finercam.errors import FinerCAMError
from finercam.matching import correspondence, descriptors, lit_regions, matches, only_there


def blob(size, *peaks, sigma=1.2):
    """A map with a bump of the given height at each (row, column, height)."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    bumps = [h * torch.exp(-((rows - r) ** 2 + (columns - c) ** 2) / (2 * sigma**2)) for r, c, h in peaks]
    return torch.stack(bumps).sum(0)


def test_each_bump_is_a_region_with_its_share_of_the_mass():
    signed = blob(16, (3, 3, 1.0), (12, 10, 0.5)) - 0.05
    found = lit_regions(signed)
    assert [region.peak for region in found] == [(3, 3), (12, 10)]
    values = signed.clamp(min=0)
    for region in found:
        assert region.share == pytest.approx(float(values[region.cells].sum() / values.sum()), rel=1e-5)
        assert bool((signed[region.cells] >= 0.4 * signed[region.peak] - 1e-6).all())
    assert not bool((found[0].cells & found[1].cells).any())
    assert found[0].place == (3.5 / 16, 3.5 / 16)


def test_a_high_saddle_joins_two_peaks_and_a_low_one_does_not():
    ridge = torch.tensor([[1.0, 0.9, 1.0, 0.2, 0.8]])
    assert [region.peak for region in lit_regions(ridge)] == [(0, 0), (0, 4)]


def test_small_and_surplus_regions_are_left_out():
    signed = blob(24, (2, 2, 1.0), (2, 20, 0.9), (20, 2, 0.8), (20, 20, 0.7), sigma=1.0)
    assert [region.peak for region in lit_regions(signed)] == [(2, 2), (2, 20), (20, 2)]
    assert len(lit_regions(signed, most=9)) == 4
    assert len(lit_regions(blob(24, (2, 2, 1.0), (20, 20, 0.01)), most=9)) == 1


def test_a_map_without_positive_evidence_has_no_region_and_a_wrong_one_is_refused():
    assert lit_regions(torch.full((4, 4), -1.0)) == []
    for wrong in (torch.zeros(1, 4, 4), torch.full((4, 4), torch.nan)):
        with pytest.raises(FinerCAMError, match="expected one finite map"):
            lit_regions(wrong)


def test_descriptors_are_unit_vectors_that_ignore_what_all_places_share():
    torch.manual_seed(0)
    layers = [torch.randn(2, 6, 8, 8), torch.randn(2, 10, 4, 4)]
    found = descriptors(layers, (8, 8))
    assert torch.allclose(found.norm(dim=1), torch.ones(2, 8, 8), atol=1e-5)
    shifted = descriptors([layers[0] + 7.0, layers[1] - 3.0], (8, 8))
    assert torch.allclose(found, shifted, atol=1e-4)


def test_a_region_is_matched_with_the_moved_cell_that_carries_the_opposite_evidence():
    torch.manual_seed(0)
    here = descriptors([torch.randn(1, 32, 12, 12)], (12, 12))[0]
    there = here.roll((2, -3), dims=(1, 2))
    signed = blob(12, (4, 5, 1.0), (8, 9, 0.8), sigma=0.4)
    opposite = torch.full((12, 12), 0.5)
    found = matches(signed, here, opposite, there)
    assert [(match.here, match.there) for match in found] == [((4, 5), (6, 2)), ((8, 9), (10, 6))]
    assert all(match.evidence == 1.0 and match.grid == (12, 12) for match in found)
    assert (found[0].place, found[0].place_there) == ((5.5 / 12, 4.5 / 12), (2.5 / 12, 6.5 / 12))
    dark = opposite.clone()
    dark[6, 2] = 0.0
    assert matches(signed, here, dark, there)[0].there != (6, 2)
    assert matches(signed, here, -opposite, there) == []


def test_what_is_lit_on_the_other_photo_alone_is_what_no_match_lies_in():
    torch.manual_seed(0)
    features = descriptors([torch.randn(1, 32, 12, 12)], (12, 12))[0]
    signed, opposite = blob(12, (3, 3, 1.0)), blob(12, (3, 3, 1.0), (9, 9, 0.9))
    found = matches(signed, features, opposite, features)
    assert [match.there for match in found] == [(3, 3)]
    assert [region.peak for region in only_there(opposite, found)] == [(9, 9)]


def test_correspondence_is_one_at_the_place_itself():
    torch.manual_seed(0)
    features = torch.randn(5, 3, 3)
    weights = torch.zeros(3, 3)
    weights[1, 2] = 4.0
    alike = correspondence(weights, features, features)
    assert alike[1, 2] == pytest.approx(1.0, abs=1e-6) and int(alike.argmax()) == 5


def test_a_match_is_sure_where_the_features_are_alike():
    torch.manual_seed(0)
    features = descriptors([torch.randn(1, 32, 12, 12)], (12, 12))[0]
    signed, lit_elsewhere = blob(12, (3, 3, 1.0), sigma=0.4), torch.full((12, 12), -1.0)
    lit_elsewhere[9, 9] = 1.0
    (same,) = matches(signed, features, torch.full((12, 12), 0.5), features)
    (other,) = matches(signed, features, lit_elsewhere, features)
    assert same.sure and same.cosine == pytest.approx(1.0, abs=1e-5)
    assert other.there == (9, 9) and not other.sure


def test_faint_cells_are_no_match():
    torch.manual_seed(0)
    features = descriptors([torch.randn(1, 32, 12, 12)], (12, 12))[0]
    faint = torch.zeros(12, 12)
    faint[3, 3], faint[9, 9] = 0.05, 1.0
    assert matches(blob(12, (3, 3, 1.0), sigma=0.4), features, faint, features)[0].there == (9, 9)
