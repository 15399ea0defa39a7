"""The attribution under the real Captum: noise tunnels, infidelity and sensitivity."""

from __future__ import annotations

import pytest
import torch

from finercam import FinerCAM, FinerCAMError
from finercam.core.maps import upsample

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def attribution(toys):
    pytest.importorskip("captum")
    from finercam.compat.captum import FinerCAMAttribution

    return FinerCAMAttribution(toys.cnn(), method="gradcam", layer="stage2", gamma=0.6)


def test_attributions_are_the_signed_maps_on_the_inputs_grid(attribution, toys, pictures):
    images, target = pictures(3), torch.tensor([0, 3, 2])
    found = attribution.attribute(images, target=target, against=[[1], [4], [0]])
    answer = FinerCAM(toys.cnn(), "gradcam", layer="stage2")(images, target, [[1], [4], [0]])
    assert found.shape == images.shape
    torch.testing.assert_close(found.sum(1), upsample(answer.signed, (16, 16)))
    by_class = attribution.attribute(images, target=target, against={0: 1, 3: [4], 2: 0})
    assert torch.equal(by_class, found)
    (positive,) = attribution.attribute((images,), target=target, relu_attributions=True, broadcast=False)
    assert positive.shape == (3, 1, 16, 16)
    assert float(positive.min()) == 0


def test_one_target_for_all_and_the_prediction(attribution, pictures):
    images = pictures(2)
    alone = attribution.attribute(images, target=3, against=1)
    assert torch.equal(attribution.attribute(images, target=torch.tensor([3]), against={3: 1}), alone)
    predicted = attribution.attribute(images)
    assert predicted.shape == images.shape


def test_a_noise_tunnel_averages_noisy_copies(attribution, pictures):
    from captum.attr import NoiseTunnel

    images, target, rivals = pictures(2), torch.tensor([0, 3]), {0: 1, 3: 4}
    tunnel = NoiseTunnel(attribution)
    still = tunnel.attribute(images, nt_samples=3, stdevs=0.0, target=target, against=rivals)
    torch.testing.assert_close(still, attribution.attribute(images, target=target, against=rivals))
    torch.manual_seed(0)
    noisy = tunnel.attribute(images, nt_samples=4, stdevs=0.3, target=target, against=rivals)
    torch.manual_seed(0)
    copies = images.repeat_interleave(4, 0) + torch.normal(0, torch.full((8, 3, 16, 16), 0.3))
    each = attribution.attribute(copies, target=target.repeat_interleave(4), against=rivals)
    torch.testing.assert_close(noisy, each.unflatten(0, (2, 4)).mean(1))


def test_captums_metrics_run(attribution, pictures):
    from captum.metrics import infidelity, sensitivity_max

    images, target = pictures(2), torch.tensor([0, 3])

    def noise(inputs):
        change = 0.05 * torch.randn(inputs.shape, generator=torch.Generator().manual_seed(0))
        return change, inputs - change

    found = attribution.attribute(images, target=target, against={0: 1, 3: 4})
    wrong = infidelity(attribution.forward_func, noise, images, found, target=target, normalize=True)
    assert wrong.shape == (2,)
    assert bool(wrong.isfinite().all())
    torch.manual_seed(0)
    moved = sensitivity_max(attribution.attribute, images, target=target, against={0: 1, 3: 4}, n_perturb_samples=2)
    assert moved.shape == (2,)
    assert bool((moved > 0).all())


def test_refusals(attribution, pictures):
    images = pictures(2)
    with pytest.raises(FinerCAMError, match="names no rival of the target 3"):
        attribution.attribute(images, target=3, against={1: 2})
    with pytest.raises(FinerCAMError, match="needs targets"):
        attribution.attribute(images, against={1: 2})
    with pytest.raises(FinerCAMError, match="2 input tensors"):
        attribution.attribute((images, images), target=0)
    with pytest.raises(FinerCAMError, match="2 lists of references for 4 images"):
        attribution.attribute(pictures(4), target=0, against=[[1], [2]])
