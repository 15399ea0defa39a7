"""Image–text models by name, with their tokenizers and preprocessing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from finercam.errors import FinerCAMError
from finercam.images import Preprocess
from finercam.models import huggingface, openclip
from finercam.models.directory import is_directory
from finercam.models.hub import fetching
from finercam.models.loaded import check_options, parse_options
from finercam.models.twotower import load_twotower
from finercam.models.zoo import needs_library

__all__ = ["ImageText", "load_image_text"]


@dataclass(frozen=True)
class ImageText:
    """An image–text model in eval mode with its tokenizer (None: the model's own) and preprocessing."""

    model: nn.Module
    tokenizer: Callable[..., Any] | None
    preprocess: Preprocess
    name: str = ""


def load_image_text(text: str, device: str | torch.device = "cpu") -> ImageText:
    """An image–text model from a string: `twotower`, a folder of such a model, `open_clip/<name>/<pretrained>`, or
    `hf/<org>/<name>` (CLIP or SigLIP), `open_clip/bioclip`; of open_clip with `?pretrained=false` and `?image_size=`.

    Raises FinerCAMError, one line, for what does not exist or cannot be reached.

    >>> load_image_text("twotower").preprocess.size
    (128, 128)
    """
    if text == "twotower" or is_directory(text):
        model, meta = load_twotower(None if text == "twotower" else text)
        return ImageText(model.to(device), None, meta.preprocess, text)
    full_name, options = parse_options(text)
    source, _, name = full_name.partition("/")
    if source not in ("open_clip", "hf") or not name:
        raise FinerCAMError(
            f"model {text!r}: expected twotower, open_clip/<name>/<pretrained>, hf/<org>/<name>, or a folder"
        )
    try:
        with fetching(text):
            if source == "open_clip":
                model, tokenizer, preprocess = openclip.load_both_towers(text, name, options)
            else:
                check_options(text, options, ())
                model, tokenizer, preprocess = huggingface.load_both_towers(text, name)
    except FinerCAMError as error:
        raise needs_library(text, error) from error
    return ImageText(model.to(device).eval(), tokenizer, preprocess, text)
