"""Against torch-cam: equal maps where the mathematics agrees, and its faults that must not be ours."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAM
from finercam.methods import Method, gather, rules

pytestmark = pytest.mark.peers

FINER = {"gradcam": "GradCAM", "layercam": "LayerCAM"}
PLAIN = {**FINER, "xgradcam": "XGradCAM"}


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    """Imported when the first test runs, so that collecting the tests stays cheap."""
    global peer
    peer = pytest.importorskip("torchcam.methods")


def close(signed: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-4 of the largest value, after the ReLU that the peer always takes."""
    ours = signed.relu()
    size = float(theirs.abs().max())
    assert size > 0
    torch.testing.assert_close(ours / size, theirs / size, atol=1e-4, rtol=0)


def without_in_place(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
@pytest.mark.parametrize("method", PLAIN)
def test_plain_methods_at_gamma_zero(toys, pictures, method, layer):
    images, target = pictures(3), [0, 3, 2]
    model = without_in_place(toys.cnn())
    with getattr(peer, PLAIN[method])(model, layer) as cam:
        (theirs,) = cam(target, model(images), normalized=False)
    close(FinerCAM(model, method, gamma=0, layer=layer)(images, target).signed, theirs)


@pytest.mark.parametrize("layer", ["stage1", "stage2"])
@pytest.mark.parametrize("method", FINER)
@pytest.mark.parametrize("gamma", [0.0, 0.6, 1.0])
def test_finer_with_the_nearest_three(toys, pictures, method, layer, gamma):
    """Mean weights, T = 3, references by the nearest logit: both choose for themselves."""
    images, target = pictures(4), [0, 3, 2, 1]
    model = without_in_place(toys.cnn())
    with peer.FinerCAM(model, layer, base_method=getattr(peer, FINER[method]), gamma=gamma, num_references=3) as cam:
        (theirs,) = cam(target, model(images), normalized=False)
    close(
        FinerCAM(model, method, gamma=gamma, references="nearest", num_references=3, layer=layer)(
            images, target
        ).signed,
        theirs,
    )


def test_finer_with_named_references_and_the_peers_scaling(toys, pictures):
    images, target, against = pictures(2), [0, 3], [[1, 2], [4, 0]]
    model = toys.cnn()
    with peer.FinerCAM(model, "stage2") as cam:
        (theirs,) = cam(target, model(images), comparison_idx=against)
    signed = FinerCAM(model, layer="stage2")(images, target, against).signed.relu()
    low = signed.amin(dim=(1, 2), keepdim=True)
    scaled = (signed - low) / ((signed - low).amax(dim=(1, 2), keepdim=True) + 1e-8)
    assert float(scaled.max()) > 0.9
    torch.testing.assert_close(scaled, theirs, atol=1e-4, rtol=0)


def test_scorecam(toys, pictures):
    """The peer scales channels before it enlarges them, and has a softmax; on a full-size layer only that is left."""
    images, target = pictures(2, size=8), [0, 3]
    model = toys.gap(stride=1)
    with peer.ScoreCAM(model, "features") as cam:
        scores = model(images)
        (theirs,) = cam(target, scores, normalized=False)
    close(FinerCAM(model, "scorecam-softmax", gamma=0, layer="features")(images, target).signed, theirs)


# --- the peer's faults, shown to be its own


def test_gradcam_plusplus_is_not_equation_19_there(toys, pictures):
    """It divides a copy of the squared gradients and throws it away: the weights are `sum relu(g)^3`."""
    images, model = pictures(2), toys.gap()
    with peer.GradCAMpp(model, "features") as cam:
        (theirs,) = cam(0, model(images), normalized=False)
    gradient = model.head.weight[0].detach() / 64
    maps = model.features(images).detach()
    cubed = torch.einsum("c,nchw->nhw", 64 * gradient.relu() ** 3, maps).relu()
    torch.testing.assert_close(theirs, cubed)
    share = 1 / (2 + maps.sum(dim=(2, 3)) * gradient)
    expected = torch.einsum("nc,nchw->nhw", 64 * share * gradient.relu(), maps)
    torch.testing.assert_close(FinerCAM(model, "gradcam++", gamma=0, layer="features")(images, 0).signed, expected)


def test_references_are_reported_here(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    with peer.FinerCAM(model, "stage2") as cam:
        theirs = cam(0, model(images))
    assert all(isinstance(found, Tensor) for found in theirs)  # maps, and nothing said about the references
    answer = FinerCAM(model, references="nearest", num_references=3, layer="stage2")(images, 0)
    nearest = (answer.logits - answer.logits[:, :1]).abs()[:, 1:].argsort(dim=1)[:, :3] + 1
    assert answer.references.tolist() == nearest.tolist()


def test_ragged_references_are_refused_there_and_taken_here(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    with peer.FinerCAM(model, "stage2") as cam, pytest.raises(ValueError, match="equal lengths"):
        cam(0, model(images), comparison_idx=[[1, 2], [3]])
    answer = FinerCAM(model, layer="stage2")(images, 0, [[1, 2], [3]])
    alone = FinerCAM(model, layer="stage2")(images[1:], 0, 3)
    torch.testing.assert_close(answer.signed[1:], alone.signed)


def test_a_second_question_fails_there_and_is_answered_here(toys, pictures):
    model, images = toys.cnn(), pictures(1)
    with peer.FinerCAM(model, "stage2") as cam:
        scores = model(images)
        cam(0, scores)
        with pytest.raises(RuntimeError):
            cam(1, scores)
    answer = FinerCAM(model, layer="stage2", keep=5, keep_images=False)(images, 0)
    fresh = FinerCAM(model, layer="stage2")(images, 1)
    torch.testing.assert_close(answer.ask(target=1).signed, fresh.signed)


def test_a_map_without_evidence_is_nan_in_half_precision_there_and_zero_here(toys, pictures):
    model, images = toys.gap().half(), pictures(1).half()
    model.head.weight.data.zero_()
    with peer.GradCAM(model, "features") as cam:
        (theirs,) = cam(0, model(images))
    assert theirs.isnan().any()
    assert FinerCAM(model, layer="features", references="predicted")(images, 0).maps.abs().max() == 0


def test_tensor_class_ids_and_any_base_method_are_taken_here(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    with peer.FinerCAM(model, "stage2") as cam, pytest.raises((TypeError, ValueError)):
        cam(torch.tensor([0, 1]), model(images))
    with pytest.raises(TypeError):
        peer.FinerCAM(model, "stage2", base_method=peer.XGradCAM)
    ids = FinerCAM(model, "xgradcam", layer="stage2")(images, torch.tensor([0, 1]), torch.tensor([[2], [3]]))
    assert torch.equal(ids.signed, FinerCAM(model, "xgradcam", layer="stage2")(images, [0, 1], [[2], [3]]).signed)


def test_a_subclass_of_a_base_is_refused_there_and_a_users_method_taken_here(toys, pictures):
    class Own(peer.GradCAM):
        pass

    with pytest.raises(TypeError):
        peer.FinerCAM(toys.cnn(), "stage2", base_method=Own)
    own = Method("own", rules.gradcam, gather.gradients)
    ours = FinerCAM(toys.cnn(), own, layer="stage2")(pictures(1), 0).signed
    assert torch.equal(ours, FinerCAM(toys.cnn(), layer="stage2")(pictures(1), 0).signed)
