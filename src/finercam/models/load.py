"""From a string to a model with its preprocessing and class names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from finercam.errors import FinerCAMError, suggest
from finercam.images import Preprocess
from finercam.io import one_line
from finercam.models import zoo
from finercam.models.directory import load_directory
from finercam.models.hub import fetching
from finercam.models.loaded import LoadedModel, check_options, parse_options
from finercam.models.native import at_native_size, longest_side

__all__ = ["load_model", "model_sources"]

_ZOOS = {
    "timm": zoo.from_timm,
    "torchvision": zoo.from_torchvision,
    "hf": zoo.from_huggingface,
    "open_clip": zoo.from_open_clip,
}


def model_sources() -> list[tuple[str, str]]:
    """What `load_model` reads, as (pattern, description).

    >>> model_sources()[0][0]
    'fieldguide/cnn'
    """
    from finercam.models.builtin import builtin_names

    return [
        *((name, "built in, trained on the Fieldguide benchmark; no network") for name in builtin_names()),
        ("FOLDER", "a model folder: model.safetensors + config.json"),
        ("timm/<name>", "timm; options as ?key=value, such as ?pretrained=false&num_classes=10&img_size=224x448"),
        ("torchvision/<name>", "torchvision; ?weights=IMAGENET1K_V1, ?pretrained=false&num_classes=10"),
        ("hf/<org>/<name>", "a transformers image classifier of the hub; ?revision=main"),
        ("hf/<folder>", "the same from a folder: hf/./relative or hf//absolute"),
        ("open_clip/<name>/<pretrained>", "the image tower of a CLIP model; ?pool=avg (patch mean) or tok (CLS)"),
        ("…?native=1000", "any of these at each picture's own shape, the longest side at most 1000 pixels"),
    ]


def load_model(text: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> LoadedModel:
    """A model in eval mode with its preprocessing and class names, from one string.

    `model_sources()` lists the forms; with `?native` or `?native=1000` pictures keep their shape. Raises FinerCAMError, one line, for a name that does not exist (with the
    nearest), a library that is not installed, a hub that cannot be reached, weights that do not fit or could
    run code.

    >>> load_model("tim/resnet50")
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: model 'tim/resnet50': no folder, and no source 'tim'. Did you mean 'timm'?
    """
    with torch.random.fork_rng(devices=[]):  # weights that are not loaded are the same each time
        torch.manual_seed(0)
        loaded = _load(str(text))
    try:
        model = loaded.model.to(device=device, dtype=dtype).eval()
    except (RuntimeError, AssertionError) as error:
        raise FinerCAMError(f"device {str(device)!r} cannot be used: {one_line(error)}") from error
    return replace(loaded, model=model, source={"model": str(text), **loaded.source})


def _load(text: str) -> LoadedModel:
    name, options = parse_options(text)
    max_side = longest_side(text, options)
    options.pop("native", None)
    loaded = _named(text, name, options, max_side is not None)
    return loaded if max_side is None else at_native_size(text, loaded, max_side)


def _named(text: str, name: str, options: dict[str, Any], native: bool) -> LoadedModel:
    source, _, rest = name.partition("/")
    try:
        folder, there = (Path(name) / "config.json").is_file(), Path(name).exists()
    except (OSError, ValueError):  # too long for a file name
        folder = there = False
    if folder:
        check_options(text, options, ())
        return load_directory(name)
    if source == "fieldguide":
        check_options(text, options, ())
        return _builtin(name if rest else "fieldguide/cnn")
    if source in _ZOOS:
        if not rest:
            raise FinerCAMError(f"model {text!r}: name a model after {source}/")
        try:
            with fetching(text):
                if native and source == "timm":
                    return zoo.timm_of_any_size(text, rest, options)[0]
                return _ZOOS[source](text, rest, options)
        except FinerCAMError as error:
            if isinstance(error.__cause__, ImportError):
                raise FinerCAMError(
                    f"model {text!r} needs a library: {one_line(error.__cause__)}; install finercam[models]"
                ) from error
            raise
    if there:
        raise FinerCAMError(f"{name} is not a model folder: it has no config.json")
    known = [*_ZOOS, "fieldguide"]
    raise FinerCAMError(f"model {text!r}: no folder, and no source {source!r}.{suggest(source, known) or _known()}")


def _known() -> str:
    return " Known are: " + ", ".join(pattern for pattern, _ in model_sources()) + "."


def _builtin(name: str) -> LoadedModel:
    from finercam.models.builtin import load_builtin

    model, meta = load_builtin(name)
    preprocess = Preprocess(size=meta.input_size, mean=meta.mean, std=meta.std)
    source = {"library": "builtin", "name": name, "layer": meta.layer, "training": meta.training}
    return LoadedModel(model, preprocess, list(meta.class_names), name, source)
