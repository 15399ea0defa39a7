"""The relevance rules against a frozen copy of a model, by conservation in every library, and as a guest's guest."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from finercam import FinerCAM, FinerCAMError
from finercam.core.capture import capture
from finercam.core.logits import Readout
from finercam.core.pixels import gaussian
from finercam.core.relevance import RelevanceRules
from finercam.core.views import views
from finercam.methods import get


def homogeneous(model: nn.Module) -> nn.Module:
    """The model without biases and position embeddings: piecewise linear once attention, gates and scales are fixed."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and not parameter.any():  # some heads start at zero
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
            last = name.rpartition(".")[2]
            if "bias" in last or "pos_embed" in name or "position" in name or "token" in last or "class_emb" in last:
                parameter.zero_()
    return model.double().eval()


def timm_model(name: str, **options) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        timm = pytest.importorskip("timm")
        small = {"embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 7, "img_size": 32}
        return timm.create_model(name, pretrained=False, **{**small, **options})

    return make


def torchvision_vit() -> nn.Module:
    vision = pytest.importorskip("torchvision.models.vision_transformer")
    model = vision.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=7)
    nn.init.normal_(model.heads.head.weight)  # zero at first
    return model


def transformers_model(kind: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        library = pytest.importorskip("transformers")
        sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        sizes |= {"image_size": 32, "patch_size": 8}
        if kind == "Siglip":
            config = library.SiglipConfig(vision_config=sizes)
            return library.SiglipForImageClassification(config)
        config = getattr(library, f"{kind}Config")(**sizes, num_labels=7)
        return getattr(library, f"{kind}ForImageClassification")(config)

    return make


def open_clip_tower() -> nn.Module:
    clip = pytest.importorskip("open_clip.transformer")
    tower = clip.VisionTransformer(32, 8, 24, 2, 2, 2.0, output_dim=12)
    return nn.Sequential(tower, nn.Linear(12, 7))


GUESTS = {
    "timm-cls": timm_model("vit_tiny_patch16_224", patch_size=8),
    "timm-mean": timm_model("vit_tiny_patch16_224", patch_size=8, global_pool="avg", class_token=False),
    "timm-dinov2-registers": timm_model("vit_small_patch14_reg4_dinov2", patch_size=8, init_values=0.5),
    "timm-siglip": timm_model("vit_base_patch16_siglip_224", patch_size=8),
    "timm-dinov3": timm_model("vit_small_patch16_dinov3", patch_size=8),
    "torchvision": torchvision_vit,
    "open_clip": open_clip_tower,
    "transformers-vit": transformers_model("ViT"),
    "transformers-dinov2": transformers_model("Dinov2"),
    "transformers-siglip": transformers_model("Siglip"),
}


def scores_of(output) -> Tensor:
    return output if isinstance(output, Tensor) else output.logits


@pytest.mark.slow
@pytest.mark.parametrize("name", GUESTS)
def test_pixels_share_out_the_logit_in_every_library(name, pictures):
    torch.manual_seed(0)
    model = homogeneous(GUESTS[name]())
    images = pictures(2, size=32, dtype=torch.float64)
    with torch.no_grad():
        plain = scores_of(model(images))
    for relevance in (True, False):
        run = capture(model, [("input", model)], images, Readout.of(scores_of), relevance=relevance)
        torch.testing.assert_close(run.logits.detach(), plain, rtol=1e-9, atol=1e-9)
        direction = torch.zeros_like(plain)
        direction[:, 0], direction[:, 1] = 1.0, -0.6
        ((gradient,),) = run.gradients(direction[:, None])
        shares, margin = (images * gradient).sum((1, 2, 3)), (direction * plain).sum(1)
        if relevance:
            torch.testing.assert_close(shares, margin, rtol=1e-4, atol=1e-6)
        else:  # what the rules are for: without them the products don't add up to anything
            assert float((shares - margin).abs().max()) > 0.05 * float(margin.abs().max())


def frozen_vit(model: nn.Module, images: Tensor) -> Callable[[Tensor], Tensor]:
    """The toy ViT written out once more, as a function of its patch tokens, with every factor taken from one run."""

    def norm(x: Tensor, layer: nn.Module, kept: list, record: bool) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        if record:
            kept.append(1 / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + layer.eps))
        return (
            centred * kept.pop(0) * layer.weight + layer.bias
            if not record
            else (centred * kept[-1] * layer.weight + layer.bias)
        )

    def forward(patches: Tensor, kept: list, record: bool) -> Tensor:
        x = torch.cat([model.cls_token.expand(len(patches), -1, -1), patches], 1)
        for block in model.blocks:
            y = norm(x, block.norm1, kept, record)
            query, key, value = F.linear(y, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
            heads = []
            for q, k, v in zip(*(t.chunk(block.attn.num_heads, -1) for t in (query, key, value)), strict=True):
                if record:
                    kept.append(torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1))
                heads.append((kept[-1] if record else kept.pop(0)) @ v)
            x = x + block.attn.out_proj(torch.cat(heads, -1))
            y = block.mlp[0](norm(x, block.norm2, kept, record))
            if record:
                kept.append(0.5 * (1 + torch.erf(y / math.sqrt(2))))
            x = x + block.mlp[2](y * (kept[-1] if record else kept.pop(0)))
        return model.head(x[:, 0])

    kept: list[Tensor] = []
    with torch.no_grad():
        forward(model.embed(images).flatten(2).mT, kept, record=True)
    return lambda patches: forward(patches, list(kept), record=False)


