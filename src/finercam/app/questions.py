"""Questions about one picture, as the page asks them: each gives a new answer and leaves the old one as it was."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from time import perf_counter

import numpy as np
import torch
from PIL import Image

from finercam.app.opened import ONE_AT_A_TIME, RIVALS, Opened, explainer
from finercam.certificate import Certificate
from finercam.core.presets import DEFAULT
from finercam.core.references import NONE
from finercam.data.fieldguide import Fieldguide
from finercam.errors import FinerCAMError
from finercam.explanation import Explanation
from finercam.names import label
from finercam.text import score_text, short_names
from finercam.view.shown import shown

__all__ = [
    "STRATEGIES",
    "Picture",
    "Result",
    "ask",
    "birds",
    "first_picture",
    "gallery",
    "look",
    "pick",
    "reverse",
    "rivals",
    "switch",
    "truth",
    "verify",
]

GALLERY, SEED = 12, 4242
STRATEGIES = ("predicted", "similar", "nearest", "all")


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture and what to call it; `bird` is its place among the built-in ones."""

    image: Image.Image
    name: str
    bird: int | None = None


@dataclass(frozen=True, eq=False)
class Result:
    """A picture, the model that explained it, and the answer; `photo (H, W, 3)` is what the maps lie on.

    `method` is a method, or the default preset. `seconds` is how long the answer took, and `ran` whether the model had to run for it. While `alone`, no rival is
    ticked, and the plain map is shown. `certificate` is what the map was checked by, if it was.
    """

    picture: Picture
    opened: Opened
    method: str
    answer: Explanation
    photo: np.ndarray
    texts: tuple[str, ...]
    seconds: float
    ran: bool
    alone: bool = False
    certificate: Certificate | None = None

    @property
    def shown(self) -> Explanation:
        """The answer that is to be seen and saved."""
        return self.answer.plain if self.alone else self.answer

    @property
    def target(self) -> int:
        return int(self.answer.target[0])

    @property
    def against(self) -> list[int]:
        return [] if self.alone else [d for d in self.answer.references[0].tolist() if d != NONE]

    @property
    def classes(self) -> int:
        return self.answer.logits.shape[1]

    def name(self, index: int) -> str:
        """The name to show for a class, as in the panel and the report."""
        names = self.answer.class_names
        return label(index, None) if names is None else short_names(names)[index]

    def score(self, index: int) -> str:
        """The probability of a class for reading, or its score where the model gives no probabilities."""
        return score_text(float(self.answer.probabilities[0, index]), self.answer.link)


@cache
def birds() -> Fieldguide:
    """The birds of the gallery."""
    return Fieldguide(GALLERY, seed=SEED)


@cache
def gallery() -> tuple[Picture, ...]:
    """The built-in pictures, painted on first use; the same on every machine.

    >>> gallery()[0].name
    'Rusty-collared Stilter'
    """
    painted = birds()
    return tuple(Picture(painted.image(i), painted.classes[painted.label(i)], i) for i in range(GALLERY))


def first_picture(opened: Opened, pictures: Sequence[Picture]) -> tuple[Picture, bool]:
    """The picture to open on, and whether the model knows it: a photo that was given, or a bird of one of its classes."""
    if not opened.by_words and pictures[0].bird is None:
        return pictures[0], True
    painted = [picture for picture in pictures if picture.bird is not None]
    usual = painted[5]
    known = [p for p in (usual, *painted) if opened.by_words or p.name in (opened.class_names or ())]
    return (known[0], True) if known else (usual, False)


def look(
    opened: Opened,
    picture: Picture,
    method: str,
    strategy: str = "predicted",
    count: int = 1,
    gamma: float = 0.6,
    weights: str = "mean",
    texts: tuple[str, ...] = (),
) -> Result:
    """Show a picture to a model: why its prediction, and not the rivals that the strategy picks?

    An image–text model compares the first text with the last. Raises FinerCAMError where model, method,
    strategy or texts do not fit.

    >>> from finercam.app.opened import open_model
    >>> result = look(open_model("fieldguide/cnn"), gallery()[0], "gradcam")
    >>> result.ran, result.name(result.target)
    (True, 'Rusty-collared Stilter')
    >>> ask(result, gamma=1.0).ran
    False
    """
    began = perf_counter()
    with ONE_AT_A_TIME:
        explain = explainer(opened, method, texts)
        pixels = opened.preprocess(picture.image)[None]
        if opened.by_words:
            answer = explain(pixels, target=0, against=[len(texts) - 1], gamma=gamma, weights=weights)
        else:
            explain = explain.with_settings(references=strategy, num_references=int(count))
            answer = explain(pixels, gamma=gamma, weights=weights)
    photo = shown(answer, picture.image, opened.preprocess)[0]
    return Result(picture, opened, method, answer, photo, texts, perf_counter() - began, True)


