"""The drop-in for pytorch-grad-cam: its calls, its scaling, its targets; and the faults that are not taken over."""

from __future__ import annotations

import contextlib
import importlib
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAM as Ours
from finercam import FinerCAMError
from finercam.compat import pytorch_grad_cam as drop_in
from finercam.compat.pytorch_grad_cam.utils import image as images_of
from finercam.compat.pytorch_grad_cam.utils.model_targets import (
    BinaryClassifierOutputTarget,
    ClassifierOutputReST,
    ClassifierOutputSoftmaxTarget,
    ClassifierOutputTarget,
    FinerWeightedTarget,
    RawScoresOutputTarget,
    SemanticSegmentationTarget,
)
from finercam.core.maps import upsample

METHODS = {
    "GradCAM": "gradcam",
    "GradCAMPlusPlus": "gradcam++",
    "XGradCAM": "xgradcam",
    "HiResCAM": "hirescam",
    "LayerCAM": "layercam",
    "GradCAMElementWise": "gradcam-elementwise",
    "EigenGradCAM": "eigengradcam",
    "ScoreCAM": "scorecam-softmax",
    "AblationCAM": "ablationcam",
    "ShapleyCAM": "shapleycam",
    "SegEigenCAM": "segeigencam",
    "EigenCAM": "eigencam",
    "KPCA_CAM": "kpcacam",
    "FEM": "fem",
    "FullGrad": "fullgrad",
}


class Segmenter(nn.Module):
    """Logits for each pixel, `(N, 4, H, W)`."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.head(self.features(x)), x.shape[2:], mode="bilinear")


def scaled(maps: Tensor) -> Tensor:
    low = maps - maps.amin((1, 2), keepdim=True)
    return low / (1e-7 + low.amax((1, 2), keepdim=True))


@pytest.mark.parametrize("name", METHODS)
def test_each_class_is_finercams_method_in_the_peers_scaling(toys, pictures, name):
    model, images, classes = toys.cnn(), pictures(2), [0, 3]
    with getattr(drop_in, name)(model=model, target_layers=[model.stage2]) as cam:
        maps = cam(input_tensor=images, targets=[ClassifierOutputTarget(c) for c in classes])
    assert maps.dtype == np.float32 and maps.shape == (2, 16, 16) and maps.min() == 0
    signed = Ours(model, METHODS[name], gamma=0, layer="stage2")(images, classes).signed
    expected = scaled(upsample(scaled(signed.relu()), images.shape[2:]))
    if name == "FullGrad":
        expected = scaled(signed)
    np.testing.assert_allclose(maps, expected.numpy(), atol=2e-5)
    if name not in ("EigenCAM", "KPCA_CAM", "FEM"):
        torch.testing.assert_close(cam.outputs, model(images).detach())
        assert not np.allclose(maps, cam(images, [ClassifierOutputTarget(c) for c in (1, 2)]))


def test_the_mean_of_several_layers_is_of_scaled_maps(toys, pictures):
    model, images, targets = toys.cnn(), pictures(2), [ClassifierOutputTarget(1)] * 2
    alone = [drop_in.GradCAM(model, [layer])(images, targets) for layer in (model.stage1, model.stage2)]
    both = drop_in.GradCAM(model, [model.stage1, model.stage2])(images, targets)
    np.testing.assert_allclose(both, scaled(torch.from_numpy(np.mean(alone, axis=0))), atol=1e-5)


def test_the_model_stays_as_it_was(toys, pictures):
    model = toys.cnn().train()
    model.head.requires_grad_(False)
    model.stage1[0].weight.grad = torch.ones_like(model.stage1[0].weight)
    with torch.no_grad():
        drop_in.GradCAM(model, [model.stage2])(pictures(2))
    assert model.training and not model.head.weight.requires_grad and model.stage2[0].weight.requires_grad
    assert bool((model.stage1[0].weight.grad == 1).all())
    assert not any(module._forward_hooks for module in model.modules())


def test_no_targets_means_the_highest_logit_of_each_image(toys, pictures):
    model, images = toys.cnn(), pictures(4)
    targets = [ClassifierOutputTarget(int(c)) for c in model(images).argmax(1)]
    cam = drop_in.LayerCAM(model, [model.stage1])
    np.testing.assert_array_equal(cam(images), cam(images, targets))


@pytest.mark.parametrize(
    "target", [ClassifierOutputSoftmaxTarget(2), ClassifierOutputReST(2), lambda y: y[1] - y[3] ** 2]
)
@pytest.mark.parametrize("name", ["HiResCAM", "ScoreCAM", "AblationCAM"])
def test_any_function_of_an_images_output_is_a_target(toys, pictures, name, target):
    model, images = toys.gap(), pictures(2)
    cam = getattr(drop_in, name)(model, [model.features])
    maps = cam(images, [target, target])
    if name == "HiResCAM":
        kept = model.features(images).detach().requires_grad_()
        outputs = model.head(kept.mean((2, 3)))
        (gradient,) = torch.autograd.grad(target(outputs[0]) + target(outputs[1]), kept)
        expected = scaled(upsample(scaled((kept * gradient).sum(1).relu()), images.shape[2:]))
        np.testing.assert_allclose(maps, expected.detach().numpy(), atol=1e-5)
    assert not np.allclose(maps, cam(images, [ClassifierOutputTarget(0)] * 2))


def test_binary_models(toys, pictures):
    model, images = toys.gap(classes=1), pictures(2)
    cam = drop_in.GradCAM(model, [model.features])
    for category, scores in ((1, lambda y: y), (0, lambda y: -y)):
        maps = cam(images, [BinaryClassifierOutputTarget(category)] * 2)
        signed = Ours(model, "gradcam", gamma=0, layer="features", scores=scores)(images, 0).signed
        np.testing.assert_allclose(maps, scaled(upsample(scaled(signed.relu()), (16, 16))), atol=1e-5)
    np.testing.assert_array_equal(cam(images, [RawScoresOutputTarget()] * 2), cam(images))


def test_segmentation_and_its_mask_under_mirrored_views(toys, pictures):
    """A mask stays on its pixels: the mirrored view's output is turned back before the target reads it."""
    model, images = toys.seeded(Segmenter()), pictures(1)
    mask = np.zeros((16, 16), np.float32)
    mask[4:12, 1:5] = 1
    target = SemanticSegmentationTarget(2, mask)
    cam = drop_in.HiResCAM(model, [model.features])
    plain, smooth = cam(images, [target]), cam(images, [target], aug_smooth=True)
    assert plain[0, :, 8:].max() == 0 and smooth[0, :, 9:].max() == 0 and smooth.max() > 0.5
    with pytest.raises(FinerCAMError, match="targets=None takes the highest logit"):
        cam(images)


