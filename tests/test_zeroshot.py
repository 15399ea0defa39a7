"""Text prompts as classes: the rows, the logits, and every method on small random instances of the real models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import finercam.methods
from finercam import FinerCAM, FinerCAMError, ZeroShotClassifier
from finercam.core.head import linear_head
from finercam.methods.attention import last_attention
from finercam.models.twotower import TwoTower

pytestmark = pytest.mark.slow  # imports the libraries of models

PROMPTS = ["a red crest", "a wing bar", "a bird", "an empty perch"]
WORDS = ["a", "an", "red", "crest", "wing", "bar", "bird", "empty", "perch", "photo", "of"]


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


IMAGES = torch.randn(2, 3, 32, 48, generator=generator())
SQUARE = torch.randn(2, 3, 32, 32, generator=generator())


def ids(texts: list[str]) -> Tensor:
    """A tokenizer stub: a number for each letter, and the highest at the end, where CLIP looks for it."""
    rows = [[1 + ord(letter) % 50 for letter in text[:6].ljust(6)] + [63] for text in texts]
    return torch.tensor(rows)


def open_clip_model(pool: str = "tok") -> nn.Module:
    import open_clip

    vision = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "pool_type": pool}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    return open_clip.CLIP(
        embed_dim=24, vision_cfg=open_clip.CLIPVisionCfg(**vision), text_cfg=open_clip.CLIPTextCfg(**text)
    )  # type: ignore[arg-type]


def clip_model() -> nn.Module:
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 63, "bos_token_id": 62}
    config = CLIPConfig(
        text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}, projection_dim=24
    )
    return CLIPModel(config)


def siglip_model() -> nn.Module:
    from transformers import SiglipConfig, SiglipModel

    tower = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32}
    return SiglipModel(SiglipConfig(text_config=text, vision_config={**tower, "image_size": 32, "patch_size": 8}))


def classifier(name: str) -> ZeroShotClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if name == "twotower":
            return ZeroShotClassifier(TwoTower(WORDS, width=16), None, PROMPTS).eval()
        if name.startswith("open_clip"):
            import open_clip

            return ZeroShotClassifier(
                open_clip_model(name[10:] or "tok"), open_clip.SimpleTokenizer(), PROMPTS
            ).eval()
        model = clip_model() if name == "clip" else siglip_model()
        for _, parameter in model.named_parameters():  # transformers starts so small that all texts are alike
            if parameter.ndim > 1:
                nn.init.normal_(parameter, 0, 0.15)
        return ZeroShotClassifier(model, ids, PROMPTS, logit_scale=None).eval()


MODELS = ["twotower", "open_clip", "open_clip-avg", "clip", "siglip"]
HAVE_ATTENTION = MODELS[1:]


@pytest.fixture(scope="module", params=MODELS)
def zero_shot(request: pytest.FixtureRequest) -> tuple[str, ZeroShotClassifier]:
    return request.param, classifier(request.param)


@torch.no_grad()
def test_logits_are_those_of_the_model_itself(zero_shot: tuple[str, ZeroShotClassifier]) -> None:
    name, classify = zero_shot
    model: Any = classify.model
    found = classify(SQUARE)
    if name == "twotower":
        expected = model(SQUARE, model.tokenize(PROMPTS))
    elif name.startswith("open_clip"):
        import open_clip

        expected = model.get_logits(SQUARE, open_clip.SimpleTokenizer()(PROMPTS))[0]
    else:
        expected = model(input_ids=ids(PROMPTS), pixel_values=SQUARE).logits_per_image
    assert torch.allclose(found, expected, atol=1e-4)
    assert found.std() > 0


def test_rows_are_the_mean_over_templates_and_the_head() -> None:
    model = TwoTower(WORDS, width=16).eval()
    classify = ZeroShotClassifier(
        model, None, {"crest": ["red crest", "a crest"], "bird": "bird"}, ("{}", "a photo of a {}")
    )
    with torch.no_grad():
        four = model.encode_text(
            model.tokenize(["red crest", "a photo of a red crest", "a crest", "a photo of a a crest"])
        )
    expected = F.normalize(F.normalize(four, dim=-1).mean(0), dim=-1)
    assert torch.allclose(classify.class_embeddings[0], expected, atol=1e-6)
    assert classify.class_names == ["crest", "bird"]
    head = linear_head(classify, 2)
    assert head is not None
    assert torch.equal(head[0], classify.class_embeddings)
    assert not head[0].requires_grad


def test_similar_references_are_the_nearest_texts() -> None:
    classify = classifier("open_clip")
    rows = classify.class_embeddings
    answer = FinerCAM(classify, references="similar", num_references=1, class_names=classify.class_names)(
        SQUARE, target="a bird"
    )
    cosine = (rows @ rows[2]).index_fill(0, torch.tensor([2]), -2)
    assert answer.references.flatten().tolist() == [int(cosine.argmax())] * 2
    assert torch.allclose(answer.similarity.double(), cosine.max().double().expand(2, 1), atol=1e-5)


def test_cosine_evidence_of_what_the_embedding_is_linear_in_sums_to_zero() -> None:
    """Euler: logits of degree 0 in the embedding, so A · dy/dA over all places cancels; absolute scores do not."""
    classify = classifier("twotower")
    answer = FinerCAM(classify, method="hirescam", gamma=0, layer="model.visual.features")(IMAGES, target=0)
    size = answer.signed.abs().sum((1, 2))
    assert (size > 1e-3).all()
    assert (answer.signed.sum((1, 2)).abs() < 1e-4 * size).all()
    absolute = FinerCAM(classify, method="value-attention", gamma=0)(IMAGES, target=0)
    length = classify.embed(IMAGES).norm(dim=1)
    assert torch.allclose(absolute.signed.mean((1, 2)) / length, absolute.logits[:, 0], rtol=1e-4)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["value-attention", "self-attention", "grad-eclip", "gradcam"])
def test_every_method_is_linear_in_the_contrast(name: str, method: str) -> None:
    if name == "twotower" and method in ("self-attention", "grad-eclip"):
        pytest.skip("a tower without attention, see below")
    classify = classifier(name)
    explain = FinerCAM(classify, method, gamma=0.7, keep=range(4))
    images = IMAGES if name == "twotower" else SQUARE
    answer = explain(images, target=0, against=[1, 2])
    alone = [answer.ask(target=k, against=(k + 1) % 4, gamma=0).signed for k in range(3)]
    assert answer.signed.shape[1:] == ((8, 12) if name == "twotower" else (4, 4))
    assert answer.signed.abs().amax() > 0
    expected = alone[0] - 0.7 * (alone[1] + alone[2]) / 2
    assert torch.allclose(answer.signed, expected, atol=1e-5 * float(expected.abs().max()) + 1e-7)


@pytest.mark.parametrize("name", ["open_clip", "clip", "siglip"])
@torch.no_grad()
def test_values_under_the_true_attention_make_the_true_attention_output(name: str) -> None:
    """Queries, keys, values and output projection are read right: softmax attention over them is the layer's own."""
    classify = classifier(name)
    found = last_attention(classify)
    assert found.heads is not None
    assert found.gives is not None
    kept: dict[str, Tensor] = {}

    def keep(key: str) -> Any:
        return lambda module, inputs, output: kept.update({key: output[0] if isinstance(output, tuple) else output})

    handles = [found.reads.register_forward_hook(keep("reads")), found.gives.register_forward_hook(keep("gives"))]
    classify(SQUARE)
    for handle in handles:
        handle.remove()
    made = found.join(F.scaled_dot_product_attention(*found.heads(kept["reads"])))
    assert torch.allclose(made, kept["gives"], atol=1e-5)


