import pytest
import torch

from finercam import metrics


@pytest.mark.peers
def test_equals_pytorch_grad_cam_within_its_noise(model, images, maps, target):
    from pytorch_grad_cam.metrics import road as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    targets = [ClassifierOutputSoftmaxTarget(int(c)) for c in target]
    percentiles = [20, 50, 80]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        combined = peer.ROADCombined(percentiles)(images, maps.numpy(), targets, model)
        morf = peer.ROADMostRelevantFirstAverage(percentiles)(images, maps.numpy(), targets, model)
    ours = metrics.road(model, images, maps, target, shares=(0.2, 0.5, 0.8))
    # It reports the change from the whole picture's score, and puts fresh noise on every pixel at every call.
    whole = metrics.masked_scores(model, images, maps, target, [0])[:, 0, 0]
    torch.testing.assert_close(ours.combined, torch.from_numpy(combined), atol=2e-3, rtol=0)
    torch.testing.assert_close(ours.morf.target.mean(1) - whole, torch.from_numpy(morf), atol=2e-3, rtol=0)


def test_turning_the_map_round_turns_the_answer_round(model, images, maps, target):
    rivals = (target + 1) % 5
    there = metrics.road(model, images, maps, target, rivals, shares=(0.1, 0.5), noise=0)
    back = metrics.road(model, images, -maps, target, rivals, shares=(0.1, 0.5), noise=0)
    torch.testing.assert_close(there.combined, -back.combined, atol=1e-4, rtol=0)
    torch.testing.assert_close(there.contrast, -back.contrast, atol=1e-4, rtol=0)
    swapped = metrics.road(model, images, maps, rivals, target, shares=(0.1, 0.5), noise=0)
    torch.testing.assert_close(there.contrast, -swapped.contrast, atol=1e-5, rtol=0)


def test_an_even_picture_cannot_be_harmed(model, maps, target):
    """The shape of the mask leaves no trace: this is what ROAD is for, and what a fill of zeros fails."""
    even = torch.ones(4, 3, 20, 24)
    answer = metrics.road(model, even, maps, target, noise=0, shares=(0.3, 0.6))
    whole = metrics.masked_scores(model, even, maps, target, [0])[:, 0]
    torch.testing.assert_close(answer.morf.target, whole.expand(-1, 2), atol=1e-5, rtol=0)
    assert not torch.allclose(
        metrics.deletion(model, even, maps, target, steps=3).target[:, 1], whole[:, 0], atol=1e-2
    )


def test_batch_order_and_seed(model, images, maps, target):
    order = torch.tensor([1, 3, 0, 2])
    whole = metrics.road(model, images, maps, target, shares=(0.5,), seed=4)
    moved = metrics.road(model, images[order], maps[order], target[order], shares=(0.5,), seed=4)
    torch.testing.assert_close(moved.combined, whole.combined[order], atol=1e-4, rtol=0)
    assert whole.morf.fill == "road(0.01)"
