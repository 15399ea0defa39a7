"""What loading a model gives, and the strings that name one."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from finercam.errors import FinerCAMError, suggest
from finercam.images import Preprocess

__all__ = ["LoadedModel", "check_options", "distinct_names", "parse_options"]


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with its preprocessing and class names; unpacks to these three.

    `source` records where it came from: the string, the library, the architecture, provenance.
    """

    model: nn.Module
    preprocess: Preprocess
    class_names: list[str] | None = None
    name: str = ""
    source: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Any]:
        return iter((self.model, self.preprocess, self.class_names))


def parse_options(text: str) -> tuple[str, dict[str, Any]]:
    """Split `name?key=value&key=value` into the name and its options; values are JSON, `HxW`, or plain text.

    `native` may stand alone: its value is true, false or the longest side.

    >>> parse_options("timm/vit_tiny_patch16_224?pretrained=false&img_size=224x448&global_pool=avg")
    ('timm/vit_tiny_patch16_224', {'pretrained': False, 'img_size': (224, 448), 'global_pool': 'avg'})
    """
    name, _, query = text.partition("?")
    options: dict[str, Any] = {}
    for pair in filter(None, query.split("&")):
        key, equals, value = ("native=true" if pair == "native" else pair).partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_]\w*", key):
            raise FinerCAMError(f"model {text!r:.200}: the option {pair!r:.80} is not of the form key=value")
        options[key] = _value(value)
    return name, options


def _value(text: str) -> Any:
    if re.fullmatch(r"\d+x\d+", text):
        height, width = text.split("x")
        return int(height), int(width)
    try:
        value = json.loads(text.lower() if text.lower() in ("true", "false", "none", "null") else text)
    except ValueError:
        return None if text.lower() == "none" else text
    return tuple(value) if isinstance(value, list) else value


def check_options(text: str, options: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse options that a source does not know; every source knows `native`."""
    known = (*known, "native")
    for key in options:
        if key not in known:
            raise FinerCAMError(
                f"model {text!r}: no option {key!r} here; there are: {', '.join(known)}.{suggest(key, known)}"
            )


def distinct_names(names: Iterable[str]) -> list[str]:
    """Names that each stand for one class: ImageNet has two cranes and two maillots.

    >>> distinct_names(["crane", "heron", "crane"])
    ['crane (class 0)', 'heron', 'crane (class 2)']
    """
    names = list(names)
    count = Counter(names)
    return [f"{name} (class {index})" if count[name] > 1 else name for index, name in enumerate(names)]
