"""LeGrad, ShapleyCAM, ReciproCAM and SmoothGradCAM++ against slow references that share no code with them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import _get_current_function_mode_stack

from finercam import FinerCAM, FinerCAMError
from finercam.methods import smoothgrad

METHODS = ["legrad", "shapleycam", "reciprocam", "smoothgradcam++"]


def vit_with_weights(model: nn.Module, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits of the toy ViT written out, and its attention weights `(N, H, T, T)` as leaves of the graph."""
    x = model.embed(images).flatten(2).mT
    x = torch.cat([model.cls_token.expand(len(x), -1, -1), x], 1)
    leaves = []
    for block in model.blocks:
        y = block.norm1(x)
        qkv = F.linear(y, block.attn.in_proj_weight, block.attn.in_proj_bias)
        q, k, v = (t.unflatten(2, (block.attn.num_heads, -1)).transpose(1, 2) for t in qkv.chunk(3, -1))
        weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1)
        if not weights.requires_grad:
            weights.requires_grad_()
        leaves.append(weights)
        x = x + block.attn.out_proj((weights @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
    return model.head(x[:, 0]), leaves


@pytest.mark.parametrize("gamma", [0.0, 0.6])
def test_legrad_equals_gradients_of_written_out_attention(toys, pictures, gamma):
    model, images = toys.vit().requires_grad_(False), pictures(2)
    logits, leaves = vit_with_weights(model, images)
    found = torch.autograd.grad((logits[:, 1] - gamma * logits[:, 3]).sum(), leaves)
    expected = torch.stack([g.relu().mean((1, 2)) for g in found]).mean(0)[:, 1:].view(2, 4, 4)
    answer = FinerCAM(model, "legrad")(images, target=1, against=[3], gamma=gamma)
    torch.testing.assert_close(answer.signed, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_legrad_reads_the_attention_of_several_libraries(pictures):
    timm = pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers")
    vision = pytest.importorskip("torchvision.models.vision_transformer")
    clip = pytest.importorskip("open_clip.transformer")
    small = {"embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5, "img_size": 32, "patch_size": 8}
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    config = transformers.Dinov2Config(**sizes, image_size=32, patch_size=8, num_labels=5)
    towers = [
        timm.create_model("vit_tiny_patch16_224", **small),
        timm.create_model("vit_base_patch16_siglip_224", **small),
        timm.create_model("vit_small_patch16_dinov3", **small),
        vision.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=5),
        nn.Sequential(clip.VisionTransformer(32, 8, 24, 2, 2, 2.0, output_dim=12), nn.Linear(12, 5)),
        transformers.Dinov2ForImageClassification(config),
    ]
    for model in towers:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 2 and not parameter.any():
                    nn.init.normal_(parameter)
        answer = FinerCAM(model.eval(), "legrad")(pictures(2, size=32), target=1, against=[3])
        assert answer.signed.shape == (2, 4, 4) and bool((answer.signed > 0).any())


def test_legrad_refuses_a_model_without_attention(toys, pictures):
    with pytest.raises(FinerCAMError, match="attention"):
        FinerCAM(toys.cnn(), "legrad")(pictures(1), target=1)


def test_shapleycam_equals_a_hessian_that_is_written_down(toys, pictures):
    model, images = toys.vit().double(), pictures(1).double()
    with torch.no_grad():
        tokens = torch.cat([model.cls_token, model.embed(images).flatten(2).mT], 1)

    def margin(flat: Tensor) -> Tensor:
        logits = model.head(model.blocks(flat.view(tokens.shape))[:, 0])[0]
        return logits[1] - 0.6 * logits[3]

    flat = tokens.flatten()
    model.requires_grad_(False)
    with sdpa_kernel(SDPBackend.MATH):
        gradient = torch.autograd.functional.jacobian(margin, flat)
        hessian = torch.autograd.functional.hessian(margin, flat)
    weights = (gradient - 0.5 * hessian @ flat).view(tokens.shape)[0, 1:].mean(0)
    expected = (tokens[0, 1:] @ weights).view(1, 4, 4)

    class Joined(nn.Module):  # the layer whose output are the tokens
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([inner.cls_token.expand(len(x), -1, -1), inner.embed(x).flatten(2).mT], 1)

    inner = model
    whole = nn.Sequential(Joined(), model.blocks, nn.Flatten(), nn.Linear(17 * 8, 5)).double()
    with torch.no_grad():
        whole[3].weight.zero_()
        whole[3].weight[:, :8] = model.head.weight
        whole[3].bias.copy_(model.head.bias)
    answer = FinerCAM(whole, "shapleycam", layer="0")(images, target=1, against=[3], gamma=0.6)
    torch.testing.assert_close(answer.signed.double(), expected, rtol=1e-4, atol=1e-6)


def test_shapleycam_is_gradcam_where_the_tail_is_linear(toys, pictures):
    model, images = toys.gap(), pictures(2)
    shapley, plain = (FinerCAM(model, method)(images, target=1) for method in ("shapleycam", "gradcam"))
    torch.testing.assert_close(shapley.signed, plain.signed)


def test_reciprocam_equals_one_run_for_each_place(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    answer = FinerCAM(model, "reciprocam", layer="stage2")(images, target=1, against=[3], gamma=0.6)
    with torch.no_grad():
        maps = model.stage2(model.relu(model.stage1(images)))
        scores = torch.zeros_like(maps[:, 0])
        height, width = scores.shape[1:]
        for i in range(height):
            for j in range(width):
                window = torch.zeros(height, width)
                for a in range(height):
                    for b in range(width):
                        window[a, b] = max(0.0, 1 - abs(a - i) / 2) * max(0.0, 1 - abs(b - j) / 2)
                logits = model.head((maps * window).mean((2, 3)))
                scores[:, i, j] = logits[:, 1] - 0.6 * logits[:, 3]
    torch.testing.assert_close(answer.signed, scores - scores.mean((1, 2), keepdim=True), rtol=1e-4, atol=1e-5)


def test_reciprocam_keeps_the_cls_token(toys, pictures):
    model, images = toys.vit(), pictures(1)
    answer = FinerCAM(model, "reciprocam", layer="blocks.1.norm1", gamma=0.0)(images, target=1)
    block = model.blocks[1]
    with torch.no_grad():
        x = torch.cat([model.cls_token, model.embed(images).flatten(2).mT], 1)
        x = model.blocks[0](x)
        y = block.norm1(x) * torch.cat([torch.ones(1), torch.eye(16)[5] + 0.0])[None, :, None]
        for neighbour, weight in (
            (1, 0.5),
            (9, 0.5),
            (4, 0.5),
            (6, 0.5),
            (0, 0.25),
            (2, 0.25),
            (8, 0.25),
            (10, 0.25),
        ):
            y[:, 1 + neighbour] = block.norm1(x)[:, 1 + neighbour] * weight
        x = x + block.attn(y, y, y, need_weights=False)[0]
        logit = model.head((x + block.mlp(block.norm2(x)))[:, 0])[0, 1]
    offset = logit - answer.signed[0].flatten()[5]
    own = FinerCAM(model, "reciprocam", layer="blocks.1.norm1", gamma=0.0)
    assert math.isfinite(float(offset)) and own(images, target=1).signed.sum().abs() < 1e-4
    # The same offset, the mean over places, holds at every other place.
    with torch.no_grad():
        x = model.blocks[0](torch.cat([model.cls_token, model.embed(images).flatten(2).mT], 1))
        mask = torch.zeros(17)
        mask[0], mask[1], mask[2], mask[5], mask[6] = 1, 1, 0.5, 0.5, 0.25
        y = block.norm1(x) * mask[None, :, None]
        x = x + block.attn(y, y, y, need_weights=False)[0]
        corner = model.head((x + block.mlp(block.norm2(x)))[:, 0])[0, 1]
    torch.testing.assert_close(corner - answer.signed[0, 0, 0], offset, rtol=1e-4, atol=1e-4)


def test_smoothgradcam_equals_averages_over_noisy_runs(toys, pictures):
    model, images = toys.cnn().requires_grad_(False), pictures(1)
    answer = FinerCAM(model, "smoothgradcam++", layer="stage2", gamma=0.6)(images, target=1, against=[3])
    generator = torch.Generator().manual_seed(0)
    runs = []
    for _ in range(smoothgrad.COPIES):
        noise = torch.randn(3, 16, 16, generator=generator) * 0.15 * float(images.max() - images.min())
        maps = model.stage2(model.relu(model.stage1(images + noise))).detach().requires_grad_()
        logits = model.head(maps.mean((2, 3)))[0]
        (gradient,) = torch.autograd.grad(logits[1] - 0.6 * logits[3], maps)
        runs.append((maps.detach()[0].double(), gradient[0].double()))
    mean = sum(m for m, _ in runs) / len(runs)
    second, third = (sum(g**p for _, g in runs) / len(runs) for p in (2, 3))
    share = second / (2 * second + mean.sum((1, 2), keepdim=True) * third)
    weights = (share * (sum(g for _, g in runs) / len(runs)).clamp(min=0)).sum((1, 2))
    expected = torch.einsum("c,chw->hw", weights, mean)
    torch.testing.assert_close(answer.signed[0].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_other_strengths_need_no_run_and_the_model_is_left_as_found(toys, pictures, method):
    model, images = toys.vit().train(), pictures(2)
    explain = FinerCAM(model, method, layer="blocks.1.norm1", keep_images=False)
    answer = explain(images, target=1, against=[3])
    fresh = explain(images, target=1, against=[3], gamma=0.0)
    torch.testing.assert_close(answer.ask(gamma=0.0).signed, fresh.signed)
    plain = FinerCAM(model, method, layer="blocks.1.norm1")(images, target=1, against=[2], gamma=0.0)
    torch.testing.assert_close(fresh.signed, plain.signed)
    assert model.training and not _get_current_function_mode_stack()
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_gives_a_like_map(toys, pictures, method):
    images = pictures(2)
    exact, rough = (
        FinerCAM(model, method, layer="blocks.1.norm1")(images, target=1, against=[3])
        for model in (toys.vit(), toys.vit().bfloat16())
    )
    assert float(F.cosine_similarity(exact.signed.flatten(1), rough.signed.flatten(1)).min()) > 0.9
