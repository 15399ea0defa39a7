"""Models by name, without their device: timm, torchvision, transformers, open_clip, the built-in ones, and folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from finercam.errors import FinerCAMError, suggest
from finercam.images import Preprocess
from finercam.io import one_line
from finercam.models import huggingface, openclip
from finercam.models.builtin import load_builtin
from finercam.models.directory import is_directory, load_directory, no_directory
from finercam.models.hub import fetching
from finercam.models.loaded import LoadedModel, check_options, distinct_names
from finercam.models.preprocessing import timm_preprocess, torchvision_preprocess
from finercam.models.sources import model_sources

__all__ = ["from_timm", "load_named", "needs_library", "timm_of_any_size"]


def load_named(text: str, name: str, options: Mapping[str, Any], native: bool = False) -> LoadedModel:
    """The model `name` with `options`, both read from the model string `text`; `native` lets timm's ViTs take any size.

    Raises FinerCAMError for a name that does not exist, with the nearest, and for whatever a library could not do.
    """
    source, _, rest = name.partition("/")
    if is_directory(name):
        check_options(text, options, ())
        return load_directory(name)
    if source == "fieldguide":
        check_options(text, options, ())
        return _from_builtin(name if rest else "fieldguide/cnn")
    if source not in _LIBRARIES:
        try:
            there = Path(name).exists()
        except (OSError, ValueError):  # too long for a file name
            there = False
        if there:
            raise no_directory(Path(name))
        known = ", ".join(pattern for pattern, _ in model_sources())
        nearest = suggest(source, [*_LIBRARIES, "fieldguide"]) or f" Known are: {known}."
        raise FinerCAMError(f"model {text!r}: no folder, and no source {source!r}.{nearest}")
    if not rest:
        raise FinerCAMError(f"model {text!r}: name a model after {source}/")
    try:
        with fetching(text), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # weights that are not loaded are the same each time
            if native and source == "timm":
                return timm_of_any_size(text, rest, options)[0]
            return _LIBRARIES[source](text, rest, options)
    except FinerCAMError as error:
        raise needs_library(text, error) from error


def needs_library(text: str, error: FinerCAMError) -> FinerCAMError:
    """The error, or where a library is not installed, one that says what to install."""
    if not isinstance(error.__cause__, ImportError):
        return error
    return FinerCAMError(f"model {text!r} needs a library: {one_line(error.__cause__)}; install finercam[models]")


def from_timm(text: str, name: str, options: Mapping[str, Any]) -> LoadedModel:
    """`timm/<name>[.<tag>]`; options go to `timm.create_model`, `pretrained` is true by default."""
    import timm
    from timm.data.config import resolve_data_config

    options = {"pretrained": True, **options}
    if ":" not in name and not timm.is_model(name):
        nearest = suggest(f"timm/{name}", [f"timm/{model}" for model in timm.list_models()])
        raise FinerCAMError(f"model {text!r}: timm has no such model.{nearest}")
    model = timm.create_model(name, **options)
    preprocess = timm_preprocess(resolve_data_config(model=model), options.get("img_size"))
    return LoadedModel(model, preprocess, _timm_classes(model), name, {"library": "timm", "name": name})


def timm_of_any_size(text: str, name: str, options: Mapping[str, Any]) -> tuple[LoadedModel, dict[str, Any]]:
    """`from_timm` with position embeddings that are interpolated to any size, and the options that do it."""
    dynamic = {**options, "dynamic_img_size": True}
    try:
        return from_timm(text, name, dynamic), dynamic
    except TypeError:  # a CNN, which knows no such option
        return from_timm(text, name, options), dict(options)


def _timm_classes(model: nn.Module) -> list[str] | None:
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    labels, count = config.get("label_names"), getattr(model, "num_classes", 0)
    if labels and len(labels) == count:
        described = config.get("label_descriptions") or {}
        return distinct_names(str(described.get(label, label)) for label in labels)
    # Only a head as it was trained has ImageNet's classes; a head of 1000 other classes has not.
    subset = infer_imagenet_subset(model) if count == config.get("num_classes") else None
    return distinct_names(ImageNetInfo(subset).label_descriptions()) if subset else None


def _from_torchvision(text: str, name: str, options: Mapping[str, Any]) -> LoadedModel:
    """`torchvision/<name>`; options: `pretrained` (true), `weights` (DEFAULT), and what the builder takes."""
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise FinerCAMError(f"model {text!r}: torchvision has no such classifier.{suggest(name, known)}")
    kwargs = {key: value for key, value in options.items() if key not in ("pretrained", "weights")}
    versions = torchvision.models.get_model_weights(name)
    wanted = str(options.get("weights", "DEFAULT"))
    if wanted not in versions.__members__:
        raise FinerCAMError(f"model {text!r}: no weights {wanted!r}, only {', '.join(versions.__members__)}.")
    weights = versions[wanted]
    pretrained = bool(options.get("pretrained", True))
    model = torchvision.models.get_model(name, weights=weights if pretrained else None, **kwargs)
    classes = weights.meta["categories"]
    names = distinct_names(classes) if kwargs.get("num_classes", 1000) == len(classes) else None
    source = {"library": "torchvision", "name": name, "weights": wanted if pretrained else None}
    return LoadedModel(model, torchvision_preprocess(weights.transforms()), names, name, source)


def _from_builtin(name: str) -> LoadedModel:
    model, meta = load_builtin(name)
    preprocess = Preprocess(size=meta.input_size, mean=meta.mean, std=meta.std)
    kwargs = {"num_classes": len(meta.class_names), **meta.options}
    architecture = {"library": "builtin", "name": meta.architecture, "kwargs": kwargs}
    source = {"library": "builtin", "name": name, "layer": meta.layer, "training": meta.training}
    return LoadedModel(model, preprocess, list(meta.class_names), name, {**source, "architecture": architecture})


_LIBRARIES: dict[str, Callable[[str, str, Mapping[str, Any]], LoadedModel]] = {
    "timm": from_timm,
    "torchvision": _from_torchvision,
    "hf": huggingface.load_classifier,
    "open_clip": openclip.load_image_tower,
}
