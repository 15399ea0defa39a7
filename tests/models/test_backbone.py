"""Backbones: pooling, token layout, target layer and exact gradients, over small random models of the real classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAM, FinerCAMError, load_model
from finercam.models.architectures import build_tower
from finercam.models.backbone import Backbone, load_backbone
from finercam.models.native import any_size
from finercam.models.probed import Probed, probed, save_probed
from finercam.models.towers import OpenClipTower, positions, tower_of

pytestmark = pytest.mark.slow  # imports the libraries of models

SMALL = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 48}
SMALL |= {"image_size": 64, "patch_size": 16}
VIT = {"depth": 3, "embed_dim": 48, "num_heads": 3, "num_classes": 0}


@pytest.fixture(scope="module", autouse=True)
def libraries() -> None:
    """Imported when the first test runs, so that collecting the tests stays cheap."""
    global ModifiedResNet, TimmModel, hf, open_clip, timm
    import open_clip.model
    import timm
    import transformers as hf
    from open_clip.modified_resnet import ModifiedResNet
    from open_clip.timm_model import TimmModel


def clip_visual(**options: Any) -> Any:
    vision = {"image_size": 64, "patch_size": 16, "layers": 3, "width": 64, "head_width": 32} | options
    text = {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1}
    return open_clip.model.CLIP(24, vision, text).visual


def timm_vit(name: str, **options: Any) -> nn.Module:
    return timm.create_model(name, **VIT | {"dynamic_img_size": True} | options)


class HubDino(nn.Module):
    """The outside of the DINOv2 code: named tokens out of `forward_features`."""

    patch_size = 14

    def __init__(self) -> None:
        super().__init__()
        self.vit = timm_vit("vit_small_patch14_reg4_dinov2", img_size=56)
        self.vit.norm = nn.LayerNorm(48)

    def get_intermediate_layers(self) -> None: ...

    def forward_features(self, x: Tensor) -> dict[str, Tensor]:
        tokens = self.vit.forward_features(x)
        return {"x_norm_clstoken": tokens[:, 0], "x_norm_patchtokens": tokens[:, 5:]}


class Case(NamedTuple):
    build: Callable[[], nn.Module]
    size: tuple[int, int]
    layer: str  # that FinerCAM should find
    norm: str  # the last normalisation of the patch tokens
    prefix: int
    pools: str


TRANSFORMERS = {
    "timm-vit": Case(lambda: timm_vit("vit_tiny_patch16_224", img_size=64), (48, 96),
                     "blocks.2.norm1", "norm", 1, "avg tok own"),
    "timm-dinov2": Case(lambda: timm_vit("vit_small_patch14_dinov2", img_size=56), (56, 84),
                        "blocks.2.norm1", "norm", 1, "avg tok own"),
    "timm-dinov2-registers": Case(lambda: timm_vit("vit_small_patch14_reg4_dinov2", img_size=56), (42, 70),
                                  "blocks.2.norm1", "norm", 5, "avg tok own"),
    "timm-dinov3": Case(lambda: timm_vit("vit_small_patch16_dinov3"), (64, 96),
                        "blocks.2.norm1", "norm", 5, "avg tok own"),
    "timm-clip": Case(lambda: timm_vit("vit_base_patch16_clip_224", img_size=64), (64, 48),
                      "blocks.2.norm1", "norm", 1, "avg tok own"),
    "timm-siglip": Case(lambda: timm_vit("vit_base_patch16_siglip_224", img_size=64), (64, 48),
                        "blocks.2.norm1", "norm", 0, "avg attn own"),
    "hf-dinov2": Case(lambda: hf.Dinov2Model(hf.Dinov2Config(**SMALL)), (64, 96),
                      "encoder.layer.2.norm1", "layernorm", 1, "avg tok"),
    "hf-dinov2-registers": Case(lambda: hf.Dinov2WithRegistersModel(hf.Dinov2WithRegistersConfig(**SMALL)), (96, 64),
                                "encoder.layer.2.norm1", "layernorm", 5, "avg tok"),
    "hf-dinov3": Case(lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, num_register_tokens=4)), (64, 96),
                      "model.layer.2.norm1", "norm", 5, "avg tok"),
    "hf-vit": Case(lambda: hf.ViTModel(hf.ViTConfig(**SMALL), add_pooling_layer=False), (64, 48),
                   "layers.2.layernorm_before", "layernorm", 1, "avg tok"),
    "hf-clip": Case(lambda: hf.CLIPVisionModelWithProjection(hf.CLIPVisionConfig(**SMALL, projection_dim=24)),
                    (64, 96), "vision_model.encoder.layers.2.layer_norm1", "vision_model.post_layernorm", 1, "avg tok"),
    "hf-siglip": Case(lambda: hf.SiglipVisionModel(hf.SiglipVisionConfig(**SMALL)), (64, 96),
                      "encoder.layers.2.layer_norm1", "post_layernorm", 0, "avg attn"),
    "open-clip": Case(clip_visual, (64, 96), "transformer.resblocks.2.ln_1", "ln_post", 1, "avg tok own"),
    "open-clip-ln-after-pool": Case(lambda: clip_visual(final_ln_after_pool=True), (48, 64),
                                    "transformer.resblocks.2.ln_1", "", 1, "avg tok own"),
    "hub-dino": Case(HubDino, (56, 84), "vit.blocks.2.norm1", "vit.norm", 5, "avg tok own"),
}  # fmt: skip


def made(case: Case, seeded: Callable[..., nn.Module], pool: str = "avg") -> Probed:
    """A tower with a head of 7 classes, seeded, in float64."""
    tower = tower_of(seeded(case.build()).double(), pool)
    dim = tower(torch.zeros(1, 3, *case.size, dtype=torch.float64)).shape[1]
    return seeded(Probed(tower, nn.Linear(dim, 7)).double()).eval()


def logits_with(model: Probed, layer: str, images: Tensor, change: Tensor) -> Tensor:
    """Logits when something is added to a layer's output."""
    hook = model.get_submodule(layer).register_forward_hook(lambda _m, _i, out: out + change)
    try:
        with torch.no_grad():
            return model(images)
    finally:
        hook.remove()


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_layer_layout_and_gradient(name: str, toys: Any, pictures: Any) -> None:
    """Non-square input: the last block's first norm is the layer, CLS and registers are dropped, and the gradient
    of the contrast there is that of finite differences."""
    case = TRANSFORMERS[name]
    model = made(case, toys.seeded)
    images = pictures(1, case.size, dtype=torch.float64)
    explain = FinerCAM(model, gamma=0.6, preset="measured")
    answer = explain(images, target=2, against=[[0, 5]])
    layer = f"backbone.model.{case.layer}"
    assert explain.layers == (layer,)
    source = explain.capture(images)
    run, layout = source.run, source.layouts[0]
    patch = model.backbone.multiple
    assert layout.grid == (case.size[0] // patch, case.size[1] // patch)
    assert layout.prefix == case.prefix
    direction = torch.tensor([-0.3, 0, 1, 0, 0, -0.3, 0], dtype=torch.float64)
    tokens = run.activations[0].detach()
    generator = torch.Generator().manual_seed(3)
    gradient = torch.autograd.grad(run.logits[0] @ direction, run.activations[0])[0]
    for _ in range(2):
        step = torch.randn(tokens.shape, generator=generator, dtype=torch.float64)
        eps = 1e-5
        rise = logits_with(model, layer, images, eps * step) - logits_with(model, layer, images, -eps * step)
        expected = float((rise[0] * direction).sum() / (2 * eps))
        assert float((gradient * step).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-9)
    weights = layout.to_maps(gradient).mean((2, 3))
    signed = torch.einsum("nc,nchw->nhw", weights, layout.to_maps(tokens))
    torch.testing.assert_close(answer.signed.double(), signed, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", [name for name, case in TRANSFORMERS.items() if case.norm])
def test_mean_pooled_head_at_the_last_norm_obeys_equation_4(name: str, toys: Any, pictures: Any) -> None:
    """α is the head's row (through CLIP's projection) over the number of patches, exactly; so is the map."""
    case = TRANSFORMERS[name]
    model = made(case, toys.seeded)
    images = pictures(2, case.size, dtype=torch.float64)
    answer = FinerCAM(model, gamma=0.6, layer=f"backbone.model.{case.norm}")(images, target=1, against=[3, 4])
    rows = model.head.weight.detach()
    projection: Any = getattr(model.backbone.model, "proj", None)
    if name == "hf-clip":
        projection = model.backbone.model.visual_projection.weight.T
    rows = rows if projection is None else rows @ projection.detach().T
    row = rows[1] - 0.6 * (rows[3] + rows[4]) / 2
    with torch.no_grad():
        patches = model.backbone.patches(images)
    grid = answer.signed.shape[1:]
    closed = (patches @ row).unflatten(1, grid) / patches.shape[1]
    torch.testing.assert_close(answer.signed.double(), closed, rtol=1e-5, atol=1e-10)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_poolings(name: str, toys: Any, pictures: Any) -> None:
    """What each tower says it has it has; they differ; what it has not is refused with what it has."""
    case = TRANSFORMERS[name]
    model = toys.seeded(case.build()).double()
    images = pictures(2, case.size, dtype=torch.float64)
    features = []
    for pool in ("avg", "tok", "attn"):
        if pool in case.pools.split():
            with torch.no_grad():
                features.append(tower_of(model, pool)(images))
            continue
        with pytest.raises(FinerCAMError, match=r"cannot pool as .*it has avg"):
            tower_of(model, pool)
    assert len(features) == 2
    assert not torch.allclose(*features, rtol=1e-2)


def test_mean_of_normalised_patch_tokens_by_hand(toys: Any, pictures: Any) -> None:
    images = pictures(2, (64, 96))
    with torch.no_grad():
        dino = toys.seeded(TRANSFORMERS["hf-dinov2-registers"].build())
        by_hand = dino(images).last_hidden_state[:, 5:].mean(1)
        torch.testing.assert_close(tower_of(dino)(images), by_hand)
        dino = toys.seeded(TRANSFORMERS["timm-dinov3"].build())
        by_hand = dino.forward_features(images)[:, 5:].mean(1)
        torch.testing.assert_close(tower_of(dino)(images), by_hand)
        clip = toys.seeded(clip_visual(pool_type="avg"))
        square = images[..., :64]
        torch.testing.assert_close(tower_of(clip)(square), clip(square))
        clip.pool_type = "tok"
        torch.testing.assert_close(tower_of(clip, "tok")(square), clip(square))


def as_transformers(visual: Any) -> nn.Module:
    """transformers' CLIP tower with the weights of open_clip's."""
    config = hf.CLIPVisionConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=2, intermediate_size=256, image_size=64,
        patch_size=16, projection_dim=24, hidden_act="gelu",
    )  # fmt: skip
    tower: Any = hf.CLIPVisionModelWithProjection(config)
    vision = tower.vision_model
    vision.embeddings.class_embedding.copy_(visual.class_embedding)
    vision.embeddings.patch_embedding.weight.copy_(visual.conv1.weight)
    vision.embeddings.position_embedding.weight.copy_(visual.positional_embedding)
    tower.visual_projection.weight.copy_(visual.proj.T)
    vision.pre_layrnorm.load_state_dict(visual.ln_pre.state_dict())
    vision.post_layernorm.load_state_dict(visual.ln_post.state_dict())
    for theirs, ours in zip(vision.encoder.layers, visual.transformer.resblocks, strict=True):
        theirs.layer_norm1.load_state_dict(ours.ln_1.state_dict())
        theirs.layer_norm2.load_state_dict(ours.ln_2.state_dict())
        theirs.mlp.fc1.load_state_dict(ours.mlp.c_fc.state_dict())
        theirs.mlp.fc2.load_state_dict(ours.mlp.c_proj.state_dict())
        theirs.self_attn.out_proj.load_state_dict(ours.attn.out_proj.state_dict())
        names = ("q_proj", "k_proj", "v_proj")
        for name, weight, bias in zip(
            names, ours.attn.in_proj_weight.chunk(3), ours.attn.in_proj_bias.chunk(3), strict=True
        ):
            getattr(theirs.self_attn, name).weight.copy_(weight)
            getattr(theirs.self_attn, name).bias.copy_(bias)
    return tower.eval()


@torch.no_grad()
def test_open_clip_and_transformers_agree(toys: Any, pictures: Any) -> None:
    """The same CLIP weights in both libraries; at other sizes the two kinds of bicubic differ a little."""
    visual = toys.seeded(clip_visual())
    twin = as_transformers(visual)
    for size, tolerance in (((64, 64), 1e-5), ((64, 96), 5e-3), ((96, 112), 5e-3)):
        for pool in ("avg", "tok"):
            ours, theirs = tower_of(visual, pool)(pictures(2, size)), tower_of(twin, pool)(pictures(2, size))
            torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance * float(theirs.abs().max()))