@pytest.mark.parametrize("gamma", [0.0, 0.6])
def test_equals_the_gradient_of_a_copy_with_frozen_factors(toys, pictures, gamma):
    model, images = toys.vit().double(), pictures(3).double()
    patches = model.embed(images).flatten(2).mT.detach().requires_grad_()
    logits = frozen_vit(model, images)(patches)
    torch.testing.assert_close(logits, model(images))
    (gradient,) = torch.autograd.grad((logits[:, 2] - gamma * logits[:, 4]).sum(), patches)
    expected = (patches * gradient).sum(2).view(3, 4, 4)
    answer = FinerCAM(model, "relevance", layer="embed")(images, target=2, against=[4], gamma=gamma)
    torch.testing.assert_close(answer.signed, expected.detach())


def test_questions_are_linear_and_need_no_second_run(toys, pictures):
    model, images = toys.vit(), pictures(2)
    explain = FinerCAM(model, "relevance", layer=["input", "embed"], fusion="product")
    answer = explain(images, target=1, against=[3])
    model.forward = None  # a further run would fail
    again = answer.ask(gamma=0.0)
    del model.forward
    torch.testing.assert_close(again.signed, explain(images, target=1, against=[3], gamma=0.0).signed)
    assert get("relevance").linear and get("relevance").is_linear_by_trial()


def test_each_method_gets_its_own_kind_of_gradients(toys, pictures):
    model, images = toys.vit(), pictures(2)
    plain = FinerCAM(model, "hirescam", layer="blocks.0")(images, target=1)
    by_rules = FinerCAM(model, "relevance", layer="blocks.0")(images, target=1)
    assert not torch.allclose(plain.signed, by_rules.signed, rtol=1e-2)
    torch.testing.assert_close(plain.ask(method="relevance").signed, by_rules.signed)
    torch.testing.assert_close(by_rules.ask(method="hirescam").signed, plain.signed)
    # A source that was captured for another method is run again.
    source = FinerCAM(model, "relevance", layer="blocks.0").capture(images)
    direction = torch.eye(5, dtype=torch.float64)[None, :1].expand(2, -1, -1)
    evidence = get("hirescam").gather(source, by_rules.contrast, direction)
    expected = FinerCAM(model, "hirescam", layer="blocks.0").capture(images).gradients(direction)
    torch.testing.assert_close(evidence.gradients[0], expected[0])


def test_views_follow_the_rules_too(toys, pictures):
    model, images = toys.vit(), pictures(2)
    answer = FinerCAM(model, "relevance", layer="embed", smooth="flip")(images, target=1, against=[3])
    one, other = (
        FinerCAM(model, "relevance", layer="embed")(x, target=1, against=[3]).signed
        for x in (images, images.flip(-1))
    )
    assert len(views("flip")) == 2
    torch.testing.assert_close(answer.seen[1][1].gradients[0].shape, answer.seen[0][1].gradients[0].shape)
    both = one / one.abs().amax((1, 2), keepdim=True) + other.flip(-1) / other.abs().amax((1, 2), keepdim=True)
    cosine = F.cosine_similarity(answer.signed.flatten(1), both.flatten(1))
    assert float(cosine.min()) > 0.9


def test_the_model_is_left_as_found_also_after_an_error(toys, pictures):
    model, images = toys.vit().train(), pictures(2)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    FinerCAM(model, "relevance", layer="input")(images, target=1)
    with pytest.raises(FinerCAMError):
        FinerCAM(model, "relevance", layer="input")(torch.zeros(1, 5, 16, 16), target=1)
    assert not _get_current_function_mode_stack()
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_half_precision_gives_the_same_map(toys, pictures):
    images = pictures(2)
    exact = FinerCAM(toys.vit(), "relevance", layer="embed")(images, target=1, against=[3])
    rough = FinerCAM(toys.vit().bfloat16(), "relevance", layer="embed")(images, target=1, against=[3])
    assert float(F.cosine_similarity(exact.signed.flatten(1), rough.signed.flatten(1)).min()) > 0.97


