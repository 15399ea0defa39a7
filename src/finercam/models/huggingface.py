"""Models of transformers: classifiers, image towers and image–text models, with their image processors."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from finercam.errors import FinerCAMError, suggest
from finercam.images import Preprocess
from finercam.io import one_line
from finercam.models.budget import MAX_INTEGER, check_settings, is_plain
from finercam.models.loaded import LoadedModel, check_options, distinct_names
from finercam.models.preprocessing import processor_settings, timm_preprocess
from finercam.names import names_in

__all__ = [
    "check_classifier",
    "check_tower",
    "config_names",
    "empty_classifier",
    "empty_tower",
    "load_both_towers",
    "load_classifier",
    "load_tower",
]

# Model types that towers are built from; no other is built because a config.json says so.
_TOWERS = (
    *("dinov2", "dinov2_with_registers", "dinov3_vit", "dinov3_convnext", "vit", "deit", "vit_msn", "ijepa"),
    *("clip", "clip_vision_model", "siglip", "siglip_vision_model"),
    *("resnet", "convnext", "convnextv2", "swin", "swinv2", "mobilenet_v1", "mobilenet_v2", "efficientnet", "regnet"),
)
_LABELS = {"num_labels", "id2label", "label2id", "problem_type"}
# Settings that name another repository, folder or model to build from.
_ELSEWHERE = ("backbone", "implementation", "architecture", "checkpoint_path")


# --- with weights


def load_classifier(text: str, name: str, options: Mapping[str, Any]) -> LoadedModel:
    """`hf/<org>/<name>` or `hf/<folder>`: an image classifier of transformers; options: `revision`, `pretrained`."""
    from transformers import AutoModelForImageClassification

    check_options(text, options, ("revision", "pretrained"))
    extra = _revision(options)
    config = _read_config(text, name, extra)
    if options.get("pretrained", True):
        model = AutoModelForImageClassification.from_pretrained(
            name, config=config, weights_only=True, trust_remote_code=False, **extra
        )
    else:
        model = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    timm_config = getattr(config, "pretrained_cfg", None)  # a timm model in a wrapper of transformers
    preprocess = timm_preprocess(timm_config) if timm_config else _processor(text, name, extra)
    return LoadedModel(model, preprocess, config_names(model), name, {"library": "transformers", "name": name})


def load_tower(text: str, name: str, options: Mapping[str, Any]) -> tuple[nn.Module, Preprocess, dict[str, Any]]:
    """The image tower of a model, its preprocessing, and the architecture that `empty_tower` builds again."""
    check_options(text, options, ("revision",))
    extra = _revision(options)
    config = _read_config(text, name, extra)
    kind, made_with = _tower_class(config.model_type)
    if hasattr(config, "vision_config"):  # of a two-tower model, which keeps the width of the projection outside
        width = getattr(config, "projection_dim", None)
        config = config.vision_config
        config.projection_dim = width or getattr(config, "projection_dim", None)
    model = kind.from_pretrained(name, config=config, weights_only=True, **made_with, **extra)
    settings = _tower_settings(type(model.config), model.config.to_dict())
    architecture = {"library": "transformers", "name": model.config.model_type, "kwargs": settings}
    return model, _processor(text, name, extra), architecture


def load_both_towers(text: str, name: str) -> tuple[nn.Module, Callable[..., Any], Preprocess]:
    """An image–text model (CLIP, SigLIP) with its tokenizer and its preprocessing."""
    from transformers import AutoModel, AutoTokenizer

    config: Any = _read_config(text, name, {})
    model = AutoModel.from_pretrained(name, config=config, weights_only=True, trust_remote_code=False)
    tokenizer: Any = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    expected = getattr(getattr(config, "text_config", config), "vocab_size", 0)
    if len(tokenizer) < expected // 2:  # transformers invents a tokenizer where there is none; all texts are alike
        raise FinerCAMError(
            f"hf/{name}: its tokenizer knows {len(tokenizer)} tokens and the model {expected}; add the tokenizer's files"
        )
    return model, tokenizer, _processor(text, name, {})


def config_names(model: Any) -> list[str] | None:
    """The different class names that a model's configuration carries; None without."""
    names = names_in(model)
    return None if names is None else distinct_names(names)


def _revision(options: Mapping[str, Any]) -> dict[str, Any]:
    return {"revision": options["revision"]} if "revision" in options else {}


def _read_config(text: str, name: str, extra: Mapping[str, Any]) -> Any:
    from transformers import AutoConfig

    if name.startswith(("/", ".")):
        _check_folder(text, Path(name))
    # Without trust_remote_code=False transformers would ask in the terminal whether to run the model's code.
    return AutoConfig.from_pretrained(name, trust_remote_code=False, **extra)


