"""Where an image–text model sees what words name: the map of a text against a more general one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM
from finercam.images import Preprocess
from finercam.methods import Method
from finercam.zeroshot import ZeroShotClassifier

__all__ = ["ImageText", "concept_maps", "load_image_text"]


@dataclass(frozen=True)
class ImageText:
    """An image–text model in eval mode with its tokenizer (None: the model's own) and preprocessing."""

    model: nn.Module
    tokenizer: Callable[..., Any] | None
    preprocess: Preprocess
    name: str = ""


def concept_maps(
    model: nn.Module,
    images: Tensor,
    texts: Sequence[str],
    against: str | None = "bird",
    *,
    tokenizer: Callable[..., Any] | None = None,
    templates: Sequence[str] = ("{}",),
    gamma: float = 0.3,
    method: str | Method = "value-attention",
) -> Tensor:
    """Signed maps `(N, T, h, w)` of T texts in N images `(N, 3, H, W)`, each against the general text.

    What all texts share (that there is a bird) is in the general one too, and the contrast takes it away. A general
    text fits all of the object, so a strong contrast leaves nothing: 0.3 was best on Fieldguide (docs/zeroshot.md).
    `against=None` gives the plain maps of the texts alone.

    >>> from finercam.models.twotower import TwoTower
    >>> words = TwoTower(["red", "crest", "beak", "bird"])
    >>> concept_maps(words, torch.zeros(1, 3, 32, 32), ["red crest", "beak"]).shape
    torch.Size([1, 2, 8, 8])
    """
    if isinstance(texts, str) or not texts:
        raise FinerCAMError(f"texts={texts!r}: expected a list of texts")
    if against is not None and against in texts:
        raise FinerCAMError(f"text {against!r} cannot be held against itself; give another one, or a general word")
    distinct = list(dict.fromkeys(texts))
    general = against or f"{distinct[0]} {distinct[0]}"  # without a contrast it is never looked at
    classify = ZeroShotClassifier(model, tokenizer, [*distinct, general], templates).eval()
    strength = 0.0 if against is None else gamma
    explain = FinerCAM(classify, method, keep=range(len(distinct) + 1), gamma=strength, keep_images=False)
    answer = explain(images, target=0, against=len(distinct))
    maps = [answer.ask(target=k, against=len(distinct)).signed for k in range(len(distinct))]
    return torch.stack([maps[distinct.index(text)] for text in texts], 1)


def load_image_text(text: str, device: str | torch.device = "cpu") -> ImageText:
    """An image–text model from a string: `twotower`, a folder that `save_twotower` wrote,
    `open_clip/<name>/<pretrained>`, or `hf/<org>/<name>` (CLIP or SigLIP).

    Raises FinerCAMError, one line, for what does not exist or cannot be reached.

    >>> load_image_text("twotower").preprocess.size
    (128, 128)
    """
    from pathlib import Path

    from finercam.models.hub import fetching
    from finercam.models.twotower import load_twotower

    source, _, name = text.partition("/")
    if text == "twotower" or (Path(text) / "config.json").is_file():
        model, meta = load_twotower(None if text == "twotower" else text)
        return ImageText(model.to(device), None, meta.preprocess, text)
    if source not in ("open_clip", "hf") or not name:
        raise FinerCAMError(
            f"model {text!r}: expected twotower, open_clip/<name>/<pretrained>, hf/<org>/<name>, or a folder"
        )
    with fetching(text):
        found = _from_open_clip(text, name) if source == "open_clip" else _from_transformers(name)
    found.model.to(device).eval()
    return found


def _from_open_clip(text: str, name: str) -> ImageText:
    import open_clip

    from finercam.errors import suggest

    architecture, _, tag = name.partition("/")
    known = open_clip.list_models()
    if architecture not in known:
        raise FinerCAMError(f"model {text!r}: open_clip has no such model.{suggest(architecture, known)}")
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise FinerCAMError(f"model {text!r}: {architecture} has the weights {', '.join(tags)}.{suggest(tag, tags)}")
    model: Any = open_clip.create_model(architecture, pretrained=tag)
    settings = model.visual.preprocess_cfg
    side = settings["size"]
    preprocess = Preprocess(
        size=(side, side) if isinstance(side, int) else (side[0], side[1]),
        mode="squash" if settings.get("resize_mode") == "squash" else "crop",
        interpolation="bilinear" if settings.get("interpolation") == "bilinear" else "bicubic",
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
    )
    return ImageText(model, open_clip.get_tokenizer(architecture), preprocess, text)


def _from_transformers(name: str) -> ImageText:
    from transformers import AutoModel, AutoTokenizer
    from transformers.image_processing_base import ImageProcessingMixin

    from finercam.models.zoo import processor_settings

    # False, and not unset: unset asks at the terminal whether the model's own code may run
    model = AutoModel.from_pretrained(name, weights_only=True, trust_remote_code=False)
    settings, _ = ImageProcessingMixin.get_image_processor_dict(name)
    tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    expected = getattr(getattr(model.config, "text_config", model.config), "vocab_size", 0)
    if (
        len(tokenizer) < expected // 2
    ):  # transformers makes up a tokenizer where there is none, and all texts are alike
        raise FinerCAMError(
            f"hf/{name}: its tokenizer knows {len(tokenizer)} tokens and the model {expected}; add the tokenizer's files"
        )
    return ImageText(model, tokenizer, processor_settings(settings), f"hf/{name}")
