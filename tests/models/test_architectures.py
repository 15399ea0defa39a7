"""Target layer, token grid and linear head over the model zoos: real classes, random weights, small sizes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAM
from finercam.core.grid import Layout, find_layout
from finercam.core.head import linear_head
from finercam.core.layers import resolve_layers
from finercam.core.stages import find_stages

pytestmark = pytest.mark.slow  # imports the libraries of models

NCHW, NHWC, TOKENS = "nchw", "nhwc", "tokens"


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported when the first test runs, so that collecting the tests stays cheap."""
    global \
        MlpMixer, \
        MetaFormer, \
        MultiScaleVit, \
        MultiScaleVitCfg, \
        ByoBlockCfg, \
        ByobNet, \
        ByoModelCfg, \
        VGG, \
        hf, \
        open_clip, \
        timm, \
        tv
    import open_clip.model
    import timm
    import torchvision.models as tv
    import transformers as hf
    from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
    from timm.models.metaformer import MetaFormer
    from timm.models.mlp_mixer import MlpMixer
    from timm.models.mvitv2 import MultiScaleVit, MultiScaleVitCfg
    from timm.models.vgg import VGG


class Case(NamedTuple):
    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: str
    layout: Layout
    head: tuple[int, int]


class Headed(nn.Module):
    """A backbone or image tower with a linear head, as `finercam probe` makes them."""

    def __init__(self, tower: nn.Module, width: int, pool: str = "given") -> None:
        super().__init__()
        self.tower, self.pool, self.fc = tower, pool, nn.Linear(width, 7)

    def forward(self, images: Tensor) -> Tensor:
        features = self.tower(images)
        if self.pool == "patches":
            features = features.last_hidden_state[:, 5:].mean(1)
        if self.pool == "all":
            features = features.last_hidden_state.mean(1)
        return self.fc(features[0] if isinstance(features, tuple) else features)


def from_timm(name: str, **options: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=7, **options)


SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
SMALL |= {"image_size": 64, "patch_size": 16}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def from_hf(kind: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        config = getattr(hf, f"{kind}Config")(num_labels=7, **options)
        return getattr(hf, f"{kind}ForImageClassification")(config)

    return build


def clip_tower(**options: Any) -> Callable[[], nn.Module]:
    vision = {"image_size": 64, "patch_size": 16, "layers": 3, "width": 64, "head_width": 32} | options
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    return lambda: Headed(open_clip.model.CLIP(24, vision, text).visual, 24)


def post_norm_encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 2, 64, batch_first=True)

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches, self.head = nn.Conv2d(3, 32, 16, 16), nn.Linear(32, 7)
            self.class_token = nn.Parameter(torch.randn(1, 1, 32))
            self.encoder = nn.TransformerEncoder(layer, 3)

        def forward(self, images: Tensor) -> Tensor:
            tokens = self.patches(images).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.class_token.expand(len(images), -1, -1), tokens], 1)
            return self.head(self.encoder(tokens)[:, 0])

    return Encoder()


def maps(kind: Any, h: int, w: int, prefix: int = 0) -> Layout:
    return Layout(kind, (h, w), prefix)