def test_normalisation_rules_are_those_of_the_layers():
    x = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for function in (
        lambda x: F.layer_norm(x, (5,)),
        lambda x: F.layer_norm(input=x, normalized_shape=(5,), eps=1e-6),
        lambda x: F.rms_norm(x, (5,), eps=1e-6),
        lambda x: F.rms_norm(x, normalized_shape=(5,), eps=1e-6),
        lambda x: F.group_norm(x, num_groups=3),
        lambda x: F.normalize(x, dim=1),
        lambda x: F.gelu(x),
        lambda x: F.gelu(input=x),
        lambda x: F.linear(input=x, weight=torch.ones(5, 5, dtype=x.dtype)),
        lambda x: F.gelu(x, approximate="tanh"),
        lambda x: F.silu(x),
        lambda x: x / x.norm(dim=-1, keepdim=True),
    ):
        leaf = x.clone().requires_grad_()
        with RelevanceRules():
            ruled = function(leaf)
        torch.testing.assert_close(ruled, function(x))
        (gradient,) = torch.autograd.grad(ruled[0].sum() * 0 + (ruled * x).sum(), leaf)
        torch.testing.assert_close(
            (gradient * x).sum(), (function(x) * x).sum()
        )  # linear, once the factors are fixed


def _gradients(function, leaves, gradient) -> list[Tensor | None]:
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    return list(torch.autograd.grad(function(*leaves), leaves, gradient, allow_unused=True))


@pytest.mark.parametrize("kept", ["all", "columns", "rows", "nothing"])
def test_gradients_written_by_hand_are_those_of_autograd(kept):
    random = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    def masked(gradient: Tensor, columns: int) -> Tensor:
        """Zero but for what `kept` names of the last two axes."""
        mask = torch.zeros_like(gradient)
        mask[{"all": ..., "columns": (..., slice(columns, None)), "rows": (..., [1], slice(None))}.get(kept, [])] = 1
        return gradient * mask

    weight, bias, kernel = noise(9, 6), noise(9), noise(4, 3, 2, 4)
    x, images, gradient = noise(2, 7, 6), noise(2, 3, 8, 8), masked(noise(2, 7, 9), 6)
    query, key, value = noise(3, 2, 2, 7, 5)
    cases = [
        (lambda x: F.linear(x, weight, bias), [x], gradient),
        (lambda images: F.conv2d(images, kernel, stride=(2, 4), padding=(0, 0), dilation=(1, 1)), [images], None),
    ]
    for function, leaves, of in cases:
        of = masked(noise(2, 4, 4, 2), 1) if of is None else of
        expected = _gradients(function, leaves, of)
        with RelevanceRules():
            torch.testing.assert_close(_gradients(function, leaves, of), expected)
    of = masked(noise(2, 2, 7, 5), 3)
    for scale in (None, 0.3):
        (expected,) = _gradients(lambda v: F.scaled_dot_product_attention(query, key, v, scale=scale), [value], of)  # noqa: B023
        with RelevanceRules():
            _, _, found = _gradients(
                lambda q, k, v: F.scaled_dot_product_attention(q, k, v, scale=scale),  # noqa: B023
                [query, key, value],
                of,
            )
        torch.testing.assert_close(found, expected)


def test_parameters_that_are_trained_keep_their_gradients():
    layer, x = nn.Linear(6, 4), torch.ones(2, 6, requires_grad=True)
    with RelevanceRules():
        layer(x).sum().backward()
    assert layer.weight.grad is not None and bool(layer.weight.grad.any())


def test_pixels_are_weighted_by_their_difference_from_a_blurred_image(pictures):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3, bias=False)).double()
    images = pictures(1, size=32).double()
    answer = FinerCAM(model, "hirescam", layer="input", gamma=0.0)(images, target=2)
    weights = model[1].weight[2].view(3, 32, 32).detach()
    expected = ((images[0] - gaussian(images, 0.05 * 32)[0]) * weights).sum(0)
    torch.testing.assert_close(
        answer.signed[0].double(),
        gaussian(expected[None, None].float(), 0.02 * 32)[0, 0].double(),
        rtol=1e-4,
        atol=1e-6,
    )
