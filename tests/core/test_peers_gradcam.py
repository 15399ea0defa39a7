"""Against pytorch-grad-cam: equal maps where the mathematics agrees, and its faults that must not be ours."""

from __future__ import annotations

import contextlib
import gc

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAM
from finercam.core.contrast import contrast_objective

pytestmark = pytest.mark.peers

BASES = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "gradcam-elementwise": "GradCAMElementWise",
    "eigengradcam": "EigenGradCAM",
    "scorecam-softmax": "ScoreCAM",
    "ablationcam": "AblationCAM",
}
GRADIENT_BASES = list(BASES)[:7]


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    """Imported when the first test runs, so that collecting the tests stays cheap."""
    global ClassifierOutputTarget, FinerWeightedTarget, PeerFiner, peer
    peer = pytest.importorskip("pytorch_grad_cam")
    from pytorch_grad_cam.finer_cam import FinerCAM as PeerFiner
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget, FinerWeightedTarget


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """No progress bars; and Score-CAM's masks with pixel centres aligned, as everywhere else in the library."""
    for module in ("score_cam", "ablation_cam"):
        monkeypatch.setattr(f"pytorch_grad_cam.{module}.tqdm.tqdm", lambda items, **_: items)
    aligned = lambda size: nn.Upsample(size=size, mode="bilinear", align_corners=False)  # noqa: E731
    monkeypatch.setattr(torch.nn, "UpsamplingBilinear2d", aligned)


def peer_signed(base, model: nn.Module, layer: nn.Module, images: Tensor, targets) -> Tensor:
    """The peer's map before its ReLU, scaling and resizing: `(N, h, w)`."""
    cam = base(model, [layer])
    found = []
    inner = cam.get_cam_image

    def spy(*args):
        found.append(inner(*args))
        return found[-1]

    cam.get_cam_image = spy
    try:
        cam(images, targets)
    finally:
        cam.activations_and_grads.release()
    return torch.as_tensor(np.asarray(found[0]))


