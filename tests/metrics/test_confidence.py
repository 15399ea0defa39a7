from functools import partial

import pytest
import torch

from finercam import metrics
from finercam.errors import FinerCAMError


@pytest.fixture(scope="module")
def rivals(target):
    return torch.stack(((target + 1) % 5, (target + 2) % 5, torch.full_like(target, -1)), 1)


def test_equation_ten_by_hand(model, images, maps, target, rivals):
    answer = metrics.relative_drop(model, images, maps, target, rivals, shares=(0.05, 0.3))
    assert answer.rd.shape == (4, 3, 2)
    for i in range(4):
        for s, count in enumerate((24, 144)):
            gone = maps[i] >= maps[i].flatten().sort(descending=True).values[count - 1]
            assert int(gone.sum()) == count
            with torch.no_grad():
                before = model(images[i : i + 1]).softmax(1)[0]
                after = model((images[i] * ~gone)[None]).softmax(1)[0]
            for r in range(2):
                c, d = target[i], rivals[i, r]
                want = (before[c] - after[c]) - (before[d] - after[d])
                torch.testing.assert_close(answer.rd[i, r, s], want, atol=1e-6, rtol=1e-5)
                torch.testing.assert_close(answer.rd_relative[i, r, s], want / before[c], atol=1e-5, rtol=1e-5)


def test_the_log_version_is_the_fall_of_the_logits_gap(model, images, maps, target, rivals):
    answer = metrics.relative_drop(model, images, maps, target, rivals, shares=(0.2,), fill="mean")
    classes = torch.cat((target[:, None], rivals[:, :2]), 1)
    logits = metrics.masked_scores(model, images, maps, classes, [0, 96], fill="mean", score="logit")
    gap = logits[:, :1] - logits[:, 1:]
    torch.testing.assert_close(answer.rd_log[:, :2, 0], gap[..., 0] - gap[..., 1], atol=1e-4, rtol=1e-4)


def test_a_missing_rival_is_nan_and_spoils_no_other(model, images, maps, target, rivals):
    answer = metrics.relative_drop(model, images, maps, target, rivals)
    for values in (answer.rd, answer.rd_relative, answer.rd_log):
        assert values[:, 2].isnan().all() and values[:, :2].isfinite().all()


def test_rd_flatters_the_map_made_against_the_rival_it_is_measured_with():
    """Each of two maps is better for the rival that it was made with, so RD needs a held-out rival too."""

    def scores(x):  # classes 1 and 2 share a different pixel each with class 0
        a, b, c, _ = x.mean(1).flatten(1).unbind(1)
        return 4 * torch.stack((a + b + c, b, c), 1)

    image = torch.ones(1, 3, 2, 2)
    against_1 = torch.tensor([0.0, 0.0, 1.0, 0.0]).reshape(1, 2, 2)  # what 0 has and 1 has not
    against_2 = torch.tensor([0.0, 1.0, 0.0, 0.0]).reshape(1, 2, 2)
    rivals = torch.tensor([[1, 2]])
    gap_1, gap_2 = (
        metrics.relative_drop(scores, image, relevance, 0, rivals, shares=(0.25,)).rd_log[0, :, 0]
        for relevance in (against_1, against_2)
    )
    torch.testing.assert_close(gap_1, torch.tensor([4.0, 0.0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(gap_2, torch.tensor([0.0, 4.0]), atol=1e-5, rtol=0)


def test_cost_does_not_grow_with_rivals(model, images, maps, target):
    seen = []
    counting = lambda x: (seen.append(len(x)), model(x))[1]  # noqa: E731
    metrics.relative_drop(counting, images, maps, target, (target[:, None] + torch.arange(1, 5)) % 5)
    assert sum(seen) == 4 * 3


def unit(maps):
    low, high = maps.flatten(1).min(1).values, maps.flatten(1).max(1).values
    return (maps - low[:, None, None]) / (high - low)[:, None, None]


@pytest.mark.peers
def test_average_drop_and_increase_equal_torch_cam(model, images, maps, target, fixed_map):
    from torchcam.metrics import ClassificationMetric

    peer = ClassificationMetric(fixed_map(model, unit(maps)), partial(torch.softmax, dim=-1))
    peer.update(images, class_idx=target.tolist())
    answer = metrics.kept_confidence(model, images, unit(maps), target)
    assert answer.drop.mean().item() == pytest.approx(peer.summary()["avg_drop"], abs=1e-5)
    assert answer.increase.mean().item() == peer.summary()["conf_increase"]


@pytest.mark.peers
def test_pytorch_grad_cam_leaves_out_the_division(model, images, maps, target):
    """Its drop is max(0, p − p') of whatever score it is given; ours is that over p, the published formula."""
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    # Its pictures are weighted by a map (H, W) each.
    targets = [ClassifierOutputSoftmaxTarget(int(c)) for c in target]
    ours = metrics.kept_confidence(model, images, unit(maps), target)
    drop = DropInConfidence()(images, unit(maps).numpy(), targets, model)
    rise = IncreaseInConfidence()(images, unit(maps).numpy(), targets, model)
    torch.testing.assert_close(ours.drop * ours.whole, torch.from_numpy(drop), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(ours.increase, torch.from_numpy(rise))


def test_the_map_of_ones_loses_nothing_and_zeros_leave_the_fill(model, images, maps, target):
    ones = metrics.kept_confidence(model, images, torch.ones_like(maps), target)
    assert (ones.drop == 0).all() and (ones.increase == 0).all()
    blank = metrics.kept_confidence(model, images, torch.zeros_like(maps), target, fill="mean")
    flat = images.mean((2, 3), keepdim=True).expand_as(images)
    with torch.no_grad():
        torch.testing.assert_close(blank.kept, model(flat).softmax(1).gather(1, target[:, None])[:, 0])


def test_batches_and_halves(model, images, maps, target):
    whole = metrics.kept_confidence(model, images, unit(maps), target).drop
    torch.testing.assert_close(metrics.kept_confidence(model, images, unit(maps), target, batch_size=3).drop, whole)
    half = metrics.kept_confidence(lambda x: model(x.float()), images.bfloat16(), unit(maps).bfloat16(), target).drop
    torch.testing.assert_close(half, whole, atol=0.05, rtol=0)


def test_signed_maps_are_refused_and_holes_are_nan(model, images, maps):
    with pytest.raises(FinerCAMError, match=r"expected \[0, 1\]"):
        metrics.kept_confidence(model, images, maps, 0)
    holed = unit(maps).clone()
    holed[1, 0, 0] = torch.nan
    answer = metrics.kept_confidence(model, images, holed, 0)
    assert answer.drop.isnan().tolist() == answer.increase.isnan().tolist() == [False, True, False, False]