@torch.no_grad()
def test_positions_are_resized_as_open_clip_resizes_them(toys: Any, pictures: Any) -> None:
    visual = toys.seeded(clip_visual(pool_type="avg"))
    for size in ((64, 96), (96, 48)):
        wide = open_clip.model.CLIP(
            24, {"image_size": size, "patch_size": 16, "layers": 3, "width": 64, "head_width": 32, "pool_type": "avg"},
            {"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
        )  # fmt: skip
        state = {f"visual.{name}": value for name, value in visual.state_dict().items()}
        open_clip.model.resize_pos_embed(state, wide)
        wide.load_state_dict(state, strict=False)
        images = pictures(2, size)
        torch.testing.assert_close(tower_of(visual)(images), wide.eval().visual(images))


def test_positions() -> None:
    table = torch.randn(17, 6, generator=torch.Generator().manual_seed(0))
    assert positions(table, (4, 4), (4, 4)) is table
    wide = positions(table, (4, 4), (4, 7))
    assert wide.shape == (29, 6)
    assert torch.equal(wide[0], table[0])
    flat = torch.cat([table[:1], torch.ones(16, 6)])
    torch.testing.assert_close(positions(flat, (4, 4), (9, 3))[1:], torch.ones(27, 6))
    # Rows stay rows: what only varies downwards does so afterwards.
    ramp = torch.cat([table[:1], torch.arange(4.0).repeat_interleave(4)[:, None].expand(16, 6)])
    tall = positions(ramp, (4, 4), (8, 5))[1:].unflatten(0, (8, 5))
    torch.testing.assert_close(tall, tall[:, :1].expand_as(tall))
    assert bool((tall[1:, 0] >= tall[:-1, 0]).all())


@torch.no_grad()
def test_cnns_pool_over_places(toys: Any, pictures: Any) -> None:
    images = pictures(2, (64, 96))
    resnet: Any = toys.seeded(timm.create_model("resnet10t", num_classes=0))
    tower = tower_of(resnet)
    torch.testing.assert_close(tower(images), resnet.forward_features(images).mean((2, 3)))
    torch.testing.assert_close(tower.patches(images).mean(1), tower(images))
    clip = toys.seeded(ModifiedResNet([1, 1, 1, 1], 24, 4, image_size=64, width=8))
    torch.testing.assert_close(tower_of(clip, "avg")(images), tower_of(clip).patches(images).mean(1))
    torch.testing.assert_close(tower_of(clip, "attn")(images[..., :64]), clip(images[..., :64]))
    assert tower_of(clip, "avg").resizable
    assert not tower_of(clip, "attn").resizable
    gap = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    torch.testing.assert_close(tower_of(gap)(images), gap[:3](images))
    assert isinstance(gap[3], nn.Linear), "the caller's own model keeps its head"
    with pytest.raises(FinerCAMError, match=r"cannot pool as 'avg'.*it has own"):
        tower_of(nn.Sequential(nn.Flatten(), nn.Linear(12288, 4), nn.Linear(4, 2)))


def test_whole_patches_only(toys: Any) -> None:
    tower = tower_of(toys.seeded(clip_visual()))
    with pytest.raises(FinerCAMError, match="64x100 pixels are no whole patches of 16"):
        tower(torch.zeros(1, 3, 64, 100))


# --- by name


def hf_folder(path: Path, model: Any) -> str:
    model.save_pretrained(path)
    settings = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}, "do_center_crop": True}
    settings |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.2]}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))
    return f"hf/{path}"