VIT = {"img_size": 64, "depth": 3, "embed_dim": 48, "num_heads": 3}
ATTENTION = [
    Case("timm-vit", from_timm("vit_tiny_patch16_224", **VIT), (64, 64),
         "blocks.2.norm1", maps(TOKENS, 4, 4, 1), (7, 48)),
    Case("timm-vit-oblong", from_timm("vit_tiny_patch16_224", **VIT | {"img_size": (48, 96)}), (48, 96),
         "blocks.2.norm1", maps(TOKENS, 3, 6, 1), (7, 48)),
    Case("timm-vit-dynamic", from_timm("vit_tiny_patch16_224", **VIT, dynamic_img_size=True), (96, 64),
         "blocks.2.norm1", maps(TOKENS, 6, 4, 1), (7, 48)),
    Case("timm-vit-padded", from_timm("vit_tiny_patch16_224", **VIT, dynamic_img_size=True, dynamic_img_pad=True),
         (76, 108), "blocks.2.norm1", maps(TOKENS, 5, 7, 1), (7, 48)),
    Case("timm-vit-patch-mean", from_timm("vit_tiny_patch16_224", **VIT, global_pool="avg"), (64, 64),
         "blocks.2.norm1", maps(TOKENS, 4, 4, 1), (7, 48)),
    Case("timm-vit-registers", from_timm("vit_little_patch16_reg4_gap_256", **VIT), (64, 64),
         "blocks.2.norm1", maps(TOKENS, 4, 4, 4), (7, 48)),
    Case("timm-deit-distilled", from_timm("deit_tiny_distilled_patch16_224", **VIT), (64, 64),
         "blocks.2.norm1", maps(TOKENS, 4, 4, 2), (7, 48)),
    Case("timm-dinov2", from_timm("vit_small_patch14_dinov2", **VIT | {"img_size": (56, 84)}), (56, 84),
         "blocks.2.norm1", maps(TOKENS, 4, 6, 1), (7, 48)),
    Case("timm-dinov2-registers", from_timm("vit_small_patch14_reg4_dinov2", **VIT | {"img_size": 56}), (56, 56),
         "blocks.2.norm1", maps(TOKENS, 4, 4, 5), (7, 48)),
    Case("timm-dinov3", from_timm("vit_small_patch16_dinov3", depth=3, embed_dim=48, num_heads=3), (64, 96),
         "blocks.2.norm1", maps(TOKENS, 4, 6, 5), (7, 48)),
    Case("timm-siglip", from_timm("vit_base_patch16_siglip_224", **VIT), (64, 64),
         "blocks.2.norm1", maps(TOKENS, 4, 4), (7, 48)),
    Case("timm-siglip-patch-mean", from_timm("vit_base_patch16_siglip_gap_224", **VIT), (64, 64),
         "blocks.2.norm1", maps(TOKENS, 4, 4), (7, 48)),
    Case("timm-aimv2", from_timm("aimv2_large_patch14_224", **VIT | {"img_size": 56}), (56, 56),
         "blocks.2.norm1", maps(TOKENS, 4, 4), (7, 48)),
    Case("timm-naflex", from_timm("naflexvit_base_patch16_gap", depth=3, embed_dim=48, num_heads=3), (64, 96),
         "blocks.2.norm1", maps(TOKENS, 4, 6, 4), (7, 48)),
    Case("timm-eva02", from_timm("eva02_tiny_patch14_224", **VIT | {"img_size": 56}), (56, 56),
         "blocks.2.norm1", maps(TOKENS, 4, 4, 1), (7, 48)),
    Case("timm-beit", from_timm("beit_base_patch16_224", **VIT), (64, 64),
         "blocks.2.norm1", maps(TOKENS, 4, 4, 1), (7, 48)),
    Case("timm-post-norm", from_timm("vit_base_patch16_rpn_224", **VIT), (64, 64),
         "blocks.1", maps(TOKENS, 4, 4), (7, 48)),
    Case("timm-fused-attention", from_timm("vit_base_patch16_xp_224", **VIT), (64, 64),
         "blocks.2.in_norm", maps(TOKENS, 4, 4, 1), (7, 48)),
    Case("timm-cait", from_timm("cait_xxs24_224", img_size=64, depth=2, embed_dim=48, num_heads=3), (64, 64),
         "blocks_token_only.1.norm1", maps(TOKENS, 4, 4, 1), (7, 48)),
    Case("timm-xcit", from_timm("xcit_nano_12_p16_224", img_size=64, depth=2), (64, 96),
         "cls_attn_blocks.1.norm1", maps(TOKENS, 4, 6, 1), (7, 128)),
    Case("timm-convit", from_timm("convit_tiny", img_size=64, depth=3, local_up_to_layer=2), (64, 64),
         "blocks.2.norm1", maps(TOKENS, 4, 4, 1), (7, 192)),
    Case("tv-vit", lambda: tv.VisionTransformer(64, 16, 3, 2, 32, 48, num_classes=7), (64, 64),
         "encoder.layers.encoder_layer_2.ln_1", maps(TOKENS, 4, 4, 1), (7, 32)),
    Case("hf-vit", from_hf("ViT", **SMALL), (64, 64),
         "vit.layers.2.layernorm_before", maps(TOKENS, 4, 4, 1), (7, 32)),
    Case("hf-deit", from_hf("DeiT", **SMALL), (64, 64),
         "deit.layers.2.layernorm_before", maps(TOKENS, 4, 4, 2), (7, 32)),
    Case("hf-dinov2", from_hf("Dinov2", **SMALL), (64, 96),
         "dinov2.encoder.layer.2.norm1", maps(TOKENS, 4, 6, 1), (7, 64)),
    Case("hf-dinov2-registers", from_hf("Dinov2WithRegisters", **SMALL), (96, 64),
         "dinov2_with_registers.encoder.layer.2.norm1", maps(TOKENS, 6, 4, 5), (7, 64)),
    Case("hf-dinov3-patch-mean", lambda: Headed(
            hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, num_register_tokens=4)), 32, "patches"), (64, 96),
         "tower.model.layer.2.norm1", maps(TOKENS, 4, 6, 5), (7, 32)),
    Case("hf-aimv2-patch-mean", lambda: Headed(hf.Aimv2VisionModel(hf.Aimv2VisionConfig(**SMALL)), 32, "all"), (64, 64),
         "tower.encoder.layers.2.rms_norm1", maps(TOKENS, 4, 4), (7, 32)),
    Case("hf-clip", from_hf("CLIP", vision_config=SMALL, text_config=TEXT | {"eos_token_id": 2}), (64, 64),
         "vision_model.encoder.layers.2.layer_norm1", maps(TOKENS, 4, 4, 1), (7, 32)),
    Case("hf-siglip", from_hf("Siglip", vision_config=SMALL, text_config=TEXT), (64, 64),
         "vision_model.encoder.layers.2.layer_norm1", maps(TOKENS, 4, 4), (7, 32)),
    Case("hf-pvt", from_hf("Pvt", image_size=64, hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 1, 1],
                           num_attention_heads=[1, 1, 2, 2]), (64, 64),
         "pvt.encoder.block.3.0.layer_norm_1", maps(TOKENS, 2, 2, 1), (7, 32)),
    Case("clip-cls", clip_tower(pool_type="tok"), (64, 64),
         "tower.transformer.resblocks.2.ln_1", maps(TOKENS, 4, 4, 1), (7, 24)),
    Case("clip-patch-mean", clip_tower(pool_type="avg"), (64, 64),
         "tower.transformer.resblocks.2.ln_1", maps(TOKENS, 4, 4, 1), (7, 24)),
    Case("clip-oblong", clip_tower(image_size=(64, 96)), (64, 96),
         "tower.transformer.resblocks.2.ln_1", maps(TOKENS, 4, 6, 1), (7, 24)),
    Case("clip-attention-pool", clip_tower(attentional_pool=True, attn_pooler_heads=2), (64, 64),
         "tower.transformer.resblocks.2.ln_1", maps(TOKENS, 4, 4, 1), (7, 24)),
    Case("torch-post-norm-cls", post_norm_encoder, (64, 96),
         "encoder.layers.1", maps(TOKENS, 4, 6, 1), (7, 32)),
]  # fmt: skip

