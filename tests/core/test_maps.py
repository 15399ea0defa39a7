"""Signed maps, their fusion and their scaling."""

from __future__ import annotations

import pytest
import torch

from finercam import FinerCAMError
from finercam.core.fuse import fuse
from finercam.core.maps import peak, positive, upsample


def test_a_constant_positive_map_is_one_everywhere_and_no_evidence_is_zero():
    maps = positive(torch.stack([torch.full((2, 2), 0.3), torch.zeros(2, 2), torch.full((2, 2), -5.0)]))
    assert maps[0].unique().tolist() == [1.0]
    assert maps[1:].abs().max() == 0


def test_the_least_value_is_not_subtracted():
    assert positive(torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])).tolist() == [[[0.25, 0.5], [0.75, 1.0]]]


@pytest.mark.parametrize("size", [1e-30, 1e-8, 1.0, 1e30])
def test_scaling_does_not_depend_on_the_size_of_the_logits(size):
    base = torch.tensor([[[-1.0, 0.5], [0.25, 2.0]]])
    torch.testing.assert_close(positive(base * size), positive(base))


def test_each_map_of_a_batch_has_its_own_peak():
    assert peak(torch.tensor([[[1.0, 5.0]], [[-2.0, 0.0]]])).flatten().tolist() == [5.0, 1.0]


def test_upsampling_is_bilinear_with_centres_aligned():
    found = upsample(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    torch.testing.assert_close(found, torch.tensor([[[0.0, 0.25, 0.75, 1.0]]]))


def test_mean_fusion_scales_each_layer_by_its_largest_magnitude():
    a = torch.tensor([[[4.0, -8.0]]])
    b = torch.tensor([[[0.1, 0.0]]])
    torch.testing.assert_close(fuse([a, b], "mean"), torch.tensor([[[0.75, -0.5]]]))


def test_product_fusion_keeps_agreement_and_its_sign():
    a = torch.tensor([[[1.0, -1.0, 0.5, -0.5]]])
    b = torch.tensor([[[0.5, -1.0, -1.0, 0.0]]])
    torch.testing.assert_close(fuse([a, b], "product"), torch.tensor([[[0.5, -1.0, 0.0, 0.0]]]))


def test_product_of_three_does_not_turn_two_negatives_into_a_positive():
    negative, positive_ = torch.tensor([[[-1.0]]]), torch.tensor([[[1.0]]])
    assert fuse([negative, negative, positive_], "product").item() == 0
    assert fuse([negative, negative, negative], "product").item() == -1


def test_layers_are_fused_on_the_finest_grid():
    fine = torch.zeros(1, 1, 4)
    fused = fuse([torch.tensor([[[0.0, 1.0]]]), fine], "mean")
    torch.testing.assert_close(fused, torch.tensor([[[0.0, 0.125, 0.375, 0.5]]]))


def test_one_layer_is_left_as_it_is():
    only = torch.tensor([[[3.0, -7.0]]])
    assert fuse([only], "product") is only


def test_unknown_fusion_is_refused():
    with pytest.raises(FinerCAMError, match="fusion='max'"):
        fuse([torch.zeros(1, 1, 1)], "max")
