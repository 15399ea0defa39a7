import numpy as np
import pytest
import torch

from finercam import metrics


def look(images, target):
    """A stand-in for a method: a channel picked by the class, scaled to [0, 1]."""
    channel = images[torch.arange(len(images)), target % 3].abs()
    return channel / channel.amax((1, 2), keepdim=True)


@pytest.mark.peers
def test_coherency_equals_pytorch_grad_cam(model, images, target):
    from pytorch_grad_cam.metrics.arcc import Coherency

    maps = look(images, target)
    want = Coherency()(
        images, maps.numpy(), target, model, lambda input_tensor, targets: look(input_tensor, targets).numpy()
    )
    got = metrics.adcc(model, look, images, maps, target, batch_size=3)
    np.testing.assert_allclose(got.coherency, want, atol=1e-5)


def test_the_parts_and_the_harmonic_mean(model, images, target):
    maps = look(images, target)
    got = metrics.adcc(model, look, images, maps, target)
    assert torch.equal(got.complexity, metrics.mean_intensity(maps))
    torch.testing.assert_close(got.drop, metrics.kept_confidence(model, images, maps, target).drop)
    for i in range(4):
        parts = [got.coherency[i].item(), 1 - got.complexity[i].item(), 1 - got.drop[i].item()]
        assert got.value[i].item() == pytest.approx(3 / sum(1 / part for part in parts), rel=1e-5)


def test_the_worst_part_makes_it_zero_and_the_fill_is_used(model, images, target):
    one = torch.ones(1)
    assert metrics.Adcc(one, one, 0 * one, "zero").value.item() == 0
    seen = []

    def remember(x, classes):
        seen.append(x)
        return look(x, classes)

    maps = look(images, target)
    answer = metrics.adcc(model, remember, images, maps, target, fill=metrics.black(0.5, 0.25))
    torch.testing.assert_close(seen[0], images * maps[:, None] - 2 * (1 - maps[:, None]))
    assert answer.fill == "black"


def test_coherency_of_a_constant_map_is_undefined(maps):
    assert metrics.coherency(metrics.uniform_map(4, (20, 24)), maps).isnan().all()
    torch.testing.assert_close(metrics.coherency(maps, 3 * maps + 1), torch.ones(4))
    torch.testing.assert_close(metrics.coherency(maps, -maps), torch.zeros(4), atol=1e-6, rtol=0)