SWIN = {"embed_dim": 16, "depths": (1, 1, 2), "num_heads": (1, 2, 2), "window_size": 4}
NARROW = {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 32)}
HF_STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}
MAPS = [
    Case("timm-hybrid", from_timm("vit_tiny_r_s16_p8_224", img_size=64, depth=2), (64, 64),
         "blocks.1.norm1", maps(TOKENS, 2, 2, 1), (7, 192)),
    Case("timm-resnet", from_timm("resnet18"), (64, 96), "layer4", maps(NCHW, 2, 3), (7, 512)),
    Case("timm-convnext", from_timm("convnext_atto", **NARROW), (64, 96), "stages", maps(NCHW, 2, 3), (7, 32)),
    Case("timm-efficientnet", from_timm("efficientnet_b0"), (96, 64), "bn2", maps(NCHW, 3, 2), (7, 1280)),
    Case("timm-mobilenetv2-same", from_timm("mobilenetv2_035", pad_type="same"), (70, 100),
         "bn2", maps(NCHW, 3, 4), (7, 1280)),
    Case("timm-mobilenetv3", from_timm("mobilenetv3_small_050"), (64, 96),
         "blocks", maps(NCHW, 2, 3), (7, 1024)),
    Case("timm-densenet", from_timm("densenet121", growth_rate=8, block_config=(2, 2, 2, 2)), (64, 96),
         "features", maps(NCHW, 2, 3), (7, 32)),
    Case("timm-efficientvit", from_timm("efficientvit_b0"), (64, 96),
         "head.in_conv", maps(NCHW, 2, 3), (7, 1280)),
    Case("timm-resnet-attention-pool", lambda: ByobNet(ByoModelCfg(
            blocks=(ByoBlockCfg("bottle", d=1, c=16, s=2, gs=0), ByoBlockCfg("bottle", d=1, c=64, s=2, gs=0)),
            stem_chs=8, head_type="attn_abs"), num_classes=7, img_size=64), (64, 64),
         "stages", maps(NCHW, 4, 4), (7, 64)),
    Case("timm-swin", from_timm("swin_tiny_patch4_window7_224", img_size=(64, 96), **SWIN), (64, 96),
         "norm", maps(NHWC, 4, 6), (7, 64)),
    Case("timm-davit", from_timm("davit_tiny", depths=(1, 1), embed_dims=(16, 32), num_heads=(2, 2)), (64, 96),
         "stages", maps(NCHW, 8, 12), (7, 32)),
    Case("timm-maxvit", from_timm("maxvit_pico_rw_256", img_size=(64, 96)), (64, 96),
         "norm", maps(NCHW, 2, 3), (7, 256)),
    Case("timm-poolformer", lambda: MetaFormer(num_classes=7, use_mlp_head=False, **NARROW), (64, 96),
         "stages", maps(NCHW, 2, 3), (7, 32)),
    Case("timm-mobilevit", from_timm("mobilevit_xxs"), (64, 64), "final_conv", maps(NCHW, 2, 2), (7, 320)),
    Case("timm-mixer", lambda: MlpMixer(7, 64, num_blocks=2, embed_dim=48), (64, 64),
         "norm", maps(TOKENS, 4, 4), (7, 48)),
    Case("timm-hiera", from_timm("hiera_tiny_224", embed_dim=16, stages=(1, 1, 1, 1), img_size=(64, 96)), (64, 96),
         "blocks.3", maps(TOKENS, 2, 3), (7, 128)),
    Case("timm-mvit", lambda: MultiScaleVit(
            MultiScaleVitCfg(depths=(1, 2), embed_dim=(16, 32), num_heads=(1, 2)), 64, num_classes=7), (64, 64),
         "norm", maps(TOKENS, 8, 8), (7, 32)),
    Case("tv-squeezenet", lambda: tv.squeezenet1_1(num_classes=7), (96, 128),
         "features", maps(NCHW, 5, 7), (7, 512)),
    Case("tv-mobilenetv3", lambda: tv.mobilenet_v3_small(num_classes=7), (64, 96),
         "features", maps(NCHW, 2, 3), (7, 1024)),
    Case("tv-shufflenet", lambda: tv.shufflenet_v2_x0_5(num_classes=7), (64, 96),
         "conv5", maps(NCHW, 2, 3), (7, 1024)),
    Case("timm-vgg", lambda: VGG([8, "M", 16, "M", 24, "M"], num_classes=7), (40, 48),
         "features.7", maps(NCHW, 10, 12), (7, 4096)),
    Case("tv-swin", lambda: tv.SwinTransformer([4, 4], 16, [1, 1], [1, 2], [4, 4], num_classes=7), (64, 96),
         "norm", maps(NHWC, 8, 12), (7, 32)),
    Case("hf-swin", from_hf("Swin", image_size=64, patch_size=4, **SWIN), (64, 96),
         "swin.layernorm", maps(TOKENS, 4, 6), (7, 64)),
    Case("hf-convnext", from_hf("ConvNext", **HF_STAGES), (64, 96),
         "convnext.encoder.stages.3", maps(NCHW, 2, 3), (7, 32)),
    Case("hf-resnet", from_hf("ResNet", embedding_size=8, **HF_STAGES), (64, 96),
         "resnet.encoder.stages.3", maps(NCHW, 2, 3), (7, 32)),
    Case("hf-hiera", from_hf("Hiera", image_size=[64, 64], embed_dim=16, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]),
         (64, 64), "hiera.encoder.stages.3", maps(TOKENS, 2, 2), (7, 128)),
    Case("tv-densenet", lambda: tv.DenseNet(8, (2, 2, 2, 2), 16, num_classes=7), (64, 96),
         "features", maps(NCHW, 2, 3), (7, 32)),
    Case("clip-resnet", clip_tower(layers=[1, 1, 1, 1], width=8), (64, 64),
         "tower.layer4", maps(NCHW, 2, 2), (7, 24)),
]  # fmt: skip
CASES = ATTENTION + MAPS


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """On tiny tensors threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def build_named(name: str) -> nn.Module:
    case = next(case for case in CASES if case.name == name)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = case.build().eval()
        for parameter in model.parameters():  # zero heads and layer scales of an untrained model hide everything
            if not parameter.any() or parameter.abs().max() < 1e-3:
                nn.init.normal_(parameter, std=0.2)
    return model


def build(case: Case) -> nn.Module:
    return build_named(case.name)


def run_with_layer(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and the layer's output, which is a leaf of the graph."""
    kept: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        tensor = output[0] if isinstance(output, tuple) else output
        kept.append(tensor.detach().requires_grad_())
        return (kept[0].clone(), *output[1:]) if isinstance(output, tuple) else kept[0].clone()

    handle = layer.register_forward_hook(hook)
    output = model(images)
    handle.remove()
    return output if isinstance(output, Tensor) else output.logits, kept[0]


