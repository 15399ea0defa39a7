"""The drop-in for torch-cam: hooks on the caller's own pass, our rules, the peer's scaling, and a contrast by one word."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from finercam import FinerCAM, FinerCAMError
from finercam.compat.torchcam import methods
from finercam.compat.torchcam.methods.core import Extractor
from finercam.compat.torchcam.utils import overlay_mask

GRADIENT = {"GradCAM": "gradcam", "GradCAMpp": "gradcam++", "XGradCAM": "xgradcam", "LayerCAM": "layercam"}
SCORED = {"ScoreCAM": "scorecam-softmax", "SSCAM": "sscam", "ISCAM": "iscam"}


def scaled(signed: Tensor) -> Tensor:
    """ReLU, then from the least value to the largest."""
    maps = signed.clamp(min=0).flatten(1)
    maps = maps - maps.amin(1, keepdim=True)
    return (maps / maps.amax(1, keepdim=True).clamp(min=1e-12)).view_as(signed)


@pytest.fixture(scope="module")
def model(toys) -> nn.Module:
    return toys.cnn()


@pytest.mark.parametrize("name", GRADIENT)
def test_maps_of_the_callers_pass_are_ours(name, model, pictures):
    images, classes = pictures(3), [0, 3, 2]
    with getattr(methods, name)(model, ["stage1", "stage2"]) as extractor:
        scores = model(images)
        plain = extractor(classes, scores, retain_graph=True)
        finer = extractor(classes, scores, against=[[1], [4], [0]], gamma=0.8)
        raw = extractor(classes, model(images), normalized=False)
    for layer, *found in zip(("stage1", "stage2"), plain, finer, raw, strict=True):
        expected = FinerCAM(model, GRADIENT[name], gamma=0, layer=layer)(images, classes).signed
        torch.testing.assert_close(found[0], scaled(expected), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(found[2], expected.clamp(min=0), atol=1e-6, rtol=1e-4)
        contrast = FinerCAM(model, GRADIENT[name], gamma=0.8, layer=layer)(images, classes, [[1], [4], [0]]).signed
        torch.testing.assert_close(found[1], scaled(contrast), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(found[0], found[1], atol=0.05)


@pytest.mark.parametrize("name", SCORED)
def test_score_extractors_need_no_graph_and_no_scores(name, model, pictures):
    images = pictures(2, size=8)
    with getattr(methods, name)(model, "stage2") as extractor:
        with torch.inference_mode():
            model(images)
        (found,) = extractor([1, 3])
        (finer,) = extractor([1, 3], against="predicted")
    expected = FinerCAM(model, SCORED[name], gamma=0, layer="stage2")(images, [1, 3]).signed
    torch.testing.assert_close(found, scaled(expected), atol=1e-4, rtol=1e-3)
    contrast = FinerCAM(model, SCORED[name], gamma=0.6, layer="stage2")(images, [1, 3]).signed
    torch.testing.assert_close(finer, scaled(contrast), atol=1e-4, rtol=1e-3)


def test_cam_by_the_heads_weights_with_and_without_rivals(toys, pictures):
    model, images = toys.gap(), pictures(2)
    with methods.CAM(model, "features", "head") as extractor, torch.no_grad():
        scores = model(images)
        (plain,) = extractor(1, normalized=False)
        (finer,) = extractor(1, scores, normalized=False, against=4, gamma=1.0)
    maps = model.features(images).detach()
    rows = model.head.weight.detach()
    torch.testing.assert_close(plain, torch.einsum("c,nchw->nhw", rows[1], maps))
    torch.testing.assert_close(finer, torch.einsum("c,nchw->nhw", rows[1] - rows[4], maps))
    with pytest.raises(FinerCAMError, match="channels; name the head"), methods.CAM(toys.cnn(), "stage1") as wrong:
        wrong.model(images)
        wrong(0)


def test_noisy_copies_by_the_callers_numbers(model, pictures):
    with methods.SmoothGradCAMpp(model, "stage2", num_samples=3, std=0.0) as extractor:
        model(pictures(2))
        (still,) = extractor([0, 3])
        assert repr(extractor) == "SmoothGradCAMpp(target_layer=['stage2'], num_samples=3, std=0.0)"
    plain = FinerCAM(model, "gradcam++", gamma=0, layer="stage2")(pictures(2), [0, 3]).signed
    torch.testing.assert_close(still, scaled(plain), atol=1e-5, rtol=1e-4)


def test_finercam_takes_any_base_and_the_nearest_classes(model, pictures):
    images, classes = pictures(2), [1, 3]
    with methods.FinerCAM(model, "stage2", base_method=methods.XGradCAM) as extractor:
        (found,) = extractor(classes, model(images), normalized=False)
        (named,) = extractor(classes, model(images), comparison_idx=[0, 2], normalized=False)
    ours = FinerCAM(model, "xgradcam", gamma=0.6, references="nearest", num_references=3, layer="stage2")
    torch.testing.assert_close(found, ours(images, classes).signed.clamp(min=0), atol=1e-6, rtol=1e-4)
    expected = ours(images, classes, [[0, 2]] * 2).signed.clamp(min=0)
    torch.testing.assert_close(named, expected, atol=1e-6, rtol=1e-4)
    assert extractor.target_names == ["stage2"]


def test_refinecam_multiplies_layers(model, pictures):
    images = pictures(2)
    with methods.RefineCAM(model, ["stage1", "stage2"], base_method=methods.LayerCAM) as extractor:
        (found,) = extractor([0, 1], model(images))
    stages = FinerCAM(model, "layercam", gamma=0, layer=["stage1", "stage2"], fusion="product")
    torch.testing.assert_close(found, scaled(stages(images, [0, 1]).signed), atol=1e-4, rtol=1e-3)


def test_targets_are_functions_of_one_images_output(model, pictures):
    images = pictures(2)
    wanted = [lambda row: row[0] - row[2], lambda row: row[3] - row[1]]
    with methods.GradCAM(model, "stage2") as extractor:
        (found,) = extractor(scores=model(images), targets=wanted)
    expected = FinerCAM(model, "gradcam", gamma=1, layer="stage2")(images, [0, 3], [[2], [1]]).signed
    torch.testing.assert_close(found, scaled(expected), atol=1e-5, rtol=1e-4)
    with methods.ScoreCAM(model, "stage2") as extractor:
        model(images)
        (scored,) = extractor(targets=lambda row: row[1])
        (by_class,) = extractor(1)
    torch.testing.assert_close(scored, by_class, atol=1e-4, rtol=1e-3)


def test_a_frozen_model_in_a_callers_pass(toys, pictures):
    frozen = toys.cnn().requires_grad_(False)
    with methods.GradCAM(frozen, "stage2") as extractor:
        (found,) = extractor(0, frozen(pictures(2)))
    expected = FinerCAM(frozen, "gradcam", gamma=0, layer="stage2")(pictures(2), 0).signed
    torch.testing.assert_close(found, scaled(expected), atol=1e-5, rtol=1e-4)


def test_a_transformers_tokens_are_read_without_a_function(toys, pictures):
    vit, images = toys.vit(), pictures(2)
    found = []
    for transform in (None, lambda x: x[:, 1:].unflatten(1, (4, 4)).permute(0, 3, 1, 2)):
        with methods.GradCAM(vit, "blocks.1.norm1", reshape_transform=transform) as extractor:
            found += extractor(2, vit(images))
    assert found[0].shape == (2, 4, 4)
    assert float(found[0].max()) == 1
    assert torch.equal(*found)


def test_a_video(toys):
    model = nn.Sequential(
        nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)
    )
    video = torch.randn(2, 3, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    model = toys.seeded(model)
    for name in ("CAM", "GradCAM", "GradCAMpp", "SmoothGradCAMpp", "ScoreCAM", "XGradCAM", "LayerCAM"):
        with getattr(methods, name)(model, "1") as extractor:
            (found,) = extractor([0, 2], model(video), against=1)
        assert found.shape == (2, 4, 8, 6)
        assert bool(found.isfinite().all())
    fused = methods.LayerCAM.fuse_cams([torch.rand(1, 2, 4, 4), torch.rand(1, 4, 8, 8)])
    assert fused.shape == (1, 4, 8, 8)


def test_hooks_live_as_long_as_the_block_and_can_be_silenced(toys, pictures):
    model, images = toys.cnn(), pictures(1)
    before = model(images)

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())

    with (
        pytest.raises(RuntimeError, match="boom"),
        methods.LayerCAM(model, "stage2", enable_hooks=False) as extractor,
    ):
        model(images)
        assert extractor.hook_a == [None]
        with pytest.raises(AssertionError, match="has not run yet"):
            extractor(0, before)
        extractor.enable_hooks()
        torch.testing.assert_close(model(images), before)
        assert extractor.hook_a[0].shape == (1, 8, 8, 8)
        raise RuntimeError("boom")
    assert hooks() == 0


def test_no_parameter_gets_a_gradient_and_the_callers_graph_lives(toys, pictures):
    model = toys.cnn()
    with methods.GradCAM(model, "stage2") as extractor:
        scores = model(pictures(2))
        extractor(0, scores, retain_graph=True)
        assert all(parameter.grad is None for parameter in model.parameters())
        scores.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_map_without_evidence_is_zero_in_half_precision(toys, pictures):
    model = toys.gap().half()
    model.head.weight.data.zero_()
    with methods.GradCAM(model, "features") as extractor:
        (found,) = extractor(0, model(pictures(1).half()))
    assert float(found.abs().max()) == 0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda e, y: e(), "exactly one of class_idx and targets"),
        (lambda e, y: e(0), "needs the scores"),
        (lambda e, y: e(-1, y), "target -1: expected a class id"),
        (lambda e, y: e(7, y), "target 7: expected a class id in 0…4"),
        (lambda e, y: e([0], y), "1 targets for 2 images"),
        (lambda e, y: e(0, y, against=0), "among its own references"),
        (lambda e, y: e(0, y, against="wren"), "wren"),
        (lambda e, y: e(0, y.detach()), "not connected to every target layer by a graph"),
        (lambda e, y: e(0, y[:1]), "scores of 1 images for a pass over 2"),
        (lambda e, y: e(scores=y, targets=lambda row: row), "scalar tensor"),
        (lambda e, y: e(scores=y, targets=[lambda row: row[0]]), "1 targets for 2 images"),
        (lambda e, y: (e(0, y), e(1, y)), "retain_graph=True"),
    ],
)
def test_refusals(ask, message, model, pictures):
    with methods.GradCAM(model, "stage2") as extractor, pytest.raises(FinerCAMError, match=message):
        ask(extractor, model(pictures(2)))


def test_refusals_of_constructors(model):
    with pytest.raises(FinerCAMError, match="No layer 'stage9'"):
        methods.GradCAM(model, "stage9")
    for wrong in (3, [3]):
        with pytest.raises(TypeError, match="expected a module"):
            methods.GradCAM(model, wrong)
    with pytest.raises(FinerCAMError, match="FinerCAM\\(model, 'legrad'\\)"):
        methods.LeGrad(model, "stage2")
    with pytest.raises(TypeError, match="expected a CAM extractor class"):
        methods.RefineCAM(model, ["stage1", "stage2"], base_method=nn.Module)
    shared = nn.Sequential(*[nn.Conv2d(3, 3, 1)] * 2, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with methods.GradCAM(shared, shared[0]) as extractor, pytest.raises(FinerCAMError, match="more than once"):
        extractor(0, shared(torch.zeros(1, 3, 4, 4)))


def test_fusing_takes_the_largest_value_on_the_finest_grid():
    fine, coarse = torch.rand(2, 8, 6), torch.rand(2, 4, 3)
    assert Extractor.fuse_cams([fine, coarse]).shape == (2, 8, 6)
    assert bool((Extractor.fuse_cams([fine, coarse]) >= fine).all())
    assert Extractor.fuse_cams([fine, coarse], (4, 3)).shape == (2, 4, 3)
    assert torch.equal(methods.LayerCAM.fuse_cams([fine, fine]), torch.tanh(2 * fine))
    with pytest.raises(FinerCAMError, match="empty"):
        Extractor.fuse_cams([])


def test_overlays_of_float_and_byte_masks_are_alike():
    photo = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    heat = np.linspace(0, 1, 4, dtype=np.float32).reshape(2, 2)
    of_floats = np.asarray(overlay_mask(photo, Image.fromarray(heat), alpha=0.5), dtype=int)
    of_bytes = np.asarray(overlay_mask(photo, Image.fromarray((heat * 255).astype(np.uint8)), alpha=0.5), dtype=int)
    assert np.abs(of_floats - of_bytes).mean() <= 3
    assert of_floats[-1, -1, 0] > of_floats[-1, -1, 2]  # a lit place is red
    assert of_floats[0, 0, 2] > of_floats[0, 0, 0]  # an empty one blue