def close(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-4 of the largest value."""
    size = float(theirs.abs().max())
    assert size > 0
    torch.testing.assert_close(ours / size, theirs.to(ours) / size, atol=1e-4, rtol=0)


def louder(model: nn.Module, factor: float) -> nn.Module:
    """Gradients so large that the constants in the peer's quotients, up to 1e-6, do not show."""
    model.head.weight.data *= factor
    return model


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
@pytest.mark.parametrize("method", BASES)
def test_plain_methods_at_gamma_zero(toys, pictures, method, layer):
    if method == "ablationcam" and layer == "stage1":
        pytest.skip("the peer sets ablated channels to -1e7 where a layer has negative values")
    images, target = pictures(3), [0, 3, 2]
    model = louder(toys.cnn(), 1e5 if method == "gradcam++" else 1)
    answer = FinerCAM(model, method, gamma=0, layer=layer)(images, target)
    model.relu.inplace = False  # or it changes the peer's activations, see below
    targets = [ClassifierOutputTarget(c) for c in target]
    theirs = peer_signed(getattr(peer, BASES[method]), model, model.get_submodule(layer), images, targets)
    ours = answer.signed
    if method == "ablationcam":  # the peer divides the fall by the logit
        ours = ours / answer.logits.gather(1, answer.target[:, None])[:, :, None]
    if method == "eigengradcam":  # a singular vector has no sign of its own; ours agrees with HiResCAM
        theirs = theirs * (ours * theirs).sum(dim=(1, 2)).sign()[:, None, None]
    close(ours, theirs)


@pytest.mark.parametrize("method", GRADIENT_BASES)
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_released_is_the_peers_finer_target(toys, pictures, method, alpha):
    images, target, against = pictures(3), [0, 3, 2], [[1, 2, 4], [4, 0, 1], [0, 1, 3]]
    factor = 100 if method == "gradcam++" else 1
    targets = [FinerWeightedTarget(c, ds, alpha) for c, ds in zip(target, against, strict=True)]
    model = louder(toys.cnn(), factor)
    theirs = peer_signed(getattr(peer, BASES[method]), model, model.stage2, images, targets)
    ours = FinerCAM(model, method, gamma=alpha, weights="released", layer="stage2")(images, target, against).signed
    if method == "eigengradcam":
        theirs = theirs * (ours * theirs).sum(dim=(1, 2)).sign()[:, None, None]
    close(ours, theirs)


def test_the_peers_own_choice_of_references(toys, pictures):
    """Its FinerCAM from end to end: nearest logits, three of them, released weights, its scaling at 8 x 8."""
    images = pictures(4, size=16)
    model = toys.cnn()
    cam = PeerFiner(model, [model.stage2])
    theirs = []
    inner = cam.base_cam.get_cam_image

    def spy(*args):
        theirs.append(inner(*args))
        return theirs[-1]

    cam.base_cam.get_cam_image = spy
    cam(images, alpha=0.6)
    cam.base_cam.activations_and_grads.release()
    explain = FinerCAM(
        toys.cnn(), gamma=0.6, references="nearest", num_references=3, weights="released", layer="stage2"
    )
    close(explain(images).signed, torch.as_tensor(theirs[0]))


def test_scorecam_weights_before_the_softmax(toys, pictures):
    """Ours by default is Eq. 9, raw; the peer's scores before its softmax are the same up to the empty image's."""
    images, c = pictures(1), 2
    model = toys.gap()
    cam = peer.ScoreCAM(model, [model.features])
    maps = model.features(images).detach()
    weights = torch.as_tensor(
        cam.get_cam_weights(images, model.features, [ClassifierOutputTarget(c)], maps.numpy(), None)
    )
    cam.activations_and_grads.release()
    answer = FinerCAM(toys.gap(), "scorecam", gamma=0, layer="features")(images, c)
    ((_, alpha),) = answer.seen[0][1].contrasted(answer.contrast)
    torch.testing.assert_close(alpha[:, :, 0, 0].softmax(dim=1), weights.to(alpha), rtol=1e-4, atol=1e-6)


# --- the peer's faults, shown to be its own


def test_released_turns_against_the_target_at_a_large_gap_and_the_default_does_not(toys, pictures):
    """The brightest place for the target becomes the darkest: the correlation with the contrast is negative."""
    images, target, against = pictures(2), 0, [1, 2]
    model = toys.gap()
    model.head.bias.data = torch.tensor([40.0, 0, 0, 0, 0])
    explain = FinerCAM(model, gamma=1.0, layer="features")
    wanted = explain(images, target, against).signed
    targets = [FinerWeightedTarget(0, against, 1.0)] * 2
    theirs = peer_signed(peer.GradCAM, model, model.features, images, targets)

    def correlation(a: Tensor, b: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([a.flatten(), b.flatten().to(a)]))[0, 1])

    truth = torch.einsum(
        "c,nchw->nhw",
        (model.head.weight[0] - model.head.weight[[1, 2]].mean(0)).detach(),
        model.features(images).detach(),
    )
    assert correlation(wanted, truth) > 0.999
    assert correlation(explain(images, target, against, weights="probability").signed, truth) > 0.5
    assert correlation(theirs, truth) < 0.3
    assert correlation(theirs, explain(images, target, against, weights="released").signed) > 0.999


def test_tied_logits_make_a_class_its_own_reference_there_and_not_here(pictures, monkeypatch):
    class Ties(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)
            nn.init.zeros_(self.head.weight)
            nn.init.ones_(self.head.bias)

        def forward(self, x):
            return self.head(self.features(x).mean(dim=(2, 3)))

    asked = []
    original = FinerWeightedTarget.__init__

    def spy(self, main, references, alpha):
        asked.append((main, references))
        original(self, main, references, alpha)

    monkeypatch.setattr(FinerWeightedTarget, "__init__", spy)
    model, images = Ties(), pictures(1)
    cam = PeerFiner(model, [model.features])
    cam(images, target_idx=2)
    cam.base_cam.activations_and_grads.release()
    ((main, references),) = asked
    assert main != 2 and 2 in references  # asked about class 2, it explains another, against class 2
    for strategy in ("nearest", "predicted", "similar"):
        answer = FinerCAM(model, references=strategy, layer="features")(images, 2)
        assert answer.target.tolist() == [2]
        assert 2 not in answer.references[0].tolist()