def zeros_like(output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(zeros_like(one) for one in output)
    return torch.zeros_like(output) if isinstance(output, Tensor) else output


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layer_grid_gradient_head(case: Case) -> None:
    model = build(case)
    images = torch.randn(2, 3, *case.size, generator=torch.Generator().manual_seed(1))
    ((name, layer),) = resolve_layers(model, None, images)
    assert name == case.layer
    assert layer is model.get_submodule(name)

    logits, activation = run_with_layer(model, layer, images)
    layout = find_layout(activation.shape, images.shape, model)
    assert layout == case.layout

    (gradient,) = torch.autograd.grad(logits[:, 3].sum(), activation)
    strength = layout.to_maps(gradient).abs().sum(1)
    assert strength.shape == (2, *case.layout.grid)
    assert (strength > 0).float().mean() > 0.9 or case.name == "tv-squeezenet"  # a ReLU follows its class maps
    assert strength.max() > 0

    head = linear_head(model, 7)
    assert head is not None
    assert tuple(head[0].shape) == case.head
    assert head[1] is None or head[1].shape == (7,)


@pytest.mark.parametrize("case", [c for c in CASES if c.layout.kind != NCHW], ids=lambda case: case.name)
def test_activation_changes_where_the_image_does(case: Case) -> None:
    """A wrong token order, a missed prefix or a transposed grid moves the change elsewhere."""
    model = build(case)
    images = 0.1 * torch.randn(1, 3, *case.size, generator=torch.Generator().manual_seed(2))
    layer = model.get_submodule(case.layer)
    h, w = case.layout.grid
    high, wide = math.ceil(case.size[0] / h), math.ceil(case.size[1] / w)
    with torch.no_grad():
        before = case.layout.to_maps(run_with_layer(model, layer, images)[1])
        for row, column in ((0, w - 1), (h - 1, 0)):
            painted = images.clone()
            painted[:, :, row * high : (row + 1) * high, column * wide : (column + 1) * wide] += 3
            after = case.layout.to_maps(run_with_layer(model, layer, painted)[1])
            change = (after - before).square().sum(1)[0]
            if case in ATTENTION:  # each token stays with its patch
                assert divmod(int(change.argmax()), w) == (row, column)
            else:  # convolutions spread, and their padding weakens the corner itself
                rows, columns = change.sum(1) / change.sum(), change.sum(0) / change.sum()
                assert abs(rows @ torch.arange(float(h)) - row) < (h - 1) / 2
                assert abs(columns @ torch.arange(float(w)) - column) < (w - 1) / 2


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_logits_depend_on_the_image_through_the_layer_alone(case: Case) -> None:
    """With zeros in its place two images have the same logits; only entrances of transformer blocks have a bypass."""
    model = build(case)
    images = torch.randn(2, 3, *case.size, generator=torch.Generator().manual_seed(4))
    layer = model.get_submodule(case.layer)
    handle = layer.register_forward_hook(lambda _m, _i, out: zeros_like(out))
    with torch.no_grad():
        output = model(images)
        handle.remove()
        usual = model(images)
    blank, usual = (one if isinstance(one, Tensor) else one.logits for one in (output, usual))
    difference, left = (float((logits[0] - logits[1]).abs().max()) for logits in (usual, blank))
    assert difference > 0
    assert left <= 1e-3 * difference or is_entrance(case)


def is_entrance(case: Case) -> bool:
    """Whether a layer is the normalisation at a block's entrance, beside a residual connection."""
    leaf = case.layer.rpartition(".")[2]
    return leaf in ("norm1", "ln_1", "layernorm_before", "layer_norm1", "layer_norm_1", "rms_norm1", "in_norm")


DENSE: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "fcn": (lambda: tv.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=7), "classifier.2"),
    "fcn-aux": (
        lambda: tv.segmentation.fcn_resnet50(weights=None, weights_backbone=None, num_classes=7, aux_loss=True),
        "classifier.2",
    ),
    "deeplabv3": (
        lambda: tv.segmentation.deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7),
        "classifier.3",
    ),
    "lraspp": (
        lambda: tv.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=7),
        "classifier.cbr",
    ),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_models_are_explained_before_their_class_maps(name: str) -> None:
    """`scores=` picks the logits; maps of class scores and auxiliary heads are no features of theirs."""
    build_model, expected = DENSE[name]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = build_model().train()
        for _ in range(3):
            model(images)  # statistics with which the features don't vanish
    model.eval()
    ((layer, _),) = resolve_layers(model, None, images, scores=lambda output: output["out"].mean((2, 3)))
    assert layer == expected


