"""Evidence of CLIP-like towers by their last attention: what patches give it, and who reads that.

In a vision transformer whose CLS token (or attention pooling) makes the embedding, patches speak only through the
values of the last attention. Plain Grad-CAM mixes that with what the queries and keys did, and is weak there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finercam.core.capture import Capture, capture
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.core.grid import Layout, find_layout
from finercam.errors import FinerCAMError
from finercam.methods import rules
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["LastAttention", "grad_eclip", "last_attention", "self_attention", "value_attention"]


@dataclass(frozen=True)
class LastAttention:
    """The last attention of an image tower. A tower of local features has none, and its features are the values.

    `reads` is the module whose output `(N, L, C)` the attention reads, `gives` the attention itself. `heads` makes
    queries, keys and values `(N, heads, L, d)` of what it reads, `join` its output of values, and `embed` takes that
    into the space of the texts; the residual stream and the MLP are left out, except after attention pooling, where
    nothing but the attention's output goes on.
    """

    reads: nn.Module
    embed: Callable[[Tensor], Tensor]
    gives: nn.Module | None = None
    heads: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]] | None = None
    join: Callable[[Tensor], Tensor] = lambda values: values


@torch.no_grad()
def value_attention(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Each patch's value, projected as if the attention read it alone (MaskCLIP, Zhou et al., ECCV 2022).

    The result is in the space of the texts, where a class is its row: the evidence is linear in the classes
    and needs no gradient.
    """
    found = last_attention(source.model)
    seen, layout = _looked(source, [found.reads])
    read = seen.activations[0].detach()
    values = read if found.heads is None else found.join(found.heads(read)[2])
    return _embedded(source, directions, found, layout, values)


