"""From a string to a model with its preprocessing and class names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from finercam.errors import FinerCAMError
from finercam.io import one_line
from finercam.models.loaded import LoadedModel, parse_options
from finercam.models.native import at_native_size, longest_side
from finercam.models.zoo import load_named

__all__ = ["load_model"]


def load_model(text: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> LoadedModel:
    """A model in eval mode with its preprocessing and class names, from one string.

    `model_sources()` lists the forms; with `?native` or `?native=1000` images keep their shape. Raises FinerCAMError,
    one line, for a name that does not exist (with the nearest), a library that is not installed, a hub that cannot be
    reached, and weights that do not fit or could run code.

    >>> load_model("tim/resnet50")
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: model 'tim/resnet50': no folder, and no source 'tim'. Did you mean 'timm'?
    """
    name, options = parse_options(str(text))
    max_side = longest_side(str(text), options)
    options.pop("native", None)
    loaded = load_named(str(text), name, options, native=max_side is not None)
    if max_side is not None:
        loaded = at_native_size(str(text), loaded, max_side)
    try:
        model = loaded.model.to(device=device, dtype=dtype).eval()
    except (RuntimeError, AssertionError) as error:
        raise FinerCAMError(f"device {str(device)!r} cannot be used: {one_line(error)}") from error
    return replace(loaded, model=model, source={"model": str(text), **loaded.source})