def test_one_target_for_a_whole_batch_there_one_each_here(toys, pictures):
    """`target_idx` is one number; a list of them makes the peer fail."""
    images = pictures(3)
    model = toys.gap()
    cam = PeerFiner(model, [model.features])
    with pytest.raises((ValueError, IndexError)):
        cam(images, target_idx=[0, 3, 2, 1])
    cam.base_cam.activations_and_grads.release()
    together = FinerCAM(toys.gap(), layer="features")(images, [0, 3, 2]).signed
    alone = [FinerCAM(toys.gap(), layer="features")(images[n : n + 1], c).signed for n, c in enumerate([0, 3, 2])]
    torch.testing.assert_close(together, torch.cat(alone))


def test_gradients_of_the_callers_parameters_are_wiped_there_and_untouched_here(toys, pictures):
    def prepared() -> nn.Module:
        model = toys.cnn().train()
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        return model

    theirs, ours = prepared(), prepared()
    peer_signed(peer.GradCAM, theirs, theirs.stage2, pictures(1), [ClassifierOutputTarget(0)])
    FinerCAM(ours, layer="stage2")(pictures(1), 0)
    assert not all(torch.equal(p.grad, torch.ones_like(p)) for p in theirs.parameters() if p.grad is not None)
    assert not theirs.training
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in ours.parameters())
    assert all(m.training for m in ours.modules())


def test_frozen_and_no_grad_fail_there_and_work_here(toys, pictures):
    frozen = toys.cnn().requires_grad_(False)
    with pytest.raises((RuntimeError, AttributeError, IndexError, ValueError, TypeError)):
        peer_signed(peer.GradCAM, frozen, frozen.stage2, pictures(1), [ClassifierOutputTarget(0)])
    with torch.no_grad(), pytest.raises((RuntimeError, AttributeError, IndexError, ValueError, TypeError)):
        peer_signed(peer.GradCAM, toys.cnn(), frozen.stage2, pictures(1), [ClassifierOutputTarget(0)])
    with torch.no_grad():
        assert FinerCAM(frozen, layer="stage2")(pictures(1), 0).signed.abs().max() > 0


def test_an_in_place_relu_changes_the_map_there_and_not_here(toys, pictures):
    images, targets = pictures(2), [ClassifierOutputTarget(0)] * 2

    def make(inplace: bool) -> nn.Module:
        model = toys.cnn()
        model.relu.inplace = inplace
        return model

    theirs = [peer_signed(peer.GradCAM, m, m.stage1, images, targets) for m in (make(True), make(False))]
    ours = [FinerCAM(make(flag), gamma=0, layer="stage1")(images, 0).signed for flag in (True, False)]
    assert float((theirs[0] - theirs[1]).abs().max()) > 0.05 * float(theirs[1].abs().max())
    assert torch.equal(ours[0], ours[1])
    close(ours[0], theirs[1])


def test_an_idle_explainer_stores_every_forward_there_and_nothing_here(toys, pictures):
    model = toys.cnn()
    cam = peer.GradCAM(model, [model.stage2])
    model(pictures(1))
    model(pictures(1))
    assert len(cam.activations_and_grads.activations) == 2
    cam.activations_and_grads.release()
    explain = FinerCAM(model, layer="stage2")
    explain(pictures(1))
    assert not any(m._forward_hooks for m in model.modules())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # its __del__ fails as well
