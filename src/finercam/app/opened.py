"""A model ready to be asked in the app: a classifier with its classes, or an image–text model with texts for classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from threading import RLock

from torch import nn

from finercam.core.presets import DEFAULT, PRESETS
from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM
from finercam.images import Preprocess

__all__ = ["ONE_AT_A_TIME", "RIVALS", "Opened", "explainer", "model_choices", "open_model", "read_texts"]

RIVALS = 9
"""Rival classes that the page offers, and whose evidence is kept."""

MOST_TEXTS = 40
WORDS = "twotower"

ONE_AT_A_TIME = RLock()
"""While a model runs it has hooks and frozen parameters: two questions at once would see each other's."""


@dataclass(frozen=True, eq=False)
class Opened:
    """A model with its preprocessing; `class_names` is None for an image–text model, whose classes are typed."""

    name: str
    model: nn.Module
    preprocess: Preprocess
    class_names: tuple[str, ...] | None
    by_words: bool = False
    tokenizer: object = None

    @property
    def usual_method(self) -> str:
        """A method, or the name of the preset that `FinerCAM(model)` takes."""
        return "value-attention" if self.by_words else DEFAULT

    @property
    def usual_gamma(self) -> float:
        """The best of the measured ones: docs/fine.md, docs/zeroshot.md."""
        return 0.3 if self.by_words else PRESETS[DEFAULT].gamma


def model_choices(more: Sequence[str] = ()) -> list[str]:
    """The models to choose from: those given, the built-in ones, and the image–text model where it is shipped.

    >>> "fieldguide/cnn" in model_choices() and model_choices(["timm/resnet50"])[0]
    'timm/resnet50'
    """
    from finercam.models.sources import builtin_names
    from finercam.models.twotower import load_twotower

    found = [*more, *builtin_names()]
    with suppress(FinerCAMError):  # a package without its weights does not offer it
        load_twotower()
        found.append(WORDS)
    return list(dict.fromkeys(found))


def open_model(text: str) -> Opened:
    """The model that a string names: as for `load_model`, or an image–text model (`twotower`, a folder that
    `save_twotower` wrote, `open_clip/<name>/<pretrained>`). The last few stay loaded.

    Raises FinerCAMError, one line, for what cannot be loaded.

    >>> open_model("fieldguide/cnn").by_words
    False
    """
    with ONE_AT_A_TIME:
        return _open(text.strip())


@lru_cache(maxsize=4)
def _open(text: str) -> Opened:
    if not text:
        raise FinerCAMError("no model was named; choose one, or type timm/<name> or a folder")
    if text == WORDS or text.startswith("open_clip/") or _is_twotower(text):
        from finercam.concept import load_image_text

        found = load_image_text(text)
        return Opened(text, found.model, found.preprocess, None, True, found.tokenizer)
    from finercam.models import load_model

    loaded = load_model(text)
    return Opened(text, loaded.model, loaded.preprocess, tuple(loaded.class_names) if loaded.class_names else None)


def _is_twotower(text: str) -> bool:
    try:
        config = json.loads((Path(text) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("format") == "finercam-twotower"


def read_texts(typed: str) -> tuple[str, ...]:
    """Texts separated by commas or lines, each once.

    >>> read_texts("red crest, blue crest,, bird")
    ('red crest', 'blue crest', 'bird')
    """
    texts = [" ".join(text.split()) for text in typed.replace("\n", ",").split(",")]
    texts = list(dict.fromkeys(text for text in texts if text))
    if not 2 <= len(texts) <= MOST_TEXTS:
        raise FinerCAMError(
            f"{len(texts)} different texts; give 2 to {MOST_TEXTS}, separated by commas: what to look for first, the "
            "general word it is held against last"
        )
    return tuple(texts)


def explainer(opened: Opened, method: str, texts: tuple[str, ...] = ()) -> FinerCAM:
    """The explainer of a model, for a method or for the default preset.

    A method keeps enough for every question that the page offers. The preset keeps any γ of the question and the plain
    map beside it: each further class costs a run of all its layers backwards.
    """
    with ONE_AT_A_TIME:
        return _explainer(opened, method, texts if opened.by_words else ())


@lru_cache(maxsize=8)
def _explainer(opened: Opened, method: str, texts: tuple[str, ...]) -> FinerCAM:
    if not opened.by_words and method == DEFAULT:
        return FinerCAM(opened.model, preset=method, class_names=opened.class_names, keep="contrast")
    if not opened.by_words:
        return FinerCAM(opened.model, method, class_names=opened.class_names, keep=RIVALS + 1)
    from finercam.zeroshot import ZeroShotClassifier

    classify = ZeroShotClassifier(opened.model, opened.tokenizer, texts)  # pyright: ignore[reportArgumentType]
    return FinerCAM(classify, method, class_names=texts, keep=tuple(range(len(texts))))
