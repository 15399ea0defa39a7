"""The settings of trait pages, and the explainer that follows from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from finercam.errors import FinerCAMError, suggest
from finercam.traits.album import Album
from finercam.traits.collect import Collector
from finercam.traits.names import Namer
from finercam.traits.neighbours import BY

if TYPE_CHECKING:
    from finercam.models import LoadedModel

__all__ = ["Request", "collector"]


@dataclass(frozen=True)
class Request:
    """What to compare and how. Raises FinerCAMError for a wrong value.

    `classes` are two classes by name or id; None takes each class with its `nearest` rivals, by "head" or "confusion".
    `photos` of each class are looked at, and the lit regions of the first `removed` of them are removed one by one.
    `words` name the traits, with the image–text model `words_model`. The rest is as in `FinerCAM`.

    >>> Request(photos=1)
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: photos=1: expected a whole number of at least 2
    """

    classes: tuple[Any, Any] | None = None
    nearest: int = 2
    by: str = "head"
    photos: int = 40
    removed: int = 10
    preset: str | None = None
    words: tuple[str, ...] = ()
    words_model: str = "twotower"

    def __post_init__(self) -> None:
        for name, least in (("photos", 2), ("removed", 2), ("nearest", 1)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise FinerCAMError(f"{name}={value!r}: expected a whole number of at least {least}")
        if self.by not in BY:
            raise FinerCAMError(f"by={self.by!r}: expected one of {', '.join(BY)}.{suggest(str(self.by), BY)}")


def collector(model: LoadedModel, album: Album, request: Request) -> Collector:
    """What runs the model for the evidence of a class. The maps of a run decide how others are made."""
    from finercam.explainer import FinerCAM

    if album.run is None:
        explain = FinerCAM(model.model, preset=request.preset, class_names=model.class_names, keep_images=False)
    else:
        explain = album.run.manifest.settings.explainer(model.model)
    namer = Namer()
    if request.words:
        namer = Namer(request.words, _word_maps(model, request), f"words, found by {request.words_model}")
    return Collector(explain, album, model.preprocess, request.removed, namer)


def _word_maps(model: LoadedModel, request: Request) -> Any:
    """Maps of all words in one photo as the classifier takes it."""
    from PIL import Image

    from finercam.concept import concept_maps, load_image_text

    words = load_image_text(request.words_model)

    def maps(image: Tensor) -> Tensor:
        photo = Image.fromarray(model.preprocess.inverse(image))
        return concept_maps(
            words.model, words.preprocess(photo)[None], list(request.words), tokenizer=words.tokenizer
        )[0]

    return maps
