"""Architectures: models with random weights, by library, name and options. Nothing is fetched, and no file is opened."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from finercam.errors import FinerCAMError, suggest
from finercam.io import one_line
from finercam.models import huggingface, openclip
from finercam.models.budget import Budget, check_settings, reaches_out
from finercam.models.builtin import ARCHITECTURES
from finercam.models.native import encoder
from finercam.models.towers import Tower, tower_of

__all__ = ["Probed", "build_architecture", "build_tower", "check_architecture"]


class Probed(nn.Module):
    """Pooled features of a tower into one linear layer: images `(N, 3, H, W)` to logits `(N, C)`.

    With patches pooled by their mean and the target layer set to the last normalisation, the weights of the
    activations are the head's rows over the number of patches: α_c ∝ W_c (Finer-CAM, Eq. 4).
    """

    def __init__(self, backbone: Tower, head: nn.Linear) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))

    def get_classifier(self) -> nn.Linear:
        return self.head


def build_architecture(architecture: Any, where: str = "architecture", budget: int | None = None) -> nn.Module:
    """The model that an architecture names, with random weights; only the known libraries can be named.

    `budget` limits the numbers that the model may hold, beyond a floor of 32 million: see `finercam.models.budget`.
    Raises FinerCAMError, beginning with `where`, for what is not known, not allowed, or cannot be built.

    >>> build_architecture({"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 2}}).head.out_features
    2
    """
    check_architecture(architecture, where)
    library, name = architecture["library"], architecture["name"]
    kwargs = architecture.get("kwargs", {})
    if library != "transformers":  # whose configurations distinguish lists from tuples
        kwargs = {k: tuple(v) if isinstance(v, list) else v for k, v in kwargs.items()}
    try:
        with torch.random.fork_rng(devices=[]), nullcontext() if budget is None else Budget(budget):
            return BUILDERS[library](name, kwargs)
    except FinerCAMError as error:
        raise FinerCAMError(f"{where}: {error}") from error
    except Exception as error:
        raise FinerCAMError(f"{where}: {library} cannot build {name!r:.80}: {one_line(error)}") from error


def check_architecture(architecture: Any, where: str) -> None:
    """Raise FinerCAMError for an architecture that `build_architecture` would refuse for its names and options."""
    if not isinstance(architecture, Mapping) or set(architecture) - {"library", "name", "kwargs"}:
        raise FinerCAMError(f"{where}: architecture must have library, name and kwargs, not {architecture!r:.200}")
    library, name, kwargs = architecture.get("library"), architecture.get("name"), architecture.get("kwargs", {})
    if not isinstance(library, str) or library not in BUILDERS:
        nearest = suggest(str(library)[:80], BUILDERS)
        raise FinerCAMError(f"{where}: unknown library {library!r:.80}; known are {', '.join(BUILDERS)}.{nearest}")
    if not isinstance(name, str) or len(name) > 200 or not isinstance(kwargs, Mapping):
        raise FinerCAMError(f"{where}: architecture name must be text and kwargs a table")
    try:
        _CHECKS[library](name, kwargs)
    except FinerCAMError as error:
        raise FinerCAMError(f"{where}: {error}") from error
    except RecursionError as error:
        raise FinerCAMError(f"{where}: the architecture is nested too deeply") from error
    except ImportError as error:
        raise FinerCAMError(f"{where}: needs {library}, which is not installed: {one_line(error)}") from error


def build_tower(architecture: Mapping[str, Any]) -> Tower:
    """The tower that `Backbone.architecture` names, with random weights; nothing is fetched."""
    _check_tower(architecture)
    library, name, kwargs = architecture["library"], architecture["name"], architecture["kwargs"]
    if library == "transformers":
        model = huggingface.empty_tower(name, kwargs)
    else:
        model = encoder(build_architecture({"library": library, "name": name, "kwargs": kwargs}))
    return tower_of(model, str(architecture["pool"]))


def _check_tower(architecture: Any) -> None:
    if not isinstance(architecture, Mapping) or set(architecture) != {"library", "name", "kwargs", "pool"}:
        raise FinerCAMError(f"a backbone needs library, name, kwargs and pool, not {architecture!r:.200}")
    library, name, kwargs = architecture["library"], architecture["name"], architecture["kwargs"]
    if library == "transformers" and isinstance(name, str) and isinstance(kwargs, Mapping):
        huggingface.check_tower(name, kwargs)
    else:
        check_architecture({"library": library, "name": name, "kwargs": kwargs}, "backbone")


# --- what each library allows and builds


def _check_timm(name: str, kwargs: Mapping[str, Any]) -> None:
    import timm

    if ":" in name or not timm.is_model(name):
        raise FinerCAMError(f"timm has no architecture {name!r}.{suggest(name, timm.list_models())}")
    check_settings(kwargs, _parameters(timm.model_entrypoint(name)) | {"bn_eps", "bn_momentum"})


def _build_timm(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    import timm

    return timm.create_model(name, pretrained=False, **kwargs)


def _check_torchvision(name: str, kwargs: Mapping[str, Any]) -> None:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise FinerCAMError(f"torchvision has no architecture {name!r}.{suggest(name, known)}")
    check_settings(kwargs, _parameters(torchvision.models.get_model_builder(name)))


def _build_torchvision(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    import torchvision

    return torchvision.models.get_model(name, weights=None, **kwargs)


def _parameters(builder: Any) -> set[str]:
    """What the networks, settings and functions in a builder's file take, but for what would open other places."""
    module = sys.modules[inspect.unwrap(builder).__module__]
    names: set[str] = set()
    for value in vars(module).values():
        is_network = inspect.isclass(value) and (issubclass(value, nn.Module) or is_dataclass(value))
        if is_network or (inspect.isfunction(value) and value.__module__ == module.__name__):
            names |= set(inspect.signature(inspect.unwrap(value)).parameters)
    return {name for name in names if not reaches_out(name)}


def _check_builtin(name: str, kwargs: Mapping[str, Any]) -> None:
    if name not in ARCHITECTURES:
        raise FinerCAMError(f"no built-in architecture {name!r}.{suggest(name, ARCHITECTURES)}")
    check_settings(kwargs)


def _build_builtin(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    return ARCHITECTURES[name](**kwargs)


def _check_probed(name: str, kwargs: Mapping[str, Any]) -> None:
    if set(kwargs) != {"backbone", "dim", "num_classes", "bias"}:
        raise FinerCAMError(
            f"a probed model needs backbone, dim, num_classes and bias, not {', '.join(map(str, kwargs))}"
        )
    check_settings({key: value for key, value in kwargs.items() if key != "backbone"})
    _check_tower(kwargs["backbone"])


def _build_probed(name: str, kwargs: Mapping[str, Any]) -> Probed:
    head = nn.Linear(int(kwargs["dim"]), int(kwargs["num_classes"]), bias=bool(kwargs["bias"]))
    return Probed(build_tower(kwargs["backbone"]), head)


BUILDERS = {
    "timm": _build_timm,
    "torchvision": _build_torchvision,
    "transformers": huggingface.empty_classifier,
    "open_clip": openclip.empty_image_tower,
    "builtin": _build_builtin,
    "probed": _build_probed,
}
"""Library to a function (name, kwargs) that makes the architecture with random weights."""

_CHECKS = {
    "timm": _check_timm,
    "torchvision": _check_torchvision,
    "transformers": huggingface.check_classifier,
    "open_clip": openclip.check_image_tower,
    "builtin": _check_builtin,
    "probed": _check_probed,
}
