import pytest
import torch

from finercam import metrics
from finercam.errors import FinerCAMError


def linear(weight):
    """Logits that are weighted sums of pixels: what masking does to them is known in closed form."""
    return lambda x: torch.stack([(x.mean(1) * w).sum((1, 2)) for w in weight], 1)


def test_closed_form_on_a_linear_model():
    weight = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(0))
    images = torch.ones(1, 3, 4, 4)
    curves = metrics.deletion(linear(weight), images, weight[:1], 0, 1, steps=16, score="logit")
    order = weight[0].flatten().argsort(descending=True)
    for row, w in ((curves.target[0], weight[0]), (curves.rivals[0, 0], weight[1])):
        left = w.sum() - torch.cat((torch.zeros(1), w.flatten()[order].cumsum(0)))
        torch.testing.assert_close(row, left, atol=1e-5, rtol=0)
    torch.testing.assert_close(curves.contrast_auc[0, 0], curves.auc[0] - curves.rival_auc[0, 0])
    best, worst = (
        metrics.deletion(linear(weight), images, sign * weight[:1], 0, score="logit").auc for sign in (1, -1)
    )
    assert best < worst


def test_insertion_of_the_inverse_map_is_deletion_backwards(model, images, maps, target):
    gone = metrics.deletion(model, images, maps, target, steps=8, fill="zero")
    come = metrics.insertion(model, images, -maps, target, steps=8, fill="zero")
    torch.testing.assert_close(gone.target, come.target.flip(1), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(gone.auc, come.auc, atol=1e-6, rtol=1e-5)


@pytest.mark.peers
def test_equals_torch_cam(model, images, maps, target, fixed_map):
    from functools import partial

    from torchcam.metrics import DeletionInsertionMetric

    peer = DeletionInsertionMetric(fixed_map(model, maps), partial(torch.softmax, dim=-1), steps=20)
    peer.update(images, class_idx=target.tolist())
    want = peer.summary()
    gone = metrics.deletion(model, images, maps, target, steps=20)
    come = metrics.insertion(model, images, maps, target, steps=20, fill="zero")
    assert gone.auc.mean().item() == pytest.approx(want["deletion_auc"], abs=1e-5)
    assert come.auc.mean().item() == pytest.approx(want["insertion_auc"], abs=1e-5)


def test_rectified_maps_have_an_arbitrary_tail(model, images, maps, target):
    """The trap: after the ReLU the zeros go in raster order, which is not the signed map's."""
    signed = metrics.deletion(model, images, maps, target, steps=10)
    rectified = metrics.deletion(model, images, maps.relu(), target, steps=10)
    share = (maps > 0).flatten(1).float().mean(1).min().item()
    same = signed.shares <= share
    torch.testing.assert_close(signed.target[:, same], rectified.target[:, same])
    assert not torch.allclose(signed.target, rectified.target)


def test_permuting_the_batch_permutes_the_answer(model, images, maps, target):
    order = torch.tensor([3, 1, 0, 2])
    rivals = (target + 1) % 5
    whole = metrics.deletion(model, images, maps, target, rivals, steps=5, fill="blur")
    moved = metrics.deletion(model, images[order], maps[order], target[order], rivals[order], steps=5, fill="blur")
    torch.testing.assert_close(moved.auc, whole.auc[order])
    torch.testing.assert_close(moved.contrast_auc, whole.contrast_auc[order])


def test_more_steps_than_pixels_are_as_many_as_pixels(images, maps):
    assert len(metrics.deletion(linear(torch.ones(2, 2, 2)), images[:, :, :2, :2], maps[:, :2, :2], 0).shares) == 5


def test_the_uniform_map_with_random_ties_deletes_evenly():
    """All weight is in the upper half: raster order removes all of it first, random order an equal share a step."""
    weight = torch.zeros(2, 16, 16)
    weight[:, :8] = 1
    uniform = metrics.uniform_map(1, (16, 16))

    def unevenness(maps):
        curve = metrics.deletion(linear(weight), torch.ones(1, 3, 16, 16), maps, 0, steps=8, score="logit")
        return (curve.target[0] - weight[0].sum() * (1 - curve.shares)).abs().max().item()

    assert unevenness(-metrics.rank_pixels(uniform, seed=0).float()) < 12  # three deviations of a random order
    assert unevenness(uniform) == pytest.approx(64)


@pytest.mark.parametrize(("rivals", "message"), [(0, "image 0: class 0"), ([[1, 2]], "4 images")])
def test_rivals_are_checked(model, images, maps, rivals, message):
    with pytest.raises(FinerCAMError, match=message):
        metrics.deletion(model, images, maps, 0, rivals)