def hf_clip_folder(path: Path) -> str:
    """A whole CLIP, as the hub has them: two towers in one file."""
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = hf.CLIPConfig(vision_config=SMALL, text_config=text, projection_dim=20)
    return hf_folder(path, hf.CLIPModel(config))


NAMED: dict[str, Callable[[Path], str]] = {
    "timm-vit": lambda _: "timm/vit_tiny_patch16_224?pretrained=false&depth=2&embed_dim=48&num_heads=3&img_size=64",
    "timm-cnn": lambda _: "timm/test_resnet.r160_in1k?pretrained=false",
    "torchvision": lambda _: "torchvision/resnet18?pretrained=false&num_classes=5",
    "hf-dinov2": lambda path: hf_folder(path, hf.Dinov2Model(hf.Dinov2Config(**SMALL))),
    "hf-dinov3": lambda path: hf_folder(path, hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**SMALL, num_register_tokens=4))),
    "hf-vit": lambda path: hf_folder(path, hf.ViTForImageClassification(hf.ViTConfig(**SMALL))),
    "hf-clip": hf_clip_folder,
    "hf-siglip": lambda path: hf_folder(path, hf.SiglipVisionModel(hf.SiglipVisionConfig(**SMALL))),
    "hf-resnet": lambda path: hf_folder(
        path, hf.ResNetModel(hf.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]))
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_named_backbone_with_a_head_survives_the_disk(name: str, tmp_path: Path) -> None:
    """Written, read back by `load_model` without the library's weights, and equal to the last bit."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = load_backbone(NAMED[name](tmp_path / "zoo"), size=None if name in ("torchvision",) else 64)
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(3, backbone.dim, generator=generator), torch.randn(3, generator=generator)
    model = probed(backbone, weight, bias)
    save_probed(tmp_path / "out", model, backbone, ["a", "b", "c"], {"seed": 0})
    assert not list((tmp_path / "out").glob("*.p*"))
    loaded = load_model(tmp_path / "out")
    images = torch.randn(2, 3, 64, 64, generator=generator)
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images), model(images), rtol=0, atol=0)
        torch.testing.assert_close(model(images), backbone.features(images) @ weight.T + bias)
    assert loaded.class_names == ["a", "b", "c"]
    assert loaded.preprocess == backbone.preprocess
    assert loaded.source["provenance"]["backbone"] == backbone.name


def test_clip_of_transformers_is_its_image_tower(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = load_backbone(hf_clip_folder(tmp_path / "clip"), "tok")
    whole: Any = hf.CLIPModel.from_pretrained(tmp_path / "clip").eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        embeds = whole.visual_projection(whole.vision_model(images).pooler_output)
    torch.testing.assert_close(backbone.features(images), embeds)
    assert backbone.dim == 20
    assert backbone.preprocess.mean == (0.5, 0.4, 0.3)


def test_native_resolution() -> None:
    from PIL import Image

    text = "timm/vit_tiny_patch16_224?pretrained=false&depth=1&embed_dim=48&num_heads=3&img_size=64"
    backbone = load_backbone(text, native=True, max_side=100, normalise="clip")
    tensor = backbone.preprocess(Image.new("RGB", (200, 120)))
    assert tensor.shape == (3, 64, 112)  # 60 and 100, rounded up to whole patches
    assert backbone.features(tensor[None]).shape == (1, 48)
    assert backbone.patches(tensor[None]).shape == (1, 28, 48)
    assert backbone.preprocess.mean[0] == pytest.approx(0.48145466)


def test_fingerprint_tells_weights_apart() -> None:
    text = "timm/test_resnet?pretrained=false"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, other = load_backbone(text), load_backbone(text)
    again = Backbone(one.model, one.dim, one.preprocess, one.name)
    assert one.fingerprint == again.fingerprint != other.fingerprint
    assert one.settings()["preprocess"]["size"] == list(one.preprocess.size or ())


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("timm/test_resnet?pretrained=false", {"pool": "max"}, "pool='max' is not one of avg, tok, attn, own"),
        ("timm/test_resnet?pretrained=false", {"pool": "tok"}, "cannot pool as 'tok' here; it has avg, own"),
        ("timm/test_resnet?pretrained=false&pool=own", {"pool": "avg"}, "asks for pool=own, the call for pool=avg"),
        ("timm/vit_tiny_patch16_224?pretrained=false&depth=1", {"size": 100}, "no whole number of patches of 16"),
        ("timm/test_resnet?pretrained=false", {"normalise": "mean"}, "is not one of imagenet, clip"),
        ("timm/test_resnet?pretrained=false", {"native": True, "size": 64}, "leave size=64 out"),
        ("timm/no_such_model", {}, "no such model"),
        ("nothing/at/all", {}, "nothing/at/all"),
    ],
)
def test_what_cannot_be_had_is_told_in_one_line(text: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(FinerCAMError, match=message) as told:
        load_backbone(text, **options)
    assert "\n" not in str(told.value)


def test_a_hub_out_of_reach_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import socket

    def refused(*_: Any, **__: Any) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    for text in ("timm/vit_small_patch14_dinov2", "hf/nobody/nothing"):
        with pytest.raises(FinerCAMError, match="cannot be reached") as told:
            load_backbone(text)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "architecture",
    [
        {"library": "transformers", "name": "timm_wrapper", "kwargs": {}, "pool": "avg"},
        {"library": "transformers", "name": "../../etc", "kwargs": {}, "pool": "avg"},
        {"library": "pickle", "name": "x", "kwargs": {}, "pool": "avg"},
        {"library": "timm", "name": "resnet10t", "kwargs": {"checkpoint_path": "/x"}, "pool": "avg"},
        {"library": "timm", "name": "resnet10t"},
    ],
)
def test_a_folder_cannot_name_what_is_not_known(architecture: dict[str, Any]) -> None:
    with pytest.raises(FinerCAMError):
        build_tower(architecture)


def test_a_configuration_brings_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings that would make transformers fetch kernels or code are left out."""
    taboo = {"_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel"}
    taboo |= {"auto_map": {"AutoModel": "someone/code--x.Y"}, "_name_or_path": "someone/else"}
    tower: Any = build_tower(
        {"library": "transformers", "name": "dinov2", "kwargs": {**SMALL, **taboo}, "pool": "avg"}
    )
    assert "someone" not in json.dumps(tower.model.config.to_dict(), default=str)


