"""Evidence from masks and from missing channels, against brute force."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finercam import FinerCAM, FinerCAMError
from finercam.core.capture import exchanged, run_model
from finercam.methods.gather import masks_at_once


class Counting(nn.Module):
    """How many images the model is shown."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.shown = inner, []

    def forward(self, x):
        self.shown.append(len(x))
        return self.inner(x)


def masked_by_hand(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits behind each channel `(N, C, K)`, and the activations."""
    seen = []
    handle = layer.register_forward_hook(lambda _m, _i, out: seen.append(out.detach().clone()))
    run_model(model, images)
    handle.remove()
    scores = []
    for image, activation in zip(images, seen[0], strict=True):
        rows = []
        for channel in activation:
            mask = F.interpolate(channel[None, None], image.shape[1:], mode="bilinear", align_corners=False)[0, 0]
            span = mask.max() - mask.min()
            mask = (mask - mask.min()) / span if span > 0 else torch.zeros_like(mask)
            rows.append(run_model(model, (image * mask)[None])[0])
        scores.append(torch.stack(rows))
    return torch.stack(scores), seen[0]


@pytest.mark.parametrize("kind", ["gap", "cnn"])
def test_scorecam_is_equation_9(toys, pictures, kind):
    model, images = getattr(toys, kind)(), pictures(2)
    layer = {"gap": "features", "cnn": "stage2"}[kind]
    model.head.bias.data += 1.0  # the empty image must score something
    target, against, gamma = [0, 3], [[1, 2], [4]], torch.tensor([0.6, 0.9])
    scores, activations = masked_by_hand(model, model.get_submodule(layer), images)
    empty = run_model(model, torch.zeros_like(images[:1]))[0]
    expected = []
    for n, (c, ds) in enumerate(zip(target, against, strict=True)):
        alpha = scores[n, :, c] - gamma[n] * scores[n, :, ds].mean(dim=1) - empty[c]
        expected.append((alpha[:, None, None] * activations[n]).sum(0))
    found = FinerCAM(model, "scorecam", layer=layer)(images, target, against, gamma=gamma)
    torch.testing.assert_close(found.signed, torch.stack(expected), rtol=1e-4, atol=1e-5)


def test_scorecam_skips_empty_and_constant_channels_exactly(toys, pictures):
    model, images = toys.gap(channels=8), pictures(2)
    with torch.no_grad():
        conv = model.features[0]
        conv.weight[[1, 4, 6]] = 0
        conv.bias[[1, 4]] = -1.0  # behind the ReLU all zero
        conv.bias[6] = 2.0  # constant: scaled to [0, 1] it masks everything out
    counting = Counting(model)
    found = FinerCAM(counting, "scorecam", layer="inner.features")(images, 0, 1)
    live = 5 * len(images)
    assert sum(counting.shown) == len(images) + 1 + live  # the run itself, the empty image, the live channels
    scores, activations = masked_by_hand(model, model.features, images)
    empty = run_model(model, torch.zeros_like(images[:1]))[0]
    alpha = scores[..., 0] - 0.6 * scores[..., 1] - empty[0]
    expected = torch.einsum("nc,nchw->nhw", alpha, activations)
    torch.testing.assert_close(found.signed, expected, rtol=1e-4, atol=1e-5)


def test_scorecam_works_through_more_channels_than_a_batch_holds(toys, pictures):
    model, images = toys.gap(channels=70), pictures(1)
    scores, activations = masked_by_hand(model, model.features, images)
    empty = run_model(model, torch.zeros_like(images[:1]))[0]
    expected = torch.einsum("nc,nchw->nhw", scores[..., 2] - empty[2], activations)
    found = FinerCAM(model, "scorecam", layer="features")(images, 2, gamma=0.0)
    torch.testing.assert_close(found.signed, expected, rtol=1e-4, atol=1e-5)


def test_gscorecam_of_all_channels_is_scorecam(toys, pictures):
    model, images = toys.cnn(), pictures(3)
    a = FinerCAM(model, "gscorecam", layer="stage2")(images)
    b = FinerCAM(model, "scorecam", layer="stage2")(images)
    torch.testing.assert_close(a.signed, b.signed, rtol=1e-4, atol=1e-5)


def test_gscorecam_takes_the_channels_with_the_largest_gradient(toys, pictures):
    from functools import partial

    from finercam.methods import Method, gather, rules

    model, images = toys.gap(channels=8), pictures(2)
    counting = Counting(model)
    few = Method("few", rules.gradcam, partial(gather.top_channel_scores, count=3))
    found = FinerCAM(counting, few, layer="inner.features")(images, 1, 2)
    best = model.head.weight[1].detach().abs().sort(descending=True).indices[:3]
    assert sum(counting.shown) == 2 + 1 + 3 * 2
    scores, activations = masked_by_hand(model, model.features, images)
    empty = run_model(model, torch.zeros_like(images[:1]))[0]
    alpha = (scores[..., 1] - 0.6 * scores[..., 2] - empty[1])[:, best]
    torch.testing.assert_close(
        found.signed, torch.einsum("nc,nchw->nhw", alpha, activations[:, best]), rtol=1e-4, atol=1e-5
    )


def ablated_by_hand(model: nn.Module, layer: nn.Module, images: Tensor, axis: int) -> Tensor:
    """Logits lost without each channel, one full run each: `(N, C, K)`."""
    seen = []
    handle = layer.register_forward_hook(lambda _m, _i, out: seen.append(out.detach().clone()))
    full = run_model(model, images)
    handle.remove()
    falls = []
    for k in range(seen[0].shape[axis]):
        without = seen[0].clone()
        without.select(axis, k).zero_()
        with exchanged(layer, without):
            falls.append(full - run_model(model, images))
    return torch.stack(falls, dim=1)


@pytest.mark.parametrize(
    ("kind", "layer", "axis"),
    [("gap", "features", 1), ("cnn", "stage1", 1), ("cnn", "stage2", 1), ("vit", "blocks.1.norm1", 2)],
)
def test_ablation_is_the_fall_without_each_channel(toys, pictures, kind, layer, axis):
    model, images = getattr(toys, kind)(), pictures(2)
    falls = ablated_by_hand(model, model.get_submodule(layer), images, axis)
    found = FinerCAM(model, "ablationcam", layer=layer)(images, [0, 2], [[1], [3, 4]])
    alpha = torch.stack(
        [falls[0, :, 0] - 0.6 * falls[0, :, 1], falls[1, :, 2] - 0.6 * falls[1, :, [3, 4]].mean(dim=1)]
    )
    maps = found.seen[0][1].activations[0]
    torch.testing.assert_close(found.signed, torch.einsum("nc,nchw->nhw", alpha, maps), rtol=1e-4, atol=1e-5)


class TrunkShown(nn.Module):
    def __init__(self, inner) -> None:
        super().__init__()
        self.inner, self.shown = inner, []

    def forward(self, x):
        self.shown.append(len(x))
        return self.inner(x)


def test_ablation_runs_the_trunk_once_for_all_variants(toys, pictures):
    model = toys.cnn()
    model.stage1 = TrunkShown(model.stage1)
    FinerCAM(model, "ablationcam", layer="stage2", gamma=0.0)(pictures(1))
    assert model.stage1.shown == [1, 1, 1]  # the run, the trial, the eight channels


def test_ablation_beside_a_skip_connection_shares_the_trunk_and_agrees(pictures, toys):
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.branch, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 5)

        def forward(self, x):
            x = self.stem(x)
            return self.head((x + self.branch(x)).relu().mean(dim=(2, 3)))

    model, images = toys.seeded(Skip()), pictures(2)
    falls = ablated_by_hand(model, model.branch, images, 1)
    found = FinerCAM(model, "ablationcam", layer="branch")(images, 0, gamma=0.0)
    maps = found.seen[0][1].activations[0]
    torch.testing.assert_close(found.signed, torch.einsum("nc,nchw->nhw", falls[..., 0], maps), rtol=1e-4, atol=1e-5)


def test_ablation_where_the_tail_counts_the_images_of_the_trunk(pictures, toys):
    """The tail reshapes by the number of images it was called with, so variants need a trunk of as many."""

    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, x):
            maps = self.stem(x)
            return self.head(maps.reshape(len(x), 4, -1).mean(dim=2))

    model, images = toys.seeded(Counts()), pictures(2)
    falls = ablated_by_hand(model, model.stem, images, 1)
    found = FinerCAM(model, "ablationcam", layer="stem")(images, 0, gamma=0.0)
    maps = found.seen[0][1].activations[0]
    torch.testing.assert_close(found.signed, torch.einsum("nc,nchw->nhw", falls[..., 0], maps), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", ["scorecam", "scorecam-softmax", "gscorecam", "ablationcam"])
def test_hooks_are_gone_when_a_masked_run_fails(toys, pictures, method):
    class Fails(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner, self.runs = inner, 0

        def forward(self, x):
            self.runs += 1
            if self.runs > 3:
                raise RuntimeError("worn out\nby now")
            return self.inner(x)

    model = Fails(toys.gap(channels=70)).train()
    with pytest.raises((RuntimeError, FinerCAMError)):
        for _ in range(3):
            FinerCAM(model, method, layer="inner.features")(pictures(1))
    assert not any(m._forward_hooks for m in model.modules())
    assert all(m.training for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", ["scorecam", "ablationcam"])
def test_a_layer_of_one_place_or_of_zeros_runs_no_empty_batch(toys, method):
    """All its channels are constant; a model that refuses an empty batch is then not given one."""

    class Strict(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = toys.gap(stride=1)
            self.inner.features[0].bias.data.zero_()

        def forward(self, x):
            assert len(x)
            return self.inner(x)

    answer = FinerCAM(Strict(), method, layer="inner.features", gamma=0)(torch.zeros(1, 3, 1, 1), 0)
    assert answer.signed.shape == (1, 1, 1)


@pytest.mark.parametrize(("side", "count"), [(224, 4), (64, 49), (16, 64), (448, 4)])
def test_more_masked_images_run_together_where_they_are_small(side, count):
    """At 64 px four at a time took 1.4 times as long as pytorch-grad-cam, 49 take half as long."""
    assert masks_at_once(torch.zeros(3, side, side)) == count