@torch.no_grad()
def test_value_attention_is_the_embedding_of_a_tower_that_attends_to_one_patch() -> None:
    """SigLIP's pooling passes on nothing but the attention's output: with one patch in sight it must be the embedding."""
    classify = classifier("siglip")
    found = last_attention(classify)
    head: Any = classify.model.vision_model.head  # type: ignore[union-attr]
    tokens = torch.randn(1, 5, 32, generator=generator())
    assert found.heads is not None
    values = found.embed(found.join(found.heads(tokens)[2]))
    alone = torch.cat([head(tokens[:, place : place + 1]) for place in range(5)])
    assert torch.allclose(values[0], alone, atol=1e-5)


def test_grad_eclip_under_softmax_attention_is_gradient_times_value() -> None:
    """With CLS pooling, only the CLS token's gradient counts: the written-out formula of the paper."""
    classify = classifier("clip")
    answer = FinerCAM(classify, "grad-eclip", gamma=0)(SQUARE, target=1)
    layer: Any = classify.model.vision_model.encoder.layers[-1]  # type: ignore[union-attr]
    kept: dict[str, Tensor] = {}
    hooks = [
        layer.layer_norm1.register_forward_hook(lambda m, i, out: kept.update(read=out)),
        layer.self_attn.register_forward_hook(lambda m, i, out: kept.update(out=out[0])),
    ]
    logits = classify(SQUARE)
    for hook in hooks:
        hook.remove()
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), kept["out"])
    assert gradient[:, 1:].abs().max() == 0
    attention = layer.self_attn
    query, key, value = (getattr(attention, f"{letter}_proj")(kept["read"]) for letter in "qkv")
    cosine = F.cosine_similarity(query[:, :1], key[:, 1:], dim=-1)
    low, high = cosine.aminmax(dim=1, keepdim=True)
    wanted = gradient[:, 0] @ attention.out_proj.weight  # back through the output projection
    bias = (gradient[:, 0] @ attention.out_proj.bias)[:, None]
    expected = (cosine - low) / (high - low) * (torch.einsum("nc,npc->np", wanted, value[:, 1:]) + bias)
    assert torch.allclose(
        answer.signed.flatten(1), expected.detach(), atol=1e-5 * float(expected.detach().abs().max()) + 1e-8
    )


