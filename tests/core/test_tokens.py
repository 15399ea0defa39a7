"""The layers that stand for tokens: pixels, patch embedding and, with a CLS token, the last entrance."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finercam import FinerCAM, FinerCAMError, load_model

SIZES = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def layers_of(model, size: int = 32) -> tuple[str, ...] | None:
    explain = FinerCAM(model.eval(), "relevance", layer="tokens", fusion="product")
    answer = explain(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)), target=1, against=[0])
    assert answer.signed.shape[1:] == (size, size) and bool(answer.signed.isfinite().all())
    return explain.layers


@pytest.mark.slow
def test_layers_of_timm():
    timm = pytest.importorskip("timm")
    small = {"embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 7, "img_size": 32, "patch_size": 8}
    names = ("input", "patch_embed.proj", "blocks.1", "blocks.2.norm1")
    assert layers_of(timm.create_model("vit_tiny_patch16_224", **small)) == names
    deep = timm.create_model("vit_tiny_patch16_224", **{**small, "depth": 12})
    assert layers_of(deep) == ("input", "patch_embed.proj", "blocks.7", "blocks.11.norm1")
    averaged = timm.create_model("vit_tiny_patch16_224", **small, global_pool="avg", class_token=False)
    assert layers_of(averaged) == names[:2]
    assert layers_of(timm.create_model("vit_base_patch16_siglip_224", **small)) == names[:2]
    assert layers_of(timm.create_model("vit_small_patch14_reg4_dinov2", **small)) == names
    assert layers_of(timm.create_model("vit_small_patch16_dinov3", **small)) == names


@pytest.mark.slow
def test_layers_of_other_libraries():
    transformers = pytest.importorskip("transformers")
    vision = pytest.importorskip("torchvision.models.vision_transformer")
    clip = pytest.importorskip("open_clip.transformer")
    config = transformers.Dinov2Config(**SIZES, image_size=32, patch_size=8, num_labels=5)
    found = layers_of(transformers.Dinov2ForImageClassification(config))
    assert found[0] == "input" and found[1].endswith("patch_embeddings.projection") and found[-1].endswith("norm1")
    found = layers_of(vision.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5))
    assert found == ("input", "conv_proj", "encoder.layers.encoder_layer_0", "encoder.layers.encoder_layer_1.ln_1")
    tower = nn.Sequential(clip.VisionTransformer(32, 8, 24, 2, 2, 2.0, output_dim=12), nn.Linear(12, 5))
    assert layers_of(tower) == ("input", "0.conv1", "0.transformer.resblocks.0", "0.transformer.resblocks.1.ln_1")


def test_layers_of_the_built_in_model():
    assert layers_of(load_model("fieldguide/vit").model, 128) == ("input", "patch_embed.proj.4")


def test_a_cnn_has_no_tokens(toys, pictures):
    with pytest.raises(FinerCAMError, match="no tokens"):
        FinerCAM(toys.cnn(), "relevance", layer="tokens")(pictures(1), target=1)
