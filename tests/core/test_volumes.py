"""Volumes and videos: every rule on maps with a third axis of places, and what is refused there."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import seeded
from torch import Tensor, nn

from finercam import FinerCAM, FinerCAMError
from finercam.core.fuse import fuse
from finercam.core.grid import Layout, find_layout
from finercam.core.maps import upsample
from finercam.methods import Method, get, names

READ_ATTENTION = {"legrad"}
ON_MAPS = [name for name in names() if not get(name).needs_text and name not in READ_ATTENTION]


class Scan(nn.Module):
    """A 3-D network of two stages; `flat=True` is its 2-D counterpart with the same weights."""

    def __init__(self, flat: bool = False, depth: int = 3) -> None:
        super().__init__()
        conv, self.axes = (nn.Conv2d, (2, 3)) if flat else (nn.Conv3d, (2, 3, 4))
        kernel = 3 if flat else (depth, 3, 3)
        pad = 1 if flat else (depth // 2, 1, 1)
        stride = 2 if flat else (1, 2, 2)
        self.stage1 = nn.Sequential(conv(3, 6, kernel, padding=pad), nn.ReLU())
        self.stage2 = nn.Sequential(conv(6, 8, kernel, stride, pad), nn.ReLU())
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(x)).mean(self.axes))


@pytest.fixture(scope="module")
def scan() -> nn.Module:
    return seeded(Scan())


@pytest.fixture(scope="module")
def volumes() -> Tensor:
    return torch.randn(2, 3, 4, 16, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", ON_MAPS)
def test_a_volume_of_one_slice_is_explained_like_the_picture(name):
    """The same weights with a depth of one give the same maps, by every method that explains feature maps."""
    flat, deep = seeded(Scan(flat=True)), Scan(depth=1)
    deep.load_state_dict({key: value.view(deep.state_dict()[key].shape) for key, value in flat.state_dict().items()})
    images = torch.randn(2, 3, 16, 12, generator=torch.Generator().manual_seed(2))
    question = ([0, 3], None if get(name).class_free else [[1], [2]])
    gamma = 0.0 if get(name).class_free else None
    picture = FinerCAM(flat, name, layer="stage2", gamma=gamma)(images, *question)
    volume = FinerCAM(deep.eval(), name, layer="stage2", gamma=gamma)(images[:, :, None], *question)
    assert float(picture.signed.abs().max()) > 0
    torch.testing.assert_close(volume.signed[:, 0], picture.signed, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(volume.maps[:, 0], picture.maps, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in ON_MAPS if get(name).evidence == "gradients"])
def test_places_of_a_volume_count_like_those_of_a_picture(name):
    """A rule knows no neighbourhood: the map of a volume is that of its slices laid below one another."""
    random = torch.Generator().manual_seed(3)
    activations, gradients = (torch.randn(2, 8, 3, 4, 5, generator=random) for _ in range(2))
    rule = get(name).rule
    flat = rule(activations.flatten(2, 3), gradients.flatten(2, 3))
    torch.testing.assert_close(rule(activations, gradients), flat.unflatten(1, (3, 4)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gradcam", "layercam", "scorecam", "ablationcam", "reciprocam", "finecam"])
def test_explain_asks_and_joins_batches(name, scan, volumes):
    explain = FinerCAM(scan, name, batch_size=1)
    answer = explain(volumes, [0, 1], [[2], [3]])
    assert answer.layers == ("stage2",)
    assert answer.signed.shape == (2, 4, 8, 6)
    assert answer.maps.shape == (2, 4, 16, 12)
    assert answer.image_size == (4, 16, 12)
    for sample in range(2):
        alone = FinerCAM(scan, name)(volumes[sample : sample + 1], [sample], [[sample + 2]])
        torch.testing.assert_close(answer[sample].signed, alone.signed, rtol=1e-4, atol=1e-5)
    fresh = FinerCAM(scan, name, gamma=0.2)(volumes, [0, 1], [[2], [3]])
    torch.testing.assert_close(answer.ask(gamma=0.2).maps, fresh.maps, rtol=1e-4, atol=1e-5)
    assert answer.sweep([0.0, 0.2]).shape == (2, 2, 4, 16, 12)
    torch.testing.assert_close(answer.sweep([0.2])[0], fresh.maps, rtol=1e-3, atol=1e-4)


def test_the_usual_preset_multiplies_stages_of_a_volume(scan, volumes):
    answer = FinerCAM(scan)(volumes)
    assert answer.layers == ("stage1", "stage2")
    assert answer.question.fusion == "product"
    assert answer.maps.shape == (2, 4, 16, 12)
    assert torch.equal(answer.maps.flatten(1).amax(1), torch.ones(2))


def test_maps_are_enlarged_along_all_axes_and_fused_on_the_finest():
    ramp = torch.arange(2.0).view(1, 2, 1, 1).expand(1, 2, 2, 2)
    large = upsample(ramp, (4, 4, 4))
    assert large[0, :, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.0]
    assert fuse([ramp, torch.ones(1, 4, 4, 4)], "product").shape == (1, 4, 4, 4)


def test_orthogonal_weights_and_joined_evidence(scan, volumes):
    answer = FinerCAM(scan, "gradcam", weights="orthogonal", batch_size=1)(volumes, [0, 1], [[2, 3], [3, 4]])
    flipped = FinerCAM(scan, "gradcam", weights="orthogonal")(volumes.flip(0), [1, 0], [[3, 4], [2, 3]])
    torch.testing.assert_close(answer.signed, flipped.signed.flip(0), rtol=1e-4, atol=1e-5)


def test_flips_are_averaged_and_scales_refused(scan, volumes):
    both = FinerCAM(scan, "gradcam", smooth="flip")(volumes, 0, 1).signed
    own, mirrored = (FinerCAM(scan, "gradcam")(x, 0, 1).signed for x in (volumes, volumes.flip(-1)))
    torch.testing.assert_close(both, (own + mirrored.flip(-1)) / 2, rtol=1e-4, atol=1e-5)
    with pytest.raises(FinerCAMError, match="for volumes take smooth='flip'"):
        FinerCAM(scan, "gradcam", smooth="scale")(volumes)


def test_pixels_as_a_layer(scan, volumes):
    answer = FinerCAM(scan, "gradcam", layer="input")(volumes)
    assert answer.signed.shape == (2, 4, 16, 12)


def test_a_method_of_ones_own(scan, volumes):
    own = Method("own", lambda activations, gradients: (activations * gradients).sum(1))
    ours = FinerCAM(scan, own)(volumes, 0, 1).signed
    torch.testing.assert_close(ours, FinerCAM(scan, "hirescam")(volumes, 0, 1).signed)


def test_channels_last_and_tokens_of_a_volume():
    size = (2, 3, 16, 112, 112)
    assert find_layout((2, 8, 14, 14, 96), size, layer=nn.LayerNorm(96)) == Layout("nhwc", (8, 14, 14))
    stem = nn.Sequential(nn.Conv3d(3, 96, (3, 7, 7), (2, 4, 4)))
    assert find_layout((2, 8 * 14 * 14, 96), size, stem) == Layout("tokens", (8, 14, 14))
    assert find_layout((2, 1 + 8 * 14 * 14, 96), size, stem, (8, 14, 14)) == Layout("tokens", (8, 14, 14), 1)
    maps = Layout("tokens", (2, 3, 4), 1).to_maps(torch.arange(25.0).view(1, 25, 1))
    assert maps.shape == (1, 1, 2, 3, 4)
    assert float(maps[0, 0, 1, 2, 3]) == 24
    with pytest.raises(FinerCAMError, match="cannot be read as feature maps"):
        find_layout((2, 100, 96), size, stem)


@pytest.mark.parametrize("channels", [2, 8, 20])
def test_a_layer_that_declares_no_channels_is_read_by_its_proportions(channels):
    """A ReLU with fewer channels than columns was once read as if its columns were the channels."""
    layout = find_layout((2, channels, 6, 24, 20), (2, 1, 12, 48, 40), layer=nn.ReLU())
    assert layout == Layout("nchw", (6, 24, 20))
    assert find_layout((2, 6, 24, 20, channels), (2, 1, 12, 48, 40), layer=nn.GELU()) == Layout("nhwc", (6, 24, 20))
    assert find_layout((2, 8, 8, 8, 8), (2, 1, 16, 16, 16), layer=nn.ReLU()) == Layout("nchw", (8, 8, 8))


def test_frames_before_channels_are_refused(scan, volumes):
    with pytest.raises(FinerCAMError, match=r"(could not run|fails) on images of shape"):
        FinerCAM(scan)(volumes.transpose(1, 2))


def test_a_picture_network_refuses_a_volume(volumes):
    with pytest.raises(FinerCAMError, match=r"images of shape \(1, 3, 4, 16, 12\)"):
        FinerCAM(seeded(Scan(flat=True)))(volumes)


@pytest.mark.slow
def test_video_networks_of_torchvision():
    """Their layers are found: maps of a residual network, channels-last maps of a Swin, tokens of a multiscale ViT."""
    from torchvision.models.video.mvit import MSBlockConfig, MViT
    from torchvision.models.video.resnet import BasicBlock, BasicStem, Conv3DSimple, VideoResNet
    from torchvision.models.video.swin_transformer import SwinTransformer3d

    kernel, every, half = [3, 3, 3], [1, 1, 1], [1, 2, 2]
    blocks = [
        MSBlockConfig(1, 16, 16, kernel, kernel, every, half),
        MSBlockConfig(2, 16, 32, kernel, kernel, half, half),
        MSBlockConfig(2, 32, 32, kernel, kernel, every, every),
    ]
    swin = {"patch_size": [2, 4, 4], "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": [2, 4, 4]}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        networks = {
            (("layer4",), (1, 2, 2)): VideoResNet(BasicBlock, [Conv3DSimple] * 4, [1] * 4, BasicStem, 5),
            (("norm",), (4, 4, 4)): SwinTransformer3d(num_classes=5, **swin),
            (("blocks.2.norm1",), (4, 4, 4)): MViT((32, 32), 8, blocks, True, True, False, False, num_classes=5),
        }
    videos = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    for (layers, grid), network in networks.items():
        answer = FinerCAM(network.eval(), "hirescam")(videos)
        assert (answer.layers, tuple(answer.signed.shape[1:])) == (layers, grid)
        assert answer.maps.shape == (1, 8, 32, 32)
        assert float(answer.signed.abs().max()) > 0
