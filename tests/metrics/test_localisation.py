import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finercam import metrics
from finercam.errors import FinerCAMError


@pytest.mark.peers
def test_energy_equals_quantus_relevance_mass_accuracy(maps, masks):
    import quantus

    mass = maps.relu()
    peer = quantus.RelevanceMassAccuracy(abs=False, normalise=False, disable_warnings=True)
    want = peer.evaluate_batch(a_batch=mass[:, None].numpy(), s_batch=masks[:, None].numpy())
    torch.testing.assert_close(metrics.energy(maps, masks), torch.from_numpy(np.asarray(want)).float())


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(-2, 2), st.booleans()), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_average_precision_equals_scikit_learn_with_ties(pixels):
    from sklearn.metrics import average_precision_score

    values, inside = zip(*pixels, strict=True)
    got = metrics.average_precision(torch.tensor([[values]], dtype=torch.float32), torch.tensor([[inside]]))
    if any(inside):
        assert got.item() == pytest.approx(average_precision_score(inside, values), abs=1e-6)
    else:
        assert got.isnan().all()


@pytest.mark.slow
def test_average_precision_by_the_batch(maps, masks):
    from sklearn.metrics import average_precision_score

    want = [average_precision_score(s.flatten(), m.flatten()) for m, s in zip(maps, masks, strict=True)]
    torch.testing.assert_close(metrics.average_precision(maps, masks), torch.tensor(want, dtype=torch.float32))


@pytest.mark.parametrize(("pixels", "positives"), [(5, 1), (6, 3), (4, 4)])
def test_average_precisions_chance_is_the_mean_over_all_orders(pixels, positives):
    inside = torch.arange(pixels) < positives
    orders = torch.tensor(list(itertools.permutations(range(pixels))), dtype=torch.float32)[:, None]
    every = metrics.average_precision(orders, inside.expand_as(orders))
    torch.testing.assert_close(metrics.average_precision_chance(inside[None, None])[0], every.mean())


def test_the_uniform_map_lands_on_chance_and_so_does_the_shuffled_one_on_average(maps, masks):
    share = metrics.mask_share(masks)
    flat = metrics.uniform_map(4, (20, 24))
    for value in (
        metrics.energy(flat, masks),
        metrics.pointing(flat, masks),
        metrics.average_precision(flat, masks),
        metrics.mask_iou(flat, masks)[:, 1],
    ):
        torch.testing.assert_close(value, share)
    grown = metrics.pointing_chance(masks, tolerance=3)
    torch.testing.assert_close(metrics.pointing(flat, masks, tolerance=3), grown)

    many = metrics.shuffled_map(maps[:1].expand(3000, -1, -1))
    mask = masks[:1].expand(3000, -1, -1)
    for values, chance in (
        (metrics.energy(many, mask), share[0]),
        (metrics.pointing(many, mask), share[0]),
        (metrics.pointing(many, mask, tolerance=3), grown[0]),
        (metrics.average_precision(many, mask), metrics.average_precision_chance(masks)[0]),
    ):
        error = values.std() / 3000**0.5
        assert abs(values.mean() - chance) < 4 * error


@pytest.mark.parametrize("tolerance", [0, 1, 3, 4, 40])
def test_pointing_by_hand(maps, masks, tolerance):
    hits = metrics.pointing(maps, masks, tolerance=tolerance)
    chance = metrics.pointing_chance(masks, tolerance=tolerance)
    grid = torch.stack(torch.meshgrid(torch.arange(20), torch.arange(24), indexing="ij"), -1).reshape(-1, 2).float()
    for i in range(4):
        near = torch.cdist(grid, grid[masks[i].flatten()]).min(1).values <= tolerance
        assert hits[i] == float(near[maps[i].argmax()])
        assert chance[i].item() == pytest.approx(near.float().mean().item())


def test_tied_maxima_share_the_hit():
    maps = torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.0]]])
    assert metrics.pointing(maps, torch.tensor([[[True, False, False, False, True]]])).item() == 0.25


def test_iou_by_hand_and_without_positive_values(maps, masks):
    got = metrics.mask_iou(maps, masks, [0.3, 0.9])
    for i in range(4):
        for j, threshold in enumerate((0.3, 0.9)):
            chosen = set((maps[i].flatten() >= threshold * maps[i].max()).nonzero().flatten().tolist())
            inside = set(masks[i].flatten().nonzero().flatten().tolist())
            assert got[i, j].item() == pytest.approx(len(chosen & inside) / len(chosen | inside))
    assert (metrics.mask_iou(-maps.abs() - 1, masks) == 0).all()