def _check_folder(text: str, folder: Path) -> None:
    """Refuse a folder whose configuration names another repository or folder, before transformers opens that."""
    if not (folder / "config.json").is_file():
        raise FinerCAMError(f"model {text!r}: the folder {folder} has no config.json")
    try:
        waiting = [json.loads((folder / "config.json").read_text(encoding="utf-8"))]
    except (OSError, ValueError, RecursionError) as error:
        raise FinerCAMError(f"model {text!r}: config.json cannot be read: {one_line(error)}") from error
    while waiting:
        settings = waiting.pop()
        for key, value in settings.items() if isinstance(settings, dict) else ():
            if isinstance(value, dict) and key not in _LABELS:
                waiting.append(value)
            elif any(word in key for word in _ELSEWHERE) and isinstance(value, str) and not is_plain(value):
                raise FinerCAMError(f"model {text!r}: its config.json has {key}={value!r:.80}, which leads elsewhere")
            elif key == "num_labels" and isinstance(value, int) and value > MAX_INTEGER:
                raise FinerCAMError(
                    f"model {text!r}: its config.json has {value!r:.40} classes, too many for its weights"
                )


def _processor(text: str, name: str, extra: Mapping[str, Any]) -> Preprocess:
    from transformers.image_processing_base import ImageProcessingMixin

    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(name, **extra)
    except OSError as error:
        if "preprocessor_config" not in str(error):
            raise
        message = f"model {text!r}: it has no preprocessor_config.json, so its input is unknown"
        raise FinerCAMError(message) from error
    return processor_settings(settings)


# --- without weights, as a config.json describes them


def check_classifier(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse a model type that is no image classifier of transformers' own, and settings that it does not declare."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

    known = sorted(set(MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES) - {"timm_wrapper"})  # which opens other places
    if name not in known:
        raise FinerCAMError(f"transformers has no image classifier {name!r:.80} here.{suggest(name, known)}")
    _check_settings(type(AutoConfig.for_model(name)), kwargs)


def check_tower(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse a model type without a known image tower; settings that it does not declare are left out later."""
    from transformers import AutoConfig

    _tower_class(name)
    config_class = type(AutoConfig.for_model(name))
    check_settings(_tower_settings(config_class, kwargs), _declared(config_class) | {"projection_dim"})


def empty_classifier(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The image classifier of a model type that was checked, with random weights."""
    from transformers import AutoConfig, AutoModelForImageClassification

    return AutoModelForImageClassification.from_config(AutoConfig.for_model(name, **kwargs), trust_remote_code=False)


def empty_tower(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The image tower of a model type that was checked, with random weights."""
    from transformers import AutoConfig, AutoModel

    kind, made_with = _tower_class(name)
    config = AutoConfig.for_model(name, **_tower_settings(type(AutoConfig.for_model(name)), kwargs))
    return AutoModel.from_config(config) if kind is AutoModel else kind(config, **made_with)


def _tower_class(model_type: str) -> tuple[Any, dict[str, Any]]:
    """The class of the image tower of a model type, and the options that it is made with."""
    import transformers

    if model_type not in _TOWERS:
        raise FinerCAMError(f"transformers' {model_type!r} is no backbone here; known are {', '.join(_TOWERS)}")
    if model_type.startswith("clip"):
        return transformers.CLIPVisionModelWithProjection, {}
    if model_type.startswith("siglip"):
        return transformers.SiglipVisionModel, {}
    if model_type in ("vit", "deit"):  # without a pooler, which checkpoints of classifiers do not have
        return {"vit": transformers.ViTModel, "deit": transformers.DeiTModel}[model_type], {
            "add_pooling_layer": False
        }
    return transformers.AutoModel, {}


def _tower_settings(config_class: type, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings that the configuration declares, if they are plain; neither code nor other repositories."""
    known = _declared(config_class) - _LABELS | {"projection_dim"}
    return {key: value for key, value in settings.items() if key in known and value is not None and is_plain(value)}


def _check_settings(config_class: Any, kwargs: Mapping[str, Any]) -> None:
    """Refuse what the configuration of a model type does not declare, also in its parts (`vision_config`)."""
    parts = getattr(config_class, "sub_configs", None) or {}
    own = {key: value for key, value in kwargs.items() if key not in ("id2label", "label2id") and key not in parts}
    check_settings(own, _declared(config_class) | _LABELS)
    for key, part in parts.items():
        settings = kwargs.get(key)
        if settings is None:
            continue
        if not isinstance(settings, Mapping) or not hasattr(part, "model_type"):
            raise FinerCAMError(f"the architecture option {key}={settings!r:.80} is not allowed")
        _check_settings(part, {k: v for k, v in settings.items() if (k, v) != ("model_type", part.model_type)})


def _declared(config_class: Any) -> set[str]:
    """The parameters that a configuration declares, but for those that name other places."""
    names: Collection[str] = inspect.signature(config_class.__init__).parameters
    return {name for name in names if not any(word in name for word in _ELSEWHERE)} - {"self", "kwargs"}