def test_a_failing_constructor_leaves_hooks_there_and_not_here(toys):
    theirs, ours = toys.cnn(), toys.cnn()
    with pytest.raises(AttributeError) as caught:
        peer.GradCAM(theirs, [theirs.stage2, "stage1"])
    held = sum(len(m._forward_hooks) for m in theirs.modules())  # while whoever caught the error still holds it
    del caught
    gc.collect()
    assert held > 0
    with pytest.raises(ValueError):
        FinerCAM(ours, layer=[ours.stage2, "nowhere"])(torch.zeros(1, 3, 16, 16))
    assert not any(m._forward_hooks for m in ours.modules())


def test_bfloat16_is_refused_there_and_taken_here(toys, pictures):
    images = pictures(1).bfloat16()
    model = toys.cnn().bfloat16()
    with pytest.raises(TypeError):
        peer_signed(peer.GradCAM, model, model.stage2, images, [ClassifierOutputTarget(0)])
    assert FinerCAM(model, layer="stage2")(images, 0).maps.isfinite().all()


def test_a_constant_positive_map_is_all_zero_there_and_all_one_here(pictures):
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 2, 1), nn.Linear(2, 3)
            nn.init.zeros_(self.features.weight)
            nn.init.ones_(self.features.bias)
            nn.init.ones_(self.head.weight)

        def forward(self, x):
            return self.head(self.features(x).mean(dim=(2, 3)))

    model = Flat()
    cam = peer.GradCAM(model, [model.features])
    assert float(np.abs(cam(pictures(1), [ClassifierOutputTarget(0)])).max()) == 0
    cam.activations_and_grads.release()
    assert FinerCAM(model, gamma=0, layer="features")(pictures(1), 0).maps.unique().tolist() == [1.0]


def test_exceptions_are_swallowed_there_and_not_here(toys, capsys):
    model = toys.cnn()
    with PeerFiner(model, [model.stage2]):
        raise IndexError("lost")
    assert "lost" in capsys.readouterr().out
    with pytest.raises(IndexError), FinerCAM(model):
        raise IndexError("lost")


def test_layers_come_in_the_order_they_ran_there_and_as_given_here(toys, pictures):
    model, images = toys.cnn(), pictures(1)
    cam = peer.GradCAM(model, [model.stage2, model.stage1])
    with contextlib.suppress(Exception):
        cam(images, [ClassifierOutputTarget(0)])
    assert [a.shape[1] for a in cam.activations_and_grads.activations] == [6, 8]  # stage1 first
    cam.activations_and_grads.release()
    answer = FinerCAM(model, layer=["stage2", "stage1"])(images)
    assert [a.shape[1] for a in answer.seen[0][1].activations] == [8, 6]
    assert answer.layers == ("stage2", "stage1")


def test_gradcam_plusplus_depends_on_the_scale_of_the_logits_there_and_not_here(toys, pictures):
    """Logits a hundred times smaller are the same question; the peer's constant of 1e-6 makes it another map."""
    images = pictures(2)

    def maps(scale: float) -> tuple[Tensor, Tensor]:
        model = toys.gap()
        model.head.weight.data *= scale
        theirs = peer_signed(peer.GradCAMPlusPlus, model, model.features, images, [ClassifierOutputTarget(0)] * 2)
        ours = FinerCAM(model, "gradcam++", gamma=0, layer="features")(images, 0).signed
        return ours / ours.abs().max(), theirs / theirs.abs().max()

    (small, small_peer), (smaller, smaller_peer) = maps(1e-3), maps(1e-5)
    torch.testing.assert_close(small, smaller, rtol=0, atol=0.01)
    assert float((small_peer - small.to(small_peer)).abs().max()) > 0.05
    assert float((smaller_peer - smaller.to(smaller_peer)).abs().max()) > 0.05


def test_the_objective_in_numbers(toys, pictures):
    logits = toys.gap()(pictures(3)).detach()
    for c, ds, alpha in [(0, [1, 2], 0.6), (3, [4], 1.0)]:
        theirs = FinerWeightedTarget(c, ds, alpha)(logits)
        ours = contrast_objective(
            logits, torch.full((3,), c), torch.tensor([ds]).expand(3, -1), gamma=alpha, weights="released"
        )
        torch.testing.assert_close(ours, theirs)