def test_open_clip_without_patch_mean_says_so(toys: Any) -> None:
    coca = toys.seeded(clip_visual(attentional_pool=True))
    with pytest.raises(FinerCAMError, match="cannot pool as 'avg' here; it has attn, own"):
        OpenClipTower(coca, "avg")
    images = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(OpenClipTower(coca, "attn")(images), coca(images))


@torch.no_grad()
def test_open_clip_towers_made_by_timm(toys: Any, pictures: Any) -> None:
    """A model as SigLIP and EVA: a timm trunk with open_clip's projection; the trunk can be set to other sizes."""
    visual = toys.seeded(TimmModel("vit_tiny_patch16_224", 24, 224, pool="token", proj="linear"))
    square = pictures(1, 224)
    published = visual(square)
    torch.testing.assert_close(tower_of(visual, "tok")(square), published)
    assert not tower_of(visual).resizable
    tower = tower_of(any_size(visual))
    assert tower.resizable
    torch.testing.assert_close(tower_of(visual, "own")(square), published)
    oblong = pictures(2, (96, 128))
    by_hand = visual.head(tower.patches(oblong).mean(1))
    torch.testing.assert_close(tower(oblong), by_hand)
    assert tower.patches(oblong).shape[1] == 48


def test_a_head_must_read_the_backbone() -> None:
    backbone = load_backbone("timm/test_resnet?pretrained=false")
    with pytest.raises(FinerCAMError, match=rf"expected \(C, {backbone.dim}\)"):
        probed(backbone, torch.zeros(3, backbone.dim + 1))
    with pytest.raises(FinerCAMError, match="bias of shape"):
        probed(backbone, torch.zeros(3, backbone.dim), torch.zeros(4))
