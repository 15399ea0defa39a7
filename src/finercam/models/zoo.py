"""Models of timm, torchvision, transformers and open_clip, with their preprocessing and class names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finercam.errors import FinerCAMError, suggest
from finercam.images import Preprocess
from finercam.models.loaded import LoadedModel, check_options
from finercam.names import in_order

__all__ = [
    "BUILDERS",
    "ImageTower",
    "from_huggingface",
    "from_open_clip",
    "from_timm",
    "from_torchvision",
    "timm_of_any_size",
]


class ImageTower(nn.Module):
    """The image side of a two-tower model: `(N, 3, H, W)` to embeddings `(N, D)`, or logits with a linear head."""

    def __init__(self, visual: nn.Module, width: int, num_classes: int = 0) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.visual(images)
        return self.head(features[0] if isinstance(features, tuple) else features)


# --- timm


def from_timm(text: str, name: str, options: Mapping[str, Any]) -> LoadedModel:
    """`timm/<name>[.<tag>]`; options go to `timm.create_model`, `pretrained` is true unless given."""
    import timm
    from timm.data.config import resolve_data_config

    options = {"pretrained": True, **options}
    known = [f"timm/{model}" for model in timm.list_models()]
    if ":" not in name and not timm.is_model(name):
        raise FinerCAMError(f"model {text!r}: timm has no such model.{suggest(f'timm/{name}', known)}")
    model = timm.create_model(name, **options)
    size = options.get("img_size")
    preprocess = _timm_preprocess(resolve_data_config(model=model), size)
    return LoadedModel(model, preprocess, _timm_classes(model), name, {"library": "timm", "name": name})


def timm_of_any_size(text: str, name: str, options: Mapping[str, Any]) -> tuple[LoadedModel, dict[str, Any]]:
    """`from_timm`, its transformers told when made to interpolate their position embeddings; and those options."""
    dynamic = {**options, "dynamic_img_size": True}
    try:
        return from_timm(text, name, dynamic), dynamic
    except TypeError:  # a CNN, which knows no such option
        return from_timm(text, name, options), dict(options)


def _timm_preprocess(config: Mapping[str, Any], img_size: Any = None) -> Preprocess:
    size = img_size or config["input_size"][1:]
    size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return Preprocess(
        size=size,
        mode="squash" if config.get("crop_mode") == "squash" else "crop",
        crop_ratio=float(config.get("crop_pct") or 1.0),
        interpolation=_interpolation(config.get("interpolation")),
        mean=_three(config["mean"]),
        std=_three(config["std"]),
    )


def _timm_classes(model: nn.Module) -> list[str] | None:
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    config: Mapping[str, Any] = getattr(model, "pretrained_cfg", {})
    labels, count = config.get("label_names"), getattr(model, "num_classes", 0)
    if labels and len(labels) == count:
        described = config.get("label_descriptions") or {}
        return _distinct(str(described.get(label, label)) for label in labels)
    # Only a head as it was trained has ImageNet's classes; 1000 of one's own do not.
    subset = infer_imagenet_subset(model) if count == config.get("num_classes") else None
    return _distinct(ImageNetInfo(subset).label_descriptions()) if subset else None


# --- torchvision


def from_torchvision(text: str, name: str, options: Mapping[str, Any]) -> LoadedModel:
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
    classes = (
        weights.meta["categories"] if kwargs.get("num_classes", 1000) == len(weights.meta["categories"]) else None
    )
    shown = weights.transforms()
    resize, crop = shown.resize_size[0], shown.crop_size[0]
    preprocess = Preprocess(
        size=(crop, crop),
        crop_ratio=crop / resize,
        interpolation=_interpolation(shown.interpolation.value),
        mean=_three(shown.mean),
        std=_three(shown.std),
    )
    source = {"library": "torchvision", "name": name, "weights": wanted if pretrained else None}
    return LoadedModel(model, preprocess, None if classes is None else _distinct(classes), name, source)


# --- transformers


def from_huggingface(text: str, name: str, options: Mapping[str, Any]) -> LoadedModel:
    """`hf/<org>/<name>` or `hf/<folder>`: an image classifier of transformers; options: `revision`, `pretrained`."""
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.image_processing_base import ImageProcessingMixin

    check_options(text, options, ("revision", "pretrained"))
    if name.startswith(("/", ".")) and not (Path(name) / "config.json").is_file():
        raise FinerCAMError(f"model {text!r}: the folder {name} has no config.json")
    # Were trust_remote_code left open, transformers would ask on the terminal whether to run the model's code.
    extra: dict[str, Any] = {"trust_remote_code": False}
    extra |= {"revision": options["revision"]} if "revision" in options else {}
    config = AutoConfig.from_pretrained(name, **extra)
    if options.get("pretrained", True):
        model = AutoModelForImageClassification.from_pretrained(name, config=config, weights_only=True, **extra)
    else:
        model = AutoModelForImageClassification.from_config(config, trust_remote_code=False)
    timm_config = getattr(config, "pretrained_cfg", None)  # timm models wrapped by transformers
    if timm_config:
        preprocess = _timm_preprocess(timm_config)
    else:
        try:
            settings, _ = ImageProcessingMixin.get_image_processor_dict(name, revision=extra.get("revision"))
        except OSError as error:
            if "preprocessor_config" not in str(error):
                raise
            raise FinerCAMError(
                f"model {text!r}: it has no preprocessor_config.json, so its input is unknown"
            ) from error
        preprocess = processor_settings(settings)
    names: dict[int, str] = getattr(config, "id2label", None) or {}
    return LoadedModel(
        model, preprocess, _distinct(in_order(names) or ()) or None, name, {"library": "transformers", "name": name}
    )


def processor_settings(settings: Mapping[str, Any]) -> Preprocess:
    """An image processor's settings, as in `preprocessor_config.json`, as a Preprocess.

    >>> processor_settings({"size": {"shortest_edge": 256}, "do_center_crop": True, "crop_size": 224}).crop_ratio
    0.875
    """
    try:
        return _processor_settings(settings)
    except FinerCAMError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise FinerCAMError(f"an image processor's settings that cannot be used: {error}"[:300]) from error


def _processor_settings(settings: Mapping[str, Any]) -> Preprocess:
    resized, crop = _sides(settings.get("size")), _sides(settings.get("crop_size"))
    mode, ratio = ("crop" if len(resized) == 1 else "squash"), 1.0
    if settings.get("crop_pct") and resized:
        # ConvNeXt's processor: below 384 pixels a crop of the picture resized to size / crop_pct, else squashed
        ratio, mode = (settings["crop_pct"], "crop") if resized[0] < 384 else (1.0, "squash")
        size = (resized[0], resized[0])
    elif settings.get("do_center_crop") and crop:
        size = (crop[0], crop[-1])
        ratio = size[0] / resized[0] if resized and settings.get("do_resize", True) else 1.0
    elif resized:
        size = (resized[0], resized[-1])
        # a bare number without a crop, as the first ViT processors wrote it, is both sides
        mode = "squash" if isinstance(settings["size"], int) else mode
    else:
        raise FinerCAMError(f"an image processor without a size: {dict(settings)!r:.200}")
    # (255 u · factor − offset − mean) / std in terms of u in [0, 1]
    scale = 255 * settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 255.0
    offset = 1.0 if settings.get("rescale_offset") else 0.0
    normalised = settings.get("do_normalize", True)
    means = settings.get("image_mean") or (0.5,) * 3 if normalised else (0.0,) * 3
    stds = settings.get("image_std") or (0.5,) * 3 if normalised else (1.0,) * 3
    if settings.get("include_top"):  # EfficientNet's processor divides by the deviation once more
        stds = [std * again for std, again in zip(stds, settings["image_std"], strict=True)]
    return Preprocess(
        size=size,
        mode=mode,
        crop_ratio=ratio,
        interpolation=_interpolation(settings.get("resample", 2)),
        mean=_three([(mean + offset) / scale for mean in means]),
        std=_three([std / scale for std in stds]),
    )


def _sides(size: Any) -> tuple[int, ...]:
    """(H, W) if both sides are set, (short side,) if only that is, () if nothing."""
    if isinstance(size, int):
        return (size,)
    if isinstance(size, Mapping):
        if size.get("height") and size.get("width"):
            return int(size["height"]), int(size["width"])
        short = size.get("shortest_edge")
        return (int(short),) if short else ()
    return tuple(int(side) for side in size) if isinstance(size, (list, tuple)) else ()


# --- open_clip


def from_open_clip(text: str, name: str, options: Mapping[str, Any]) -> LoadedModel:
    """`open_clip/<name>/<pretrained>`: the image tower. Options: `pool` (tok as published, avg the patch mean of
    Finer-CAM), `image_size` (`HxW`), `pretrained=false` for random weights."""
    import open_clip

    check_options(text, options, ("pool", "image_size", "pretrained"))
    name, _, tag = name.partition("/")
    if name not in open_clip.list_models():
        raise FinerCAMError(f"model {text!r}: open_clip has no such model.{suggest(name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if options.get("pretrained", True) and tag not in tags:
        raise FinerCAMError(f"model {text!r}: {name} has the weights {', '.join(tags)}.{suggest(tag, tags)}")
    pretrained = tag if options.get("pretrained", True) else None
    model = build_open_clip(name, pretrained, **{k: v for k, v in options.items() if k != "pretrained"})
    settings: Mapping[str, Any] = model.visual.preprocess_cfg  # pyright: ignore[reportAssignmentType]
    size = settings["size"]
    preprocess = Preprocess(
        size=(size, size) if isinstance(size, int) else (size[0], size[1]),
        mode="squash" if settings.get("resize_mode") == "squash" else "crop",
        interpolation=_interpolation(settings.get("interpolation")),
        mean=_three(settings["mean"]),
        std=_three(settings["std"]),
    )
    source = {"library": "open_clip", "name": name, "weights": pretrained, "pool": options.get("pool", "tok")}
    return LoadedModel(model, preprocess, None, f"{name}/{tag}".rstrip("/"), source)


def build_open_clip(
    name: str, pretrained: str | None = None, pool: str | None = None, image_size: Any = None, num_classes: int = 0
) -> ImageTower:
    """An open_clip image tower, with a linear head of `num_classes` if asked for."""
    import open_clip

    model = open_clip.create_model(name, pretrained=pretrained, force_image_size=image_size)
    visual: Any = model.visual
    if pool is not None:
        if pool not in ("tok", "avg") or getattr(visual, "pool_type", "none") == "none":
            raise FinerCAMError(f"open_clip {name}: pool={pool!r} is for CLS pooled ViTs, and is 'tok' or 'avg'")
        visual.pool_type = pool
    width = (open_clip.get_model_config(name) or {}).get("embed_dim", getattr(visual, "output_dim", 0))
    return ImageTower(visual, int(width), num_classes)


# --- architectures without weights, for checkpoint folders


def _timm_empty(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    import timm

    if ":" in name or not timm.is_model(name):
        raise FinerCAMError(f"timm has no architecture {name!r}.{suggest(name, timm.list_models())}")
    return timm.create_model(name, pretrained=False, **kwargs)


def _torchvision_empty(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    import torchvision

    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise FinerCAMError(f"torchvision has no architecture {name!r}.{suggest(name, known)}")
    return torchvision.models.get_model(name, weights=None, **kwargs)


def _transformers_empty(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification

    return AutoModelForImageClassification.from_config(AutoConfig.for_model(name, **kwargs))


def _open_clip_empty(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    import open_clip

    if name not in open_clip.list_models():
        raise FinerCAMError(f"open_clip has no architecture {name!r}.{suggest(name, open_clip.list_models())}")
    return build_open_clip(name, **kwargs)


def _builtin_empty(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    from finercam.models.builtin import ARCHITECTURES

    if name not in ARCHITECTURES:
        raise FinerCAMError(f"no built-in architecture {name!r}.{suggest(name, ARCHITECTURES)}")
    return ARCHITECTURES[name](**kwargs)


def _probed_empty(name: str, kwargs: Mapping[str, Any]) -> nn.Module:
    from finercam.models.probed import build_probed

    return build_probed(name, kwargs)


BUILDERS = {
    "timm": _timm_empty,
    "torchvision": _torchvision_empty,
    "transformers": _transformers_empty,
    "open_clip": _open_clip_empty,
    "builtin": _builtin_empty,
    "probed": _probed_empty,
}
"""Library to a function (name, kwargs) that makes the architecture with random weights."""


# --- in common


def _interpolation(name: Any) -> str:
    """Pillow's name or number as one of the two that Preprocess has; the rarer ones are close to bicubic."""
    return "bilinear" if name in ("bilinear", 2) else "bicubic"


def _three(values: Iterable[float]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third


def _distinct(names: Iterable[str]) -> list[str]:
    """Names by which one class each can be asked for: ImageNet has two cranes and two maillots."""
    names = list(names)
    seen: dict[str, int] = {}
    for name in names:
        seen[name] = seen.get(name, 0) + 1
    return [f"{name} (class {index})" if seen[name] > 1 else name for index, name in enumerate(names)]