def test_boxes_are_pixels_whose_centre_is_inside():
    boxes = torch.tensor([[1.0, 2.0, 4.0, 5.0], [0.4, 0.0, 2.6, 1.0], [-5, -5, 100, 100]])
    got = metrics.box_masks(boxes, (6, 7))
    assert got[0].nonzero().tolist() == [[y, x] for y in (2, 3, 4) for x in (1, 2, 3)]
    assert got[1].nonzero().tolist() == [[0, 0], [0, 1], [0, 2]]
    assert metrics.box_share(boxes, (6, 7)).tolist() == pytest.approx([9 / 42, 3 / 42, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions(maps, masks, dtype):
    rounded = maps.to(dtype)
    big = torch.full((1, 300, 300), 60000.0, dtype=torch.float16)
    assert metrics.energy(big, torch.ones(1, 300, 300, dtype=torch.bool)).item() == 1
    for measure in (metrics.energy, metrics.pointing, metrics.average_precision, metrics.mask_iou):
        torch.testing.assert_close(measure(rounded, masks).float(), measure(rounded.float(), masks))


def test_permuting_the_batch_permutes_the_answer(maps, masks):
    order = torch.tensor([3, 2, 0, 1])
    for measure in (metrics.energy, metrics.pointing, metrics.average_precision, metrics.mask_iou):
        assert torch.equal(measure(maps[order], masks[order]), measure(maps, masks)[order])


def test_undefined_is_nan_there_and_there_only(maps, masks):
    empty, broken = masks.clone(), maps.clone()
    empty[1] = False
    broken[2, 0, 0] = torch.inf
    for measure in (metrics.energy, metrics.pointing, metrics.average_precision, metrics.mask_iou):
        answer = measure(broken, empty).reshape(4, -1)
        assert answer.isnan().all(1).tolist() == [False, True, True, False]
    assert metrics.energy(-maps.abs(), masks).isnan().all()
    assert metrics.pointing_chance(empty, tolerance=2).isnan().tolist() == [False, True, False, False]
    assert metrics.average_precision_chance(empty).isnan().tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, s: metrics.energy(m, s[:, :5]), "maps"),
        (lambda m, s: metrics.energy(m[:, None], s), r"\(N, H, W\)"),
        (lambda m, s: metrics.mask_iou(m, s, [0.0]), r"\(0, 1\]"),
        (lambda m, s: metrics.pointing(m, s, tolerance=-1), "tolerance"),
        (lambda m, s: metrics.box_masks(torch.zeros(4), (2, 2)), r"\(N, 4\)"),
    ],
)
def test_wrong_shapes_are_named(maps, masks, call, message):
    with pytest.raises(FinerCAMError, match=message):
        call(maps, masks)


def test_energy_at_equal_area_is_the_energy_of_the_top_pixels_and_no_sharpening_moves_it(maps, masks):
    shares = [0.05, 0.1, 0.2]
    found = metrics.equal_area_energy(maps, masks, shares)
    for s, share in enumerate(shares):
        top = metrics.rank_pixels(maps) < round(share * maps[0].numel())
        torch.testing.assert_close(found[:, s], metrics.energy(top.float(), masks))
    positive = maps - maps.amin((1, 2), keepdim=True)
    assert not torch.allclose(metrics.energy(positive**4, masks), metrics.energy(positive, masks), rtol=0.2)
    torch.testing.assert_close(metrics.equal_area_energy(positive**4, masks, shares), found)
    own = metrics.equal_area_energy(maps, masks, None)[:, 0]
    for n in range(len(maps)):
        top = metrics.rank_pixels(maps)[n] < masks[n].sum()
        assert own[n].item() == pytest.approx((top & masks[n]).sum().item() / masks[n].sum().item())


def test_equal_values_at_the_edge_of_the_area_count_in_proportion(masks):
    flat = metrics.equal_area_energy(torch.ones(masks.shape), masks)
    torch.testing.assert_close(flat, metrics.mask_share(masks)[:, None].expand(-1, 3))
    steps = torch.zeros(1, 1, 4)
    steps[0, 0, 0] = 1
    inside = torch.tensor([[[True, True, False, False]]])
    assert metrics.equal_area_energy(steps, inside, [0.5])[0, 0].item() == pytest.approx((1 + 1 / 3) / 2)
    assert metrics.equal_area_energy(steps, inside & False, [0.5]).isnan().all()
