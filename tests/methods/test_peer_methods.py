"""The methods that came from pytorch-grad-cam and torch-cam: against them, by hand, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAM, FinerCAMError, methods
from finercam.methods import smoothscore
from finercam.methods.fullgrad import implicit_bias

CLASS_FREE = {"eigencam": "EigenCAM", "kpcacam": "KPCA_CAM", "fem": "FEM"}


def peer_signed(name: str, model: nn.Module, layer: nn.Module, images: Tensor, target: list[int]) -> Tensor:
    """pytorch-grad-cam's map before its ReLU and scaling, `(N, h, w)`."""
    peer = pytest.importorskip("pytorch_grad_cam")
    cam = getattr(peer, name)(model, [layer])
    found = []
    inner = cam.get_cam_image
    cam.get_cam_image = lambda *args: found.append(inner(*args)) or found[-1]
    cam(images, [peer.utils.model_targets.ClassifierOutputTarget(c) for c in target])
    cam.activations_and_grads.release()
    return torch.as_tensor(np.asarray(found[0]))


@pytest.mark.peers
@pytest.mark.parametrize("method", [*CLASS_FREE, "segeigencam"])
@pytest.mark.parametrize("layer", ["stage1", "stage2"])
def test_equals_pytorch_grad_cam(toys, pictures, method, layer):
    model, images, target = toys.cnn(), pictures(3), [0, 3, 2]
    model.relu.inplace = False  # or it changes the peer's activations
    ours = FinerCAM(model, method, gamma=0, layer=layer)(images, target).signed
    theirs = peer_signed(CLASS_FREE.get(method, "SegEigenCAM"), model, model.get_submodule(layer), images, target)
    if method in ("eigencam", "kpcacam"):  # a component has no sign of its own
        theirs = theirs * (ours * theirs).sum(dim=(1, 2)).sign()[:, None, None]
    torch.testing.assert_close(ours, theirs.to(ours), rtol=0, atol=1e-4 * float(theirs.abs().max()))


@pytest.mark.parametrize("method", CLASS_FREE)
def test_a_class_free_method_has_no_contrast(toys, pictures, method):
    model, images = toys.cnn(), pictures(2)
    assert methods.get(method).class_free and not methods.get(method).fits(by_words=True)
    explain = FinerCAM(model, method, gamma=0, layer="stage1")
    answer = explain(images, 1)
    assert torch.equal(answer.signed, explain(images, 3).signed)
    for question in ({"gamma": 0.6}, {"against": [2]}):
        with pytest.raises(FinerCAMError, match="same for every class"):
            explain(images, 1, **question)
    with pytest.raises(FinerCAMError, match="same for every class"):
        answer.ask(gamma=0.5)
    with pytest.raises(FinerCAMError, match="same for every class"):
        FinerCAM(model, method)
    with pytest.raises(FinerCAMError, match="same for every class"):
        FinerCAM(model, "gradcam", layer="stage1")(images, method=method)


def test_kernel_pca_refuses_a_layer_too_fine():
    with pytest.raises(FinerCAMError, match="choose a later one"):
        methods.classfree.kernel_principal(torch.zeros(1, 2, 65, 64))


@pytest.mark.parametrize("gamma", [0.0, 0.6])
def test_fullgrad_by_hand(toys, pictures, gamma):
    """Biases as explicit inputs of the graph; completeness: input and biases together give the logit."""
    model, images = toys.cnn().requires_grad_(False), pictures(2)
    biased = {name: module for name, module in model.named_modules() if implicit_bias(module) is not None}
    kept = {}
    for name, module in biased.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: kept.setdefault(name, out.requires_grad_()) * 1)
    images.requires_grad_()
    logits = model(images)
    margin = logits[:, 1] - gamma * logits[:, 3]
    gradients = torch.autograd.grad(margin.sum(), [images, *kept.values()])
    for module in model.modules():
        module._forward_hooks.clear()
    images.requires_grad_(False)
    places = [images, *(implicit_bias(biased[name])[None, :, None, None] for name in kept)]
    terms = [place * gradient for place, gradient in zip(places, gradients, strict=True)]
    head = model.head.bias[1] - gamma * model.head.bias[3]
    torch.testing.assert_close(sum(t.sum((1, 2, 3)) for t in terms) + head, margin.detach(), rtol=1e-4, atol=1e-4)

    def scaled(x):
        x = x.abs() - x.abs().amin((2, 3), keepdim=True)
        top = x.amax((2, 3), keepdim=True)
        return (x / torch.where(top == 0, 1, top)).sum(1, keepdim=True)

    size = images.shape[2:]
    expected = sum(nn.functional.interpolate(scaled(t), size, mode="bilinear")[:, 0] for t in terms)
    answer = FinerCAM(model, "fullgrad", layer="stage2", gamma=gamma)(images, target=1, against=[3])
    torch.testing.assert_close(answer.signed, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        answer.ask(gamma=0.3).signed, FinerCAM(model, "fullgrad", gamma=0.3)(images, 1, 3).signed
    )


def test_fullgrad_refuses_a_model_without_biases(toys, pictures):
    with pytest.raises(FinerCAMError, match="fullgrad adds up"):
        FinerCAM(toys.vit(), "fullgrad", gamma=0)(pictures(1))


@pytest.mark.parametrize("method", ["sscam", "iscam"])
def test_smoothed_scores_are_the_mean_over_masks(toys, pictures, monkeypatch, method):
    """With no noise, and with one step at full strength, both are Score-CAM with the softmax."""
    model, images = toys.gap(), pictures(2)
    plain = FinerCAM(model, "scorecam-softmax", layer="features")(images, 1, [2])
    varied = FinerCAM(model, method, layer="features")(images, 1, [2])
    assert not torch.allclose(varied.signed, plain.signed)
    assert torch.equal(varied.signed, FinerCAM(model, method, layer="features")(images, 1, [2]).signed)
    monkeypatch.setattr(smoothscore, "SAMPLES", 2)
    monkeypatch.setattr(smoothscore, "NOISE", 0.0)
    monkeypatch.setattr(smoothscore, "STEPS", 1)
    torch.testing.assert_close(FinerCAM(model, method, layer="features")(images, 1, [2]).signed, plain.signed)


@pytest.mark.peers
def test_iscam_equals_torchcam(toys, pictures, monkeypatch):
    """On a layer of the images' size, since torch-cam scales its masks before it enlarges them."""
    peer = pytest.importorskip("torchcam.methods")
    model, images = toys.gap(stride=1), pictures(2)
    with peer.ISCAM(model, "features", input_shape=tuple(images.shape[1:])) as cam:
        with torch.no_grad():
            model(images)
        (theirs,) = cam(2, normalized=False)
    ours = FinerCAM(model, "iscam", gamma=0, layer="features")(images, 2).signed.relu()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-3, atol=1e-4)
    with peer.SSCAM(model, "features", num_samples=1, std=0.0001) as cam:
        with torch.no_grad():
            model(images)
        (theirs,) = cam(2, normalized=False)
    monkeypatch.setattr(smoothscore, "SAMPLES", 1)
    monkeypatch.setattr(smoothscore, "NOISE", 0.0)
    ours = FinerCAM(model, "sscam", gamma=0, layer="features")(images, 2).signed.relu()
    torch.testing.assert_close(ours, theirs.detach(), rtol=1e-2, atol=1e-3)