def test_a_functional_relu_after_the_layer_belongs_to_it() -> None:
    """torchvision's DenseNet: the maps have the contrast of the head over what the head reads."""
    model: Any = build_named("tv-densenet")
    images = torch.randn(3, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    for method in ("gradcam", "hirescam"):
        answer = FinerCAM(model, method=method, gamma=0.6)(images, target=2, against=[5])
        with torch.no_grad():
            read = model.features(images).relu()
            row = model.classifier.weight[2] - 0.6 * model.classifier.weight[5]
            contrast = torch.einsum("nchw,c->nhw", read, row)
        for ours, true in zip(answer.signed, contrast, strict=True):
            assert float(torch.corrcoef(torch.stack([ours.flatten(), true.flatten()]))[0, 1]) >= 0.999


STAGES = {
    "timm-resnet": ["layer1", "layer2", "layer3", "layer4"],
    "timm-mobilenetv2-same": ["blocks.2.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1", "bn2"],
    "timm-efficientnet": ["blocks.2.0.bn1", "blocks.3.0.bn1", "blocks.5.0.bn1", "bn2"],
    "timm-swin": ["layers.0", "layers.1", "norm"],
    "timm-hybrid": ["patch_embed.backbone.norm", "patch_embed.backbone", "blocks.1.norm1"],
    "hf-convnext": [f"convnext.encoder.stages.{stage}.downsampling_layer.0" for stage in (1, 2, 3)]
    + ["convnext.encoder.stages.3"],
    "clip-resnet": ["tower.layer1", "tower.layer2", "tower.layer3", "tower.layer4"],
}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_all_that_is_known_of_an_image_passes_each_stage(case: Case) -> None:
    model = build(case)
    images = torch.randn(2, 3, *case.size, generator=torch.Generator().manual_seed(1))
    (last,) = resolve_layers(model, None, images)
    stages = find_stages(model, last, images)
    layers = stages.coarsest(4)
    assert layers[-1] == last
    many_grids = ("hf-pvt", "timm-xcit")  # pyramids, and a stem of convolutions
    assert stages.tokens == ((case in ATTENTION and case.name not in many_grids) or case.name == "timm-mixer")
    assert len(layers) > 1 or case in ATTENTION or case.name == "timm-mixer"
    if case.name in STAGES:
        assert [name for name, _ in layers] == STAGES[case.name]
    cells = [math.prod(grid_of(model, layer, images)) for _, layer in layers]
    assert cells == sorted(set(cells), reverse=True)
    for _, layer in layers[:-1]:
        logits, _ = run_with_constant(model, layer, images)
        torch.testing.assert_close(logits[0], logits[1], rtol=1e-4, atol=1e-5)


def grid_of(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[int, int]:
    _, activation = run_with_constant(model, layer, images)
    return find_layout(activation.shape, images.shape, model, layer=layer).grid


def run_with_constant(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits where the layer gives the same for each image, and what it gives."""
    seen: list[Tensor] = []

    def hook(_module: nn.Module, _inputs: Any, output: Any) -> Any:
        tensor = output[0] if isinstance(output, tuple) else output
        seen.append(tensor)
        constant = torch.full_like(tensor, 0.1)
        return (constant, *output[1:]) if isinstance(output, tuple) else constant

    handle = layer.register_forward_hook(hook)
    with torch.no_grad():
        output = model(images)
    handle.remove()
    return output if isinstance(output, Tensor) else output.logits, seen[0]


def test_there_are_enough_architectures() -> None:
    assert len({case.layer.split(".")[0] + case.name for case in CASES}) >= 50
    assert all(sum(case.name.startswith(zoo) for case in CASES) >= 5 for zoo in ("timm", "tv", "hf", "clip"))