def ask(
    result: Result,
    *,
    target: int | None = None,
    against: Sequence[int] | None = None,
    gamma: float | None = None,
    weights: str | None = None,
) -> Result:
    """Ask about the same picture again; for a new target without rivals the strategy picks them again.

    The model runs only for classes that were not kept. No rival at all asks for the plain map.
    """
    if against is not None and not against:
        return replace(result, seconds=0.0, ran=False, alone=True, certificate=None)
    rivals = None if against is None else [list(against)]
    alone = result.alone and target is None and against is None
    return _answered(result, lambda one: one.ask(target=target, against=rivals, gamma=gamma, weights=weights), alone)


def pick(result: Result, strategy: str, count: int) -> Result:
    """Compare the same target with the rivals that a strategy picks."""

    def again(answer: Explanation) -> Explanation:
        assert answer.backend is not None
        question = answer.question.changed(references=strategy, num_references=int(count))
        rows, logits = answer.backend.head_rows(result.classes), answer.logits
        _, found = question.changed(target=answer.target).bind(1, result.classes).resolve(logits, rows)
        return replace(answer.ask(against=found.ids), strategy=strategy, question=question)

    return _answered(result, again)


def switch(result: Result, method: str) -> Result:
    """The same question by another method, or by the default preset.

    The model runs where the method reads other evidence; the preset also reads other layers.
    """
    if method == result.method:
        return result
    other = DEFAULT in (method, result.method)

    def again(answer: Explanation) -> Explanation:
        if not other:
            return answer.ask(method=method)
        question = answer.question
        strategy = {"references": question.references, "num_references": question.num_references}
        explain = explainer(result.opened, method, result.texts).with_settings(**strategy)
        assert answer.images is not None
        asked = {"gamma": answer.gamma, "weights": answer.contrast.weights, "target": answer.target}
        rivals = [d for d in answer.references[0].tolist() if d != NONE]
        return explain(answer.images, against=[rivals] if rivals else None, **asked)

    return replace(_answered(result, again, result.alone), method=method)


def reverse(result: Result) -> Result:
    """Why would it be the first rival, and not the target?"""
    if not result.against:
        raise FinerCAMError("the question has no rival, so it cannot be reversed; choose one")
    return _answered(result, lambda answer: answer.reverse())


def verify(result: Result) -> Result:
    """The same answer with what the margin becomes without the lit pixels; the model runs on copies of the picture."""
    if not result.against:
        raise FinerCAMError("the question has no rival, so there is no margin to check; choose one")
    with ONE_AT_A_TIME:
        return replace(result, certificate=result.answer.verify())


def rivals(result: Result) -> list[int]:
    """The classes to offer: those of the question, then the likeliest, in the order of their logits."""
    logits = result.answer.logits[0]
    likely = [d for d in logits.topk(min(RIVALS + 1, result.classes)).indices.tolist() if d != result.target]
    offered = set(result.against) | set(likely[: max(RIVALS, len(result.against))])
    return sorted(offered, key=lambda d: -float(logits[d]))


def truth(result: Result) -> tuple[float, float, tuple[str, ...]] | None:
    """Where the deciding pixels are known: the plain and the finer map's share on them in [0, 1], and the parts.

    For a built-in picture of the target, held against one species of its genus.
    """
    from finercam.metrics import energy

    painted, at = birds(), result.picture.bird
    if at is None or list(result.opened.class_names or ()) != painted.classes or len(result.against) != 1:
        return None
    rival = result.against[0]
    if result.target != painted.label(at) or rival not in painted.siblings(result.target):
        return None
    mask = result.opened.preprocess.mask(painted.contrast_mask(at, rival), result.picture.image.size)
    where = torch.from_numpy(mask)[None]
    plain, finer = (float(energy(one.maps.cpu(), where)[0]) for one in (result.answer.plain, result.answer))
    return plain, finer, painted.discriminative_parts(result.target, rival)


def _answered(result: Result, question: Callable[[Explanation], Explanation], alone: bool = False) -> Result:
    began = perf_counter()
    with ONE_AT_A_TIME:
        answer = question(result.answer)
    ran = answer.seen is not result.answer.seen
    return replace(result, answer=answer, seconds=perf_counter() - began, ran=ran, alone=alone, certificate=None)
