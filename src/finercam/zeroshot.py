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

    `logits = scale · e/‖e‖ · t_k (+ bias)` with `e` the picture's embedding and `t_k` the row of prompt k: the mean of
    its normalised embeddings over templates, normalised again. The rows are computed once and are the linear head,
    `class_embeddings (K, D)`, so references, contrasts, methods and metrics work as with any classifier.

    The logits do not change with the length of `e`, so by Euler's theorem `Σ A ∂y/∂A = 0` for whatever the embedding
    is linear in: gradient evidence is relative, as much against a class as for it, and is measured off the component
    along `e` itself. The method "value-attention" leaves the normalisation out and keeps absolute scores.

    Args:
        model: an image–text model of open_clip, transformers (CLIP, SigLIP), or `finercam.models.twotower`; any other
            with `encode_image` and `encode_text`.
        tokenizer: texts to what the text tower takes: open_clip's, a transformers tokenizer, or a function. None
            takes the model's own `tokenize`.
        prompts: the classes, as texts, or a mapping from class name to one text or several of the same meaning.
        templates: what each prompt is put into, in place of `{}`.
        logit_scale: None takes the model's own, with its bias (SigLIP).

    Raises FinerCAMError for prompts that are no texts, templates without `{}`, and models without two towers.

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
        self._image, self._text = _towers(model)  # names: bound methods would not follow a copy of the module
        read = tokenizer if tokenizer is not None else getattr(model, "tokenize", None)
        if not callable(read):
            raise FinerCAMError(f"tokenizer={tokenizer!r}: a {type(model).__name__} has none of its own; give one")
        templates = [templates] if isinstance(templates, str) else list(templates)
        for template in templates or [""]:
            if not isinstance(template, str) or "{}" not in template:
                raise FinerCAMError(f"templates={templates!r}: expected texts with a place {{}} for the prompt")
        named = _named(prompts)
        self.class_names = list(named)
        self.logit_scale, self.logit_bias = _scale(model, logit_scale)
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        rows = []
        with guest(model), torch.no_grad():
            for texts in named.values():
                filled = [template.replace("{}", text) for text in texts for template in templates]
                given = _tokens(read, filled, model, device)
                embed = getattr(model, self._text)
                found = _tensor(embed(**given) if isinstance(given, Mapping) else embed(given), "text")
                rows.append(F.normalize(F.normalize(found.float(), dim=-1).mean(0), dim=-1))
        self.register_buffer("class_embeddings", torch.stack(rows))

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings of images `(N, D)`, as the model gives them, not normalised."""
        return _tensor(getattr(self.model, self._image)(images), "image")

    def forward(self, images: Tensor) -> Tensor:
        embedded = F.normalize(self.embed(images).float(), dim=-1)
        return self.logit_scale * embedded @ self.class_embeddings.to(embedded).T + self.logit_bias


def _towers(model: nn.Module) -> tuple[str, str]:
    """The names of what embeds images and of what embeds tokens, in whichever library."""
    for image, text in (("encode_image", "encode_text"), ("get_image_features", "get_text_features")):
        if hasattr(model, image) and hasattr(model, text):
            return image, text
    raise FinerCAMError(
        f"{type(model).__name__} is no image–text model: expected encode_image and encode_text (open_clip), or "
        "get_image_features and get_text_features (transformers)"
    )


def _tokens(read: Callable[..., Any], texts: list[str], model: nn.Module, device: torch.device) -> Any:
    """Tokens on the model's device: a tensor, or a mapping of tensors as transformers' tokenizers give."""
    options: dict[str, Any] = {}
    if hasattr(read, "pad") and hasattr(read, "model_max_length"):  # a tokenizer of transformers
        is_siglip = "siglip" in str(getattr(getattr(model, "config", None), "model_type", ""))
        # SigLIP was trained with texts of one length and reads its last token.
        options = {"padding": "max_length" if is_siglip else True, "truncation": True, "return_tensors": "pt"}
        if is_siglip and read.model_max_length > 1_000_000:  # type: ignore[attr-defined]
            options["max_length"] = 64
    try:
        given = read(texts, **options)
    except FinerCAMError:
        raise
    except (TypeError, ValueError, KeyError) as error:
        raise FinerCAMError(f"the tokenizer failed on {texts[:2]!r}: {one_line(error)}") from error
    if isinstance(given, Mapping) or hasattr(given, "keys"):
        taken = {key: torch.as_tensor(given[key]).to(device) for key in given.keys()}  # noqa: SIM118 - no true mapping
        return {key: value for key, value in taken.items() if key in ("input_ids", "attention_mask", "position_ids")}
    return torch.as_tensor(given).to(device)


def _tensor(output: Any, what: str) -> Tensor:
    found = getattr(output, "pooler_output", output)
    if not isinstance(found, Tensor) or found.ndim != 2:
        kind = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise FinerCAMError(f"the {what} tower gave {kind}; expected embeddings (N, D)")
    return found


def _named(prompts: Prompts) -> dict[str, list[str]]:
    if isinstance(prompts, str) or not isinstance(prompts, Mapping | Sequence) or not len(prompts):
        raise FinerCAMError(f"prompts={prompts!r}: expected a list of texts, or a mapping from class names to texts")
    if isinstance(prompts, Mapping):
        named = {str(name): [texts] if isinstance(texts, str) else list(texts) for name, texts in prompts.items()}
    else:
        named = {text: [text] for text in prompts if isinstance(text, str)}
        if len(named) != len(prompts):
            raise FinerCAMError(f"prompts={list(prompts)[:5]!r}…: expected different texts, one for each class")
    for name, texts in named.items():
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise FinerCAMError(f"prompts: class {name!r} has {texts!r}; expected one text or several")
    return named


def _scale(model: Any, asked: float | None) -> tuple[float, float]:
    if asked is not None:
        return float(asked), 0.0
    scale, bias = getattr(model, "logit_scale", None), getattr(model, "logit_bias", None)
    return (
        float(scale.detach().exp()) if isinstance(scale, Tensor) else 100.0,
        float(bias.detach()) if isinstance(bias, Tensor) else 0.0,
    )