@torch.no_grad()
def self_attention(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Values gathered by self-self attention: similar patches share their values (after GEM, Bousselham et al., CVPR 2024).

    The mean over query-query, key-key and value-value attention of the last block; GEM's iterations and its ensemble
    over blocks are left out.
    """
    found = last_attention(source.model)
    if found.heads is None:
        raise _lacks(source.model, "self-attention")
    seen, layout = _looked(source, [found.reads])
    query, key, value = found.heads(seen.activations[0].detach())
    patches = slice(layout.prefix, None)
    groups = [x[:, :, patches] for x in (query, key, value) if x.shape[2] == value.shape[2]]
    value = value[:, :, patches]
    gathered = torch.stack([F.scaled_dot_product_attention(x, x, value) for x in groups]).mean(0)
    return _embedded(source, directions, found, Layout("tokens", layout.grid, 0), found.join(gathered))


@torch.no_grad()
def grad_eclip(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Values, by how far the reading token looks at them and how much the class wants them (Grad-ECLIP, ICML 2024).

    `Σ_t λ_ti ∂y/∂o_t · v_i` over the tokens t that the embedding is pooled from, for each patch i, with `o` the
    attention's output, and in place of the softmax the paper's looser λ: the cosine of query and key, scaled to
    [0, 1] over the patches. Linear in the classes.
    """
    found = last_attention(source.model)
    if found.heads is None or found.gives is None:
        raise _lacks(source.model, "grad-eclip")
    seen, layout = _looked(source, [found.reads, found.gives])
    query, key, value = found.heads(seen.activations[0].detach())
    gradient = torch.stack([of_layers[1] for of_layers in seen.gradients(directions)], 1).float()  # (N, M, T, C)
    query, key = (F.normalize(x.transpose(1, 2).flatten(2).float(), dim=-1) for x in (query, key))
    looks = query @ key[:, layout.prefix :].mT  # (N, T, P)
    low, high = looks.aminmax(dim=2, keepdim=True)
    looks = torch.where(high > low, (looks - low) / (high - low).clamp(min=1e-12), 1.0)
    wanted = torch.einsum("ntp,nmtc->nmcp", looks, gradient).unflatten(3, layout.grid)
    values = layout.to_maps(found.join(value))
    return Evidence(source.logits.cpu().double(), directions, (values,), (wanted,))


def last_attention(model: nn.Module) -> LastAttention:
    """The last attention of a zero-shot classifier's image tower, in any library.

    Raises FinerCAMError for models that are none, and for towers that are not known here.
    """
    inner: Any = getattr(model, "model", None)
    if inner is None or getattr(model, "class_embeddings", None) is None:
        raise FinerCAMError(
            f"{type(model).__name__} is no ZeroShotClassifier: value-attention, self-attention and grad-eclip need "
            "the text rows and the image tower of one; take gradcam or layercam"
        )
    if hasattr(inner, "vision_model"):  # transformers
        return _of_transformers(inner)
    visual = getattr(inner, "visual", None)
    if (
        visual is not None
        and hasattr(visual, "features")
        and isinstance(getattr(visual, "projection", None), nn.Linear)
    ):
        return LastAttention(visual.features, visual.projection)  # finercam.models.twotower
    if getattr(visual, "attn_pool", 0) is None and hasattr(visual, "transformer"):
        return _of_open_clip(visual)
    raise FinerCAMError(
        f"the image tower {type(visual or inner).__name__} is not known to value-attention, self-attention and "
        "grad-eclip, which read open_clip's ViTs, transformers' CLIP and SigLIP, and the two-tower model; take gradcam"
    )


def _of_open_clip(visual: Any) -> LastAttention:
    block = visual.transformer.resblocks[-1]
    if not isinstance(getattr(block, "attn", None), nn.MultiheadAttention):
        raise FinerCAMError(f"open_clip's {type(block).__name__} is not known to the attention methods; take gradcam")

    def embed(tokens: Tensor) -> Tensor:
        tokens = visual.ln_post(tokens)
        return tokens if visual.proj is None else tokens @ visual.proj

    return LastAttention(block.ln_1, embed, block.attn, _packed_heads(block.attn), _joined(block.attn.out_proj))


def _of_transformers(model: Any) -> LastAttention:
    vision = model.vision_model
    pooling = getattr(vision, "head", None)
    if pooling is not None and hasattr(pooling, "probe"):  # SigLIP: a learnt query reads the normalised patches
        attention = pooling.attention

        def embed_pooled(tokens: Tensor) -> Tensor:
            return tokens + pooling.mlp(pooling.layernorm(tokens))

        heads = _packed_heads(attention, pooling.probe)
        return LastAttention(vision.post_layernorm, embed_pooled, attention, heads, _joined(attention.out_proj))
    if not hasattr(model, "visual_projection"):
        raise FinerCAMError(
            f"transformers' {type(model).__name__} is not known to the attention methods; take gradcam"
        )
    layer = vision.encoder.layers[-1]
    attention = layer.self_attn

    def heads_of(read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (
            project(read).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return query, key, value

    def embed(tokens: Tensor) -> Tensor:
        return model.visual_projection(vision.post_layernorm(tokens))

    return LastAttention(layer.layer_norm1, embed, attention, heads_of, _joined(attention.out_proj))


def _packed_heads(attention: nn.MultiheadAttention, query: Tensor | None = None) -> Callable[[Tensor], Any]:
    """Queries, keys and values of PyTorch's own attention; `query` where others than the tokens ask."""

    def heads_of(read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        asks = read if query is None else query.expand(len(read), -1, -1).to(read)
        weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
        projected = [F.linear(x, w, b) for x, w, b in zip((asks, read, read), weights, biases, strict=True)]
        q, k, v = (x.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for x in projected)
        return q, k, v

    return heads_of


def _joined(project: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Heads side by side again, `(N, heads, L, d)` to `(N, L, C)`, and through the output projection."""
    return lambda values: project(values.transpose(1, 2).flatten(2))


def _looked(source: Source, modules: list[nn.Module]) -> tuple[Capture, Layout]:
    """A run that keeps what the modules gave (the source's own, where that is what it kept), and the first's layout."""
    if [module for _, module in source.layers] == modules:
        return source.run, source.layouts[0]
    names = {module: name for name, module in source.model.named_modules()}
    run = capture(source.model, [(names[module], module) for module in modules], source.images, source.readout)
    shape = run.activations[0].shape
    return run, find_layout(shape, source.images.shape, source.model, layer=modules[0])


def _embedded(source: Source, directions: Tensor, found: LastAttention, layout: Layout, values: Tensor) -> Evidence:
    """Evidence in the space of the texts: patches embedded, and for each direction its combination of text rows."""
    model: Any = source.model
    places = found.embed(layout.to_maps(values).permute(0, 2, 3, 1)).float().permute(0, 3, 1, 2)
    rows = model.logit_scale * model.class_embeddings
    wanted = directions.to(rows) @ rows
    return Evidence(source.logits.cpu().double(), directions, (places,), (wanted[..., None, None],))


def _lacks(model: Any, method: str) -> FinerCAMError:
    return FinerCAMError(
        f"the image tower of a {type(model.model).__name__} has no attention for {method!r}; take value-attention"
    )


register(
    "value-attention",
    rules.hirescam,
    label="Value attention",
    gather=value_attention,
    evidence="text",
    declared_linear=True,
    summary="Patch values in the space of the texts; for zero-shot classifiers (MaskCLIP).",
)
register(
    "self-attention",
    rules.hirescam,
    label="Self-attention",
    gather=self_attention,
    evidence="text",
    declared_linear=True,
    summary="Patch values gathered by self-self attention; for zero-shot classifiers (after GEM).",
)
register(
    "grad-eclip",
    rules.hirescam,
    label="Grad-ECLIP",
    gather=grad_eclip,
    evidence="text",
    declared_linear=True,
    summary="Patch values weighted by attention and gradient; for zero-shot classifiers (Grad-ECLIP).",
)