def test_self_attention_of_patches_that_are_all_alike_is_value_attention() -> None:
    classify = classifier("open_clip")
    visual: Any = classify.model.visual  # type: ignore[union-attr]
    nn.init.zeros_(visual.positional_embedding)
    grey = torch.full((1, 3, 32, 32), 0.3)
    maps = [
        FinerCAM(classify, method, gamma=0)(grey, target=0).signed for method in ("value-attention", "self-attention")
    ]
    assert torch.allclose(maps[0], maps[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: ZeroShotClassifier(nn.Linear(2, 2), None, ["a"]), "no image–text model"),
        (lambda: ZeroShotClassifier(TwoTower(WORDS), None, []), "prompts"),
        (lambda: ZeroShotClassifier(TwoTower(WORDS), None, "bird"), "prompts"),
        (lambda: ZeroShotClassifier(TwoTower(WORDS), None, ["bird", "bird"]), "different texts"),
        (lambda: ZeroShotClassifier(TwoTower(WORDS), None, {"bird": []}), "bird"),
        (lambda: ZeroShotClassifier(TwoTower(WORDS), None, ["bird"], ["a photo"]), "templates"),
        (lambda: ZeroShotClassifier(TwoTower(WORDS), None, ["a red crets"]), "Did you mean 'crest'"),
        (lambda: ZeroShotClassifier(open_clip_model(), None, ["bird"]), "tokenizer"),
        (lambda: FinerCAM(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), "value-attention")(SQUARE, 0), "ZeroShotClassifier"),
        (lambda: FinerCAM(classifier("twotower"), "grad-eclip")(SQUARE, 0), "no attention"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_one_line(change: Any, says: str) -> None:
    with pytest.raises(FinerCAMError, match=says) as error:
        change()
    assert "\n" not in str(error.value)


def test_an_unknown_tower_is_one_line() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.visual = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())

        def encode_image(self, images: Tensor) -> Tensor:
            return self.visual(images)

        def encode_text(self, tokens: Tensor) -> Tensor:
            return tokens[:, :6].float()

    classify = ZeroShotClassifier(Odd(), ids, PROMPTS)
    assert FinerCAM(classify)(SQUARE, 0).maps.shape == (2, 32, 32)
    with pytest.raises(FinerCAMError, match="Sequential is not known"):
        FinerCAM(classify, "value-attention")(SQUARE, 0)


def test_the_model_is_left_as_found_and_the_methods_are_registered() -> None:
    model = open_clip_model().train()
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    import open_clip

    ZeroShotClassifier(model, open_clip.SimpleTokenizer(), PROMPTS)
    assert model.training
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert {"value-attention", "self-attention", "grad-eclip"} <= set(finercam.methods.names())