def test_aug_smooth_is_the_mean_over_six_views_of_one_question(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    cam = drop_in.GradCAM(model, [model.stage2])
    targets = [ClassifierOutputTarget(int(c)) for c in model(images).argmax(1)]
    views = [(flip, factor) for flip in (False, True) for factor in (0.9, 1, 1.1)]
    found = []
    for flip, factor in views:
        maps = cam((images.flip(-1) if flip else images) * factor, targets)
        found.append(maps[:, :, ::-1] if flip else maps)
    np.testing.assert_allclose(cam(images, aug_smooth=True), np.mean(found, axis=0), atol=1e-5)


def test_eigen_smooth_is_the_component_of_what_the_channels_add(toys, pictures):
    model, images, targets = toys.cnn(), pictures(2), [ClassifierOutputTarget(1)] * 2
    activation = Ours(model, gamma=0, layer="stage2")(images, 1).seen[0][1]
    ((maps, gradient),) = activation.contrasted(Ours(model, gamma=0, layer="stage2")(images, 1).contrast)
    product = (gradient.mean((2, 3), keepdim=True) * maps).flatten(2).mT
    centred = product - product.mean(1, keepdim=True)
    first = torch.linalg.svd(centred).Vh[:, :1]
    component = (centred @ first.mT)[..., 0]
    component = component * (component * centred.sum(2)).sum(1, keepdim=True).sign()
    expected = scaled(upsample(scaled(component.view(2, *maps.shape[2:]).relu()), (16, 16)))
    smooth = drop_in.GradCAM(model, [model.stage2])(images, targets, eigen_smooth=True)
    np.testing.assert_allclose(smooth, expected.detach().numpy(), atol=1e-4)


@pytest.mark.parametrize("name", ["GradCAM", "AblationCAM", "EigenCAM"])
def test_tokens_with_a_reshape_transform_and_without(toys, pictures, name):
    model, images, targets = toys.vit(), pictures(2), [ClassifierOutputTarget(2)] * 2
    build, layers = getattr(drop_in, name), [model.blocks[-1].norm1]

    def reshape(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].reshape(len(tokens), 4, 4, -1).permute(0, 3, 1, 2)

    maps = build(model, layers, reshape_transform=reshape)(images, targets)
    np.testing.assert_array_equal(maps, build(model, layers)(images, targets))
    with pytest.raises(FinerCAMError, match="reshape_transform failed on a layer's output"):
        build(model, layers, reshape_transform=lambda x: x.reshape(2, 7, 7, 8))(images, targets)


def test_finer_cam_takes_ranks_and_a_base_method(toys, pictures):
    model, images = toys.cnn(), pictures(3)
    cam = drop_in.FinerCAM(model, [model.stage2], base_method=drop_in.LayerCAM)
    explain = Ours(
        model, "layercam", gamma=0.6, references="nearest", num_references=3, weights="released", layer="stage2"
    )
    for target in (None, 2):
        signed = explain(images, target).signed
        maps = cam(images, alpha=0.6, target_idx=target)
        np.testing.assert_allclose(maps, scaled(upsample(scaled(signed.relu()), (16, 16))), atol=1e-5)
    two = explain(images, 2).references[:, [0, 2]].tolist()
    targets = [FinerWeightedTarget(2, rivals, 0.6) for rivals in two]
    chosen = cam(images, alpha=0.6, target_idx=2, comparison_categories=[1, 3])
    np.testing.assert_array_equal(chosen, drop_in.LayerCAM(model, [model.stage2])(images, targets))
    mean = drop_in.FinerCAM(model, [model.stage2], weights="mean")(images, alpha=0.6)
    signed = Ours(model, gamma=0.6, references="nearest", num_references=3, layer="stage2")(images).signed
    np.testing.assert_allclose(mean, scaled(upsample(scaled(signed.relu()), (16, 16))), atol=1e-5)


def test_what_finer_cam_refuses(toys, pictures):
    model, images = toys.cnn(), pictures(1)
    with pytest.raises(FinerCAMError, match="no contrast applies"):
        drop_in.FinerCAM(model, [model.stage2], base_method=drop_in.EigenCAM)
    cam = drop_in.FinerCAM(model, [model.stage2])
    for ranks in ([0, 1], [5]):
        with pytest.raises(FinerCAMError, match="comparison_categories"):
            cam(images, comparison_categories=ranks)
    with pytest.raises(FinerCAMError, match="target_idx=9"):
        cam(images, target_idx=9)
    with pytest.raises(FinerCAMError, match="other than the target's own"):
        FinerWeightedTarget(1, [1, 2], 0.6)
    model.head.weight.data *= 1e4
    with pytest.warns(UserWarning, match="weights='mean'"), contextlib.suppress(FinerCAMError):
        cam(images, comparison_categories=[3])


def test_a_tied_class_is_not_its_own_rival(toys):
    model = toys.gap()
    pick = drop_in.FinerCAM(model, [model.features])._contrast(1.0, None, 2)
    target = pick(torch.zeros(5))
    assert target.main_category == 2 and target.comparison_categories == [0, 1, 3]


def test_wrong_calls_are_refused_in_one_line(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    cam = drop_in.GradCAM(model, [model.stage2])
    for targets, message in (
        ([ClassifierOutputTarget(1)], "1 targets for 2 images"),
        ([ClassifierOutputTarget(9)] * 2, "target ClassifierOutputTarget failed on the output of one image"),
        ([RawScoresOutputTarget()] * 2, "expected one number"),
    ):
        with pytest.raises(FinerCAMError, match=message):
            cam(images, targets)
    with (
        pytest.raises(FinerCAMError),
        drop_in.GradCAM(model, [model.stage2]) as inside,
    ):  # not held back, as in the peer
        inside(images, [ClassifierOutputTarget(9)] * 2)
    with pytest.raises(FinerCAMError, match="could not run"):
        drop_in.EigenCAM(model, [model.stage2])(images[:, :1])


def test_own_methods_get_arrays(toys, pictures):
    """A subclass with weights or maps of its own works as it does with pytorch-grad-cam."""
    model, images, targets = toys.cnn(), pictures(2), [ClassifierOutputTarget(1)] * 2

    class Weights(drop_in.BaseCAM):
        def get_cam_weights(self, input_tensor, target_layer, targets, activations, grads):
            assert target_layer is model.stage2 and targets[0].category == 1
            return np.mean(grads, axis=(2, 3))

    class Image(drop_in.BaseCAM):
        def get_cam_image(self, input_tensor, target_layer, targets, activations, grads, eigen_smooth):
            return np.sum(grads * activations, axis=1)

    for own, known in ((Weights, drop_in.GradCAM), (Image, drop_in.HiResCAM)):
        maps = own(model, [model.stage2])(images, targets)
        np.testing.assert_allclose(maps, known(model, [model.stage2])(images, targets), atol=1e-5)


def test_random_cam_follows_numpys_seed(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    cam = drop_in.RandomCAM(model, [model.stage2])
    np.random.seed(3)  # noqa: NPY002 - the interface is NumPy's global generator
    first = cam(images)
    assert not np.array_equal(cam(images), first)
    np.random.seed(3)  # noqa: NPY002
    np.testing.assert_array_equal(cam(images), first)


def test_activations_and_gradients_around_a_run_of_the_callers(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    kept = drop_in.ActivationsAndGradients(model, [model.stage1, model.stage2])
    kept(images)[:, 1].sum().backward()
    assert [tuple(a.shape) for a in kept.activations] == [(2, 6, 8, 8), (2, 8, 8, 8)]
    assert [tuple(g.shape) for g in kept.gradients] == [(2, 6, 8, 8), (2, 8, 8, 8)]
    torch.testing.assert_close(kept.activations[0], model.stage1(images).detach())  # before the in-place ReLU
    kept.release()
    assert not kept.activations and not any(module._forward_hooks for module in model.modules())


def test_guided_backpropagation_by_hand(toys, pictures):
    model, images = toys.gap(), pictures(1)
    maps = model.features[0](images)
    gradient = (maps > 0) * (model.head.weight[2] / maps[0, 0].numel()).clamp(min=0)[None, :, None, None]
    expected = torch.nn.grad.conv2d_input(images.shape, model.features[0].weight, gradient, stride=2, padding=1)
    guided = drop_in.GuidedBackpropReLUModel(model)(images, 2)
    np.testing.assert_allclose(guided, expected[0].permute(1, 2, 0).detach().numpy(), atol=1e-6)
    highest = int(model(images).argmax())
    by_itself = drop_in.GuidedBackpropReLUModel(model)
    np.testing.assert_array_equal(by_itself(images), by_itself(images, highest))


def test_class_free_methods_read_models_of_any_output(pictures):
    """A detector's feature pyramid, which is a dict, with a reshape_transform; targets are not needed."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Pyramid()

        def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
            self.body(x)
            return [{"boxes": torch.zeros(0, 4)} for _ in x]

    class Pyramid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            fine = self.conv(x)
            return {"0": fine, "pool": fine[..., ::2, ::2]}

    model = Detector()
    reshape = drop_in.utils.reshape_transforms.fasterrcnn_reshape_transform
    cam = drop_in.EigenCAM(model, [model.body], reshape_transform=reshape)
    assert cam(pictures(2)).shape == (2, 16, 16) and "boxes" in cam.outputs[0]
    with pytest.raises(FinerCAMError, match="give a reshape_transform"):
        drop_in.EigenCAM(model, [model.body])(pictures(1))


def test_refine_cam_and_sess(toys, pictures):
    model, images, targets = toys.cnn(), pictures(2), [ClassifierOutputTarget(1)] * 2
    layers = [model.stage1, model.stage2]
    alone = [drop_in.GradCAM(model, [layer])(images, targets) for layer in layers]
    refined = drop_in.RefineCAM(model, layers, base_method=drop_in.GradCAM)(images, targets)
    np.testing.assert_allclose(refined, scaled(torch.from_numpy(np.prod(alone, axis=0))), atol=1e-6)
    one_scale = drop_in.SESS(model, layers[1:], num_scales=1, smooth=False)(images, targets)
    np.testing.assert_allclose(one_scale, alone[1], atol=1e-6)
    wide = drop_in.SESS(model, layers[1:], num_scales=2, pool="max")(pictures(1, size=(16, 24)))
    assert wide.shape == (1, 16, 24) and wide.max() == pytest.approx(1)


def test_metrics_change_the_share_that_they_name(toys, pictures):
    """Also for a map of zeros, where a percentile of the values would remove everything or nothing."""
    model, images, targets = toys.gap(), pictures(2), [ClassifierOutputSoftmaxTarget(1)] * 2
    metrics = drop_in.metrics
    for maps in (np.zeros((2, 16, 16), np.float32), drop_in.GradCAM(model, [model.features])(images)):
        change, changed = metrics.road.ROADMostRelevantFirst(75)(
            images, maps, targets, model, return_visualization=True
        )
        assert change.shape == (2,) and int((changed != images).any(1).sum()) == 2 * 64
    kept = metrics.cam_mult_image.CamMultImageConfidenceChange()(images, np.ones((2, 16, 16)), targets, model)
    np.testing.assert_allclose(kept, 0, atol=1e-7)
    maps = drop_in.GradCAM(model, [model.features])(images, [ClassifierOutputTarget(1)] * 2)
    drop = metrics.cam_mult_image.DropInConfidence()(images, maps, targets, model)
    rise = metrics.cam_mult_image.IncreaseInConfidence()(images, maps, targets, model)
    assert ((drop > 0) != (rise > 0)).all()
    scores = metrics.arcc.ARCC(drop_in.GradCAM(model, [model.features]), [50])(images, maps, targets, model)
    assert scores.shape == (2,) and ((scores >= 0) & (scores <= 1)).all()
    auto = metrics.perturbation_confidence.RemoveMostRelevantFirst("auto", lambda image, known: known)
    two = torch.zeros(16, 16)
    two[:4] = 0.9
    assert int((auto(images[0], two) == 0).sum()) == 64


def test_pictures():
    photo = np.random.default_rng(0).random((8, 8, 3), np.float32)
    ramp = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    red_first = images_of.show_cam_on_image(photo, ramp, use_rgb=True)
    assert red_first.dtype == np.uint8 and red_first.max() == 255
    np.testing.assert_array_equal(images_of.show_cam_on_image(photo[..., ::-1], ramp)[..., ::-1], red_first)
    with pytest.raises(FinerCAMError, match="divide by 255"):
        images_of.show_cam_on_image(255 * photo, ramp)
    with pytest.raises(FinerCAMError, match="image_weight"):
        images_of.show_cam_on_image(photo, ramp, image_weight=2)
    legend = images_of.create_labels_legend(np.array([[0.1, 0.7, 0.2]]), {0: "wren", 1: "robin, bird", 2: "owl"})
    assert legend == ["robin, bird:0.70\nowl:0.20"]


def test_the_peers_module_names_are_there():
    for name in ("grad_cam", "finer_cam", "refine_cam", "sess", "ablation_layer", "metrics.road", "utils.image"):
        module = importlib.import_module(f"finercam.compat.pytorch_grad_cam.{name}")
        assert sys.modules[f"finercam.compat.pytorch_grad_cam.{name}"] is module
    for name in drop_in.__all__:
        assert hasattr(drop_in, name)


def test_arguments_without_an_effect_are_named(toys):
    model = toys.cnn()
    with pytest.warns(UserWarning, match="ratio_channels_to_ablate has no effect"):
        drop_in.AblationCAM(
            model, [model.stage2], ablation_layer=drop_in.AblationLayer(), ratio_channels_to_ablate=0.1
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drop_in.GradCAM(model, [model.stage2], use_cuda=False)
    with pytest.raises(FinerCAMError, match="sigmoid"):
        drop_in.KPCA_CAM(model, [model.stage2], kernel="rbf")


@pytest.mark.slow
def test_factorization_finds_the_parts(toys, pictures):
    pytest.importorskip("sklearn")
    model, images = toys.gap(), pictures(2)
    find = drop_in.DeepFeatureFactorization(model, model.features, computation_on_concepts=model.head)
    concepts, maps, made = find(images, n_components=3)
    photo = np.zeros((16, 16, 3))
    shown = images_of.show_factorization_on_image(photo, maps[0], concept_labels=["a", "b", "c"])
    assert shown.shape == (16, 32, 3) and shown[:, 16:].min() < 255
    assert concepts.shape == (6, 3) and [m.shape for m in maps] == [(3, 16, 16)] * 2 and made.shape == (3, 5)
