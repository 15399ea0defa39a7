"""Text prompts as the classes of an image–text model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finercam.core.capture import guest
from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["ZeroShotClassifier"]

Prompts = Sequence[str] | Mapping[str, str | Sequence[str]]


class ZeroShotClassifier(nn.Module):
    """A classifier `(N, 3, H, W)` to logits `(N, K)` whose classes are K text prompts (Radford et al., ICML 2021).

    `logits = scale · e/‖e‖ · t_k (+ bias)`, where `e` is the embedding of the image and `t_k` is the row of prompt k:
    the mean of its normalised embeddings over the templates, normalised again. The rows are computed once. They are
    the linear head `class_embeddings (K, D)`, so references, contrasts, methods and metrics work as with any
    classifier.

    The logits do not depend on the length of `e`. By Euler's theorem `Σ A ∂y/∂A = 0` for any activation A in which
    the embedding is linear, so gradient evidence is relative: it sums to zero. The method "value-attention" leaves
    the normalisation out and keeps absolute scores.

    Args:
        model: an image–text model of open_clip, transformers (CLIP, SigLIP) or `finercam.models.twotower`, or any
            other with `encode_image` and `encode_text`.
        tokenizer: a function from texts to the input of the text tower, such as open_clip's or a transformers
            tokenizer. None uses the model's `tokenize`.
        prompts: the classes as texts, or a mapping from class name to one or several texts of the same meaning.
        templates: sentences with a `{}` that each prompt replaces.
        logit_scale: None uses the model's scale and its bias (SigLIP).

    Raises FinerCAMError for prompts that are not texts, templates without `{}`, and models without two towers.

    >>> from finercam.models.twotower import TwoTower
    >>> classify = ZeroShotClassifier(TwoTower(["red", "crest", "bird"]), None, ["red crest", "bird"])
    >>> classify(torch.zeros(5, 3, 32, 32)).shape, classify.class_names
    (torch.Size([5, 2]), ['red crest', 'bird'])
    """

    class_embeddings: Tensor

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Callable[..., Any] | None,
        prompts: Prompts,
        templates: Sequence[str] = ("{}",),
        logit_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        # The names are stored, because bound methods would not follow a copy of the module.
        self._encode_image, self._encode_text = _encoder_names(model)
        tokenize = tokenizer if tokenizer is not None else getattr(model, "tokenize", None)
        if not callable(tokenize):
            raise FinerCAMError(f"tokenizer={tokenizer!r}: {type(model).__name__} has no tokenizer; give one")
        templates = [templates] if isinstance(templates, str) else list(templates)
        for template in templates or [""]:
            if not isinstance(template, str) or "{}" not in template:
                raise FinerCAMError(f"templates={templates!r}: expected texts with {{}} where the prompt goes")
        texts_of = _texts_by_class(prompts)
        self.class_names = list(texts_of)
        self.logit_scale, self.logit_bias = _scale(model, logit_scale)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        rows = []
        with guest(model), torch.no_grad():
            encode = getattr(model, self._encode_text)
            for texts in texts_of.values():
                sentences = [template.replace("{}", text) for text in texts for template in templates]
                tokens = _tokens(tokenize, sentences, model, device)
                embeddings = embeddings_of(
                    encode(**tokens) if isinstance(tokens, Mapping) else encode(tokens), "text"
                )
                rows.append(F.normalize(F.normalize(embeddings.float(), dim=-1).mean(0), dim=-1))
        self.register_buffer("class_embeddings", torch.stack(rows))

    def embed(self, images: Tensor) -> Tensor:
        """The model's embeddings of images, `(N, D)`, not normalised."""
        return embeddings_of(getattr(self.model, self._encode_image)(images), "image")

    def forward(self, images: Tensor) -> Tensor:
        embedded = F.normalize(self.embed(images).float(), dim=-1)
        return self.logit_scale * embedded @ self.class_embeddings.to(embedded).T + self.logit_bias


def _encoder_names(model: nn.Module) -> tuple[str, str]:
    """The names of the methods that embed images and tokens; they differ between libraries."""
    for image, text in (("encode_image", "encode_text"), ("get_image_features", "get_text_features")):
        if hasattr(model, image) and hasattr(model, text):
            return image, text
    raise FinerCAMError(
        f"{type(model).__name__} is no image–text model: expected encode_image and encode_text (open_clip), or "
        "get_image_features and get_text_features (transformers)"
    )


def _tokens(tokenize: Callable[..., Any], texts: list[str], model: nn.Module, device: torch.device) -> Any:
    """Tokens on the model's device: a tensor, or a mapping of tensors as the tokenizers of transformers return."""
    options: dict[str, Any] = {}
    if hasattr(tokenize, "pad") and hasattr(tokenize, "model_max_length"):  # a tokenizer of transformers
        is_siglip = "siglip" in str(getattr(getattr(model, "config", None), "model_type", ""))
        # SigLIP was trained with texts of one length and reads its last token.
        options = {"padding": "max_length" if is_siglip else True, "truncation": True, "return_tensors": "pt"}
        if is_siglip and tokenize.model_max_length > 1_000_000:  # type: ignore[attr-defined]
            options["max_length"] = 64
    try:
        tokens = tokenize(texts, **options)
    except FinerCAMError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise FinerCAMError(f"the tokenizer failed on {texts[:2]!r}: {one_line(error)}") from error
    if hasattr(tokens, "keys"):
        known = ("input_ids", "attention_mask", "position_ids")
        return {key: torch.as_tensor(tokens[key]).to(device) for key in known if key in tokens.keys()}  # noqa: SIM118 - no true mapping
    return torch.as_tensor(tokens).to(device)


def embeddings_of(output: Any, tower: str) -> Tensor:
    """The embeddings `(N, D)` in the output of a tower."""
    embeddings = getattr(output, "pooler_output", output)
    if not isinstance(embeddings, Tensor) or embeddings.ndim != 2:
        kind = tuple(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise FinerCAMError(f"the {tower} tower returned {kind}; expected embeddings (N, D)")
    return embeddings


def _texts_by_class(prompts: Prompts) -> dict[str, list[str]]:
    if isinstance(prompts, str) or not isinstance(prompts, Mapping | Sequence) or not len(prompts):
        raise FinerCAMError(f"prompts={prompts!r}: expected a list of texts, or a mapping from class names to texts")
    if isinstance(prompts, Mapping):
        texts_of = {str(name): [texts] if isinstance(texts, str) else list(texts) for name, texts in prompts.items()}
    else:
        texts_of = {text: [text] for text in prompts if isinstance(text, str)}
        if len(texts_of) != len(prompts):
            raise FinerCAMError(f"prompts={list(prompts)[:5]!r}…: expected different texts, one for each class")
    for name, texts in texts_of.items():
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise FinerCAMError(f"prompts: class {name!r} has {texts!r}; expected one or several texts")
    return texts_of


def _scale(model: Any, given: float | None) -> tuple[float, float]:
    """The logit scale and bias: those of the model, unless a scale is given."""
    if given is not None:
        return float(given), 0.0
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    return (
        float(scale.detach().exp()) if isinstance(scale, Tensor) else 100.0,
        float(bias.detach()) if isinstance(bias, Tensor) else 0.0,
    )
