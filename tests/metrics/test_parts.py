"""Evidence on the parts in which two classes differ, by hand and at chance."""

import math

import pytest
import torch

from finercam import metrics
from finercam.errors import FinerCAMError

NAN = float("nan")


def test_every_pixel_within_reach_belongs_to_its_nearest_visible_keypoint():
    points = torch.tensor([[[2.0, 2.0], [NAN, NAN], [7.0, 2.0]], [[2.0, 2.0], [9.0, 9.0], [NAN, NAN]]])
    regions = metrics.keypoint_regions(points, torch.tensor([2.0, 1.0]), (12, 12))
    for n, radius in enumerate((2.0, 1.0)):
        for y in range(12):
            for x in range(12):
                away = [math.dist((x + 0.5, y + 0.5), p) if p[0] == p[0] else math.inf for p in points[n].tolist()]
                near = min(range(3), key=lambda k, away=away: away[k])
                assert regions[n, y, x] == (near if away[near] <= radius else -1)


def test_a_part_decides_by_all_three_rules():
    difference = torch.tensor(
        [
            [0.9, 0.75, 0.5, 0.1, NAN],  # .75 of the largest visible difference is .675
            [0.29, 0.0, 0.0, 0.0, 0.0],  # below .3
            [0.5, 0.5, 0.5, 0.45, NAN],  # all alike: none lies .1 above the median
            [NAN, NAN, NAN, NAN, NAN],
        ]
    )
    want = [[True, True, False, False, False], [False] * 5, [False] * 5, [False] * 5]
    assert metrics.deciding_parts(difference).tolist() == want


def test_shares_correlation_and_pointing_by_hand():
    maps = torch.tensor([[[4.0, 2.0, 1.0, 3.0, -5.0, 2.0]]])
    from scipy.stats import spearmanr

    regions = torch.tensor([[[0, 0, 1, 2, 2, -1]]])
    difference = torch.tensor([[0.8, 0.2, 0.4]])
    found = {name: value.item() for name, value in metrics.part_evidence(maps, regions, difference).items()}
    density = [3.0, 1.0, 1.5]
    assert found["part_share"] == pytest.approx(6 / 10)
    assert found["part_energy"] == pytest.approx(6 / 12)
    assert found["part_pointing"] == 1
    assert found["part_correlation"] == pytest.approx(spearmanr(density, [0.8, 0.2, 0.4]).statistic)
    reverse = metrics.part_evidence(-maps, regions, difference)  # the pixel of -5 alone is positive now
    assert reverse["part_share"].item() == 0 and reverse["part_pointing"].item() == 0


def test_chance_is_what_the_uniform_map_gets_and_nothing_to_decide_is_nan():
    regions = metrics.keypoint_regions(
        torch.tensor([[[3.0, 3.0], [8.0, 3.0], [NAN, NAN]]]), torch.tensor([2.0]), (9, 12)
    )
    difference = torch.tensor([[0.9, 0.1, NAN]])
    chance = metrics.part_evidence_chance(regions, difference)
    assert chance["part_energy"].item() == pytest.approx((regions == 0).float().mean().item())
    assert chance["part_share"].item() == pytest.approx((regions == 0).sum().item() / (regions >= 0).sum().item())
    assert chance["part_pointing"].item() == 0.5 and chance["part_correlation"].isnan().all()
    for value in metrics.part_evidence(torch.rand(1, 9, 12), regions, torch.tensor([[0.2, 0.1, NAN]])).values():
        assert value.isnan().all()
    for value in metrics.part_evidence(-torch.rand(1, 9, 12), regions, difference).values():
        assert value.isnan().all()


def test_a_part_outside_the_picture_neither_decides_nor_counts():
    """Its keypoint was cut off by the crop: no pixel belongs to it."""
    found = metrics.part_evidence(torch.ones(1, 1, 2), torch.tensor([[[1, 2]]]), torch.tensor([[0.9, 0.8, 0.1]]))
    assert found["part_share"].item() == 0.5


def test_shapes_are_checked():
    with pytest.raises(FinerCAMError, match=r"expected \(N, H, W\) twice and \(N, P\)"):
        metrics.part_evidence(torch.ones(1, 2, 2), torch.zeros(1, 2, 3, dtype=torch.long), torch.ones(1, 1))
