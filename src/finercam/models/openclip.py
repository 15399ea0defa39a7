"""Models of open_clip: image towers, and image–text models with their tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finercam.errors import FinerCAMError, suggest
from finercam.images import Preprocess
from finercam.io import one_line
from finercam.models.budget import check_settings
from finercam.models.loaded import LoadedModel, check_options
from finercam.models.preprocessing import open_clip_preprocess

__all__ = ["ImageTower", "check_image_tower", "empty_image_tower", "load_both_towers", "load_image_tower"]


REPOSITORIES = ("hf-hub:", "local-dir:")
"""How a name of open_clip begins that has its configuration beside its weights."""
PUBLISHED = {"bioclip": "hf-hub:imageomics/bioclip", "bioclip-2": "hf-hub:imageomics/bioclip-2"}
"""Short names: models of species by their taxonomic names (Stevens et al., CVPR 2024; Gu et al., 2025)."""


class ImageTower(nn.Module):
    """The image side of a two-tower model: `(N, 3, H, W)` to embeddings `(N, D)`, or logits with a linear head."""

    def __init__(self, visual: nn.Module, width: int, num_classes: int = 0) -> None:
        super().__init__()
        self.visual = visual
        self.head = nn.Linear(width, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        features = self.visual(images)
        return self.head(features[0] if isinstance(features, tuple) else features)


def load_image_tower(text: str, name: str, options: Mapping[str, Any]) -> LoadedModel:
    """`open_clip/<name>/<pretrained>`, `open_clip/bioclip`: the image tower. Options: `pool` (tok as published, avg the patch mean of
    Finer-CAM), `image_size` (`HxW`), `pretrained=false` for random weights."""
    check_options(text, options, ("pool", "image_size", "pretrained"))
    model, preprocess, name, tag = _create(text, name, options)
    _set_pool(name, model.visual, options.get("pool"))
    source = {"library": "open_clip", "name": name, "weights": tag, "pool": options.get("pool", "tok")}
    tower = ImageTower(model.visual, _width(name, model.visual))
    return LoadedModel(tower, preprocess, None, f"{name}/{tag}" if tag else name, source)


def load_both_towers(
    text: str, name: str, options: Mapping[str, Any]
) -> tuple[nn.Module, Callable[..., Any], Preprocess]:
    """The whole image–text model of `open_clip/<name>/<pretrained>`, its tokenizer and its preprocessing."""
    import open_clip

    check_options(text, options, ("image_size", "pretrained"))
    model, preprocess, name, _ = _create(text, name, options)
    return model, open_clip.get_tokenizer(name), preprocess


def check_image_tower(name: str, kwargs: Mapping[str, Any]) -> None:
    """Refuse names and options that `empty_image_tower` does not know."""
    import open_clip

    if name not in open_clip.list_models():
        raise FinerCAMError(f"open_clip has no architecture {name!r}.{suggest(name, open_clip.list_models())}")
    check_settings(kwargs, ("pool", "image_size", "num_classes"))


def empty_image_tower(name: str, kwargs: Mapping[str, Any]) -> ImageTower:
    """An image tower with random weights, with a linear head of `num_classes` if given.

    The text tower is not built: it may be large, and some are described by a repository of the hub.
    """
    import open_clip
    from open_clip.model import _build_vision_tower

    config: dict[str, Any] = open_clip.get_model_config(name) or {}
    vision = {**config["vision_cfg"], "timm_model_pretrained": False}
    if kwargs.get("image_size"):
        vision["image_size"] = kwargs["image_size"]
    visual = _build_vision_tower(config["embed_dim"], vision, bool(config.get("quick_gelu")))  # type: ignore[arg-type]
    _set_pool(name, visual, kwargs.get("pool"))
    return ImageTower(visual, _width(name, visual), int(kwargs.get("num_classes") or 0))


def _create(text: str, name: str, options: Mapping[str, Any]) -> tuple[Any, Preprocess, str, str | None]:
    """The model, its preprocessing, its architecture's name, and the tag of its weights, None for random ones."""
    import open_clip

    if name in PUBLISHED or name.startswith(REPOSITORIES):
        return _from_repository(text, PUBLISHED.get(name, name), options)
    name, _, tag = name.partition("/")
    if name not in open_clip.list_models():
        raise FinerCAMError(f"model {text!r}: open_clip has no such model.{suggest(name, open_clip.list_models())}")
    pretrained = bool(options.get("pretrained", True))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained and tag not in tags:
        published = (
            f"has the weights {', '.join(tags)}" if tags else "has no published weights; use ?pretrained=false"
        )
        raise FinerCAMError(f"model {text!r}: {name} {published}.{suggest(tag, tags)}")
    model: Any = open_clip.create_model(
        name, pretrained=tag if pretrained else None, force_image_size=options.get("image_size")
    )
    return model, open_clip_preprocess(model.visual.preprocess_cfg), name, tag if pretrained else None


def _from_repository(text: str, name: str, options: Mapping[str, Any]) -> tuple[Any, Preprocess, str, str]:
    """A model with its own configuration: `hf-hub:<org>/<name>`, as BioCLIP is published, or `local-dir:<folder>`.

    Raises FinerCAMError for random weights, and for a folder whose configuration names other repositories.
    """
    import open_clip

    if not options.get("pretrained", True):
        raise FinerCAMError(f"model {text!r}: its weights are in its repository, so pretrained=false does not apply")
    kind, _, place = name.partition(":")
    if kind == "local-dir":
        _check_folder(text, Path(place))
    try:
        model: Any = open_clip.create_model(
            name, force_image_size=options.get("image_size"), require_pretrained=True, weights_only=True
        )
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        if kind == "hf-hub":
            raise
        raise FinerCAMError(f"model {text!r}: {one_line(error)}") from error
    return model, open_clip_preprocess(model.visual.preprocess_cfg), name, "its own"


def _check_folder(text: str, folder: Path) -> None:
    """Refuse a folder that is none of open_clip's, or that would build parts from another repository."""
    try:
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))["model_cfg"]
        parts = [config["vision_cfg"], config["text_cfg"]]
        named = [key for part in parts for key in part if key.startswith("hf_") or key == "timm_model_pretrained"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FinerCAMError(
            f"model {text!r}: {folder} has no open_clip_config.json with model_cfg, vision_cfg and text_cfg "
            f"({one_line(error)})"
        ) from None
    if any(part[key] for part in parts for key in named if key in part):
        raise FinerCAMError(f"model {text!r}: its configuration names another repository ({named[0]}); refused")


def _set_pool(name: str, visual: Any, pool: str | None) -> None:
    if pool is None:
        return
    if pool not in ("tok", "avg") or getattr(visual, "pool_type", "none") == "none":
        raise FinerCAMError(f"open_clip {name}: pool={pool!r} is for CLS pooled ViTs, and is 'tok' or 'avg'")
    visual.pool_type = pool


def _width(name: str, visual: Any) -> int:
    import open_clip

    if name.startswith(REPOSITORIES):
        return int(getattr(visual, "output_dim", 0) or visual.head.proj.out_features)
    return int((open_clip.get_model_config(name) or {}).get("embed_dim", getattr(visual, "output_dim", 0)))
