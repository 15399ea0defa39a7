"""Figures of an explanation: the panel, a strip over gamma, a column for each rival, and the pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from finercam.beside import main_rival as closest
from finercam.core.evidence import NotKept
from finercam.core.maps import peak, upsample
from finercam.core.references import NONE
from finercam.errors import FinerCAMError
from finercam.text import closed, score_text, short_names
from finercam.view.blend import pixels, signed
from finercam.view.drawn import MUTE, picture, smooth, strength_of
from finercam.view.sheet import Cell, Line, png, sheet
from finercam.view.shown import Display, one_each, shown
from finercam.view.slices import slices
from finercam.view.strength import strength

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finercam.explanation import Explanation

__all__ = [
    "closest",
    "difference",
    "gamma_strip",
    "how",
    "name_of",
    "pair",
    "panel",
    "panel_png",
    "question",
    "rather",
    "reference_grid",
]


MOST_NAMED = 3
"""How many references are named under a picture; for the others only their number is shown."""


def panel(
    answer: Explanation,
    image: Any = None,
    example: Any = None,
    *,
    preprocess: Display | None = None,
    verify: bool = False,
) -> Figure:
    """A row for each image: photo, plain map, finer map, finer map against the closest class, signed difference.

    `image` is the photo (or one for each image) as in `finercam.view.shown`; None shows the stored images. `example`
    is a picture of the closest reference class, or one for each image. If the stored evidence is not enough for a
    column, it says so. Volumes are shown by slices, see `finercam.view.slices`. With `verify` the model runs again, and
    the finer map's caption says what the margin becomes without the lit pixels.

    Raises FinerCAMError for pictures that do not fit the explanation.
    """
    if len(answer.image_size) == 3:
        if example is not None:
            raise FinerCAMError("an example is a picture, and these are volumes; leave example= out")
        return slices(answer, image, words=(question(answer) if len(answer) == 1 else "", how(answer)))
    photos = shown(answer, image, preprocess)
    examples = [None] * len(answer) if example is None else one_each(example, len(answer))
    rows = [_panel_row(*row, verify) for row in zip(answer, photos, examples, strict=True)]
    return sheet(rows, question(answer) if len(answer) == 1 else "", how(answer))


def panel_png(
    answer: Explanation, image: Any = None, example: Any = None, *, preprocess: Display | None = None
) -> bytes:
    """The panel as the bytes of a PNG file; arguments and errors as in `panel`."""
    return png(panel(answer, image, example, preprocess=preprocess))


def gamma_strip(
    answer: Explanation,
    gammas: Sequence[float] = (0.0, 0.3, 0.6, 0.9, 1.2),
    image: Any = None,
    *,
    preprocess: Display | None = None,
) -> Figure:
    """The same question at several strengths of the contrast, a row for each image; 0 is the plain map."""
    photos = shown(answer, image, preprocess)
    answers = [answer.ask(gamma=float(gamma)) for gamma in gammas]
    rows = []
    for sample, photo in enumerate(photos):
        cells = [_heat(photo, one[sample], f"γ = {gamma:g}") for gamma, one in zip(gammas, answers, strict=True)]
        rows.append([_photo(photo, answer[sample]), *cells])
    return sheet(rows, question(answer) if len(answer) == 1 else "", how(answer, gamma=False))


def reference_grid(answer: Explanation, image: Any = None, *, preprocess: Display | None = None) -> Figure:
    """A column for each rival of one image: the finer map against that class, and below it the signed difference.

    Raises FinerCAMError for an explanation of several images (use `answer[i]`) or without references.
    """
    _single(answer, "reference_grid")
    photo = shown(answer, image, preprocess)[0]
    upper: list[Cell] = [_photo(photo, answer)]
    lower: list[Cell] = [Cell(None, "")]
    for place, d in enumerate(_rivals(answer)):
        similarity = float(answer.similarity[0, place])
        near = () if np.isnan(similarity) else (Line(f"similarity {similarity:.2f}", lines=1),)
        rival = torch.tensor([d])
        upper.append(_against(photo, answer, rival, near))
        lower.append(_signed(photo, answer, rival, title=""))
    return sheet([upper, lower], f"Why {name_of(answer)}, and not each of its rivals?", how(answer))


def pair(answer: Explanation, against: Any = None, image: Any = None, *, preprocess: Display | None = None) -> Figure:
    """Compare two classes of one image at gamma 1: the evidence for each, and both in one map.

    `against` is a class id or name; None means the closest reference. Raises FinerCAMError for an explanation of
    several images (use `answer[i]`), and if the stored evidence cannot answer the reverse question.
    """
    _single(answer, "pair")
    photo = shown(answer, image, preprocess)[0]
    one = answer if against is None else answer.ask(against=[against])
    forward, reverse = _both_ways(one, closest(one))
    c, d = name_of(forward), name_of(reverse)
    cells = [
        _photo(photo, answer),
        _heat(photo, forward, f"For {c}", (_itself(forward),)),
        _heat(photo, reverse, f"For {d}", (_itself(reverse),)),
        _both(photo, forward, reverse, "Both"),
    ]
    return sheet([cells], f"{c}, or {d}?", how(forward))


def difference(answer: Explanation, rival: Tensor | None = None) -> Tensor:
    """The evidence for the target (+) and for one rival (-) on one scale, `(N, H, W)` in [-1, 1].

    `ReLU(S_c|d) - ReLU(S_d|c)` at gamma 1, which is `S_c - S_d` for methods that are linear in the contrast.
    `rival (N,)` are class ids, or None for the closest references. Raises NotKept if the stored evidence cannot answer
    the reverse question.
    """
    both = _less(*_both_ways(answer, closest(answer) if rival is None else rival))
    large = upsample(both, answer.image_size)
    return large / peak(large.abs())


def _panel_row(answer: Explanation, photo: np.ndarray, example: Any, verify: bool) -> list[Cell]:
    rivals, rival = _rivals(answer), closest(answer)
    row = [_photo(photo, answer)]
    if example is not None:
        row.append(Cell(pixels(example), "Example", (Line(_class(answer, int(rival)), lines=3),)))
    row.append(_heat(photo, answer.plain, f"Plain {answer.question.method.label}", (Line("for " + name_of(answer)),)))
    if not rivals:
        return row
    checked = (Line(str(answer.verify()), lines=6),) if verify else ()
    row.append(_heat(photo, answer, f"Finer, γ = {float(answer.gamma[0]):g}", (*rather(answer), *checked)))
    if len(rivals) > 1:
        row.append(_against(photo, answer, rival))
    row.append(_signed(photo, answer, rival, f"Signed difference, γ = {float(answer.gamma[0]):g}"))
    return row


def _photo(photo: np.ndarray, answer: Explanation) -> Cell:
    best = int(answer.logits[0].argmax())
    return Cell(
        photo, "Photo", (Line(f"predicted: {_class(answer, best)}", f", {_probability(answer, best)}", lines=3),)
    )


def _heat(photo: np.ndarray, answer: Explanation, title: str, notes: tuple[Line, ...] = ()) -> Cell:
    held = strength_of(answer)
    top = "peak"
    if held.positive == 0:
        notes = (Line(f"nothing speaks for {name_of(answer)}", lines=3), *notes)
    elif float(answer.gamma[0]) > 0:
        notes = (*notes, Line(held.words, lines=3))
        top = "peak of a clear map" if held.weak else top
    return Cell(np.asarray(picture(photo, answer)), title, notes, bar=("no evidence", top))


def _against(photo: np.ndarray, answer: Explanation, rival: Tensor, notes: tuple[Line, ...] = ()) -> Cell:
    try:
        one = answer.ask(against=rival[:, None])
    except NotKept:
        return _not_kept("Finer, one rival")
    return _heat(photo, one, "Finer, one rival", (*rather(one), *notes))


def _signed(photo: np.ndarray, answer: Explanation, rival: Tensor, title: str) -> Cell:
    """The evidence for both classes at the gamma of the answer."""
    try:
        forward, reverse = _both_ways(answer, rival, float(answer.gamma[0]))
    except NotKept:
        return _not_kept(title)
    return _both(photo, forward, reverse, title)


def _both(photo: np.ndarray, forward: Explanation, reverse: Explanation, title: str) -> Cell:
    c, d = name_of(forward), name_of(reverse)
    both = _less(forward, reverse)
    smoothed = smooth(both, forward.image_size)
    bright = strength(both[0], forward.plain.signed[0], len(forward.layers) > 1).signed_brightness
    tinted = signed(photo, bright * (smoothed / peak(smoothed.abs()))[0], mute=MUTE)
    notes = (Line(f"for {c}, or for {d}", lines=3),) if title else ()
    return Cell(np.asarray(tinted), title, notes, bar=(d, c), signed=True)


def _not_kept(title: str) -> Cell:
    return Cell(None, title, (Line("the evidence for this was not kept: explain with keep='references'", lines=3),))


def _both_ways(answer: Explanation, rival: Tensor, gamma: float = 1.0) -> tuple[Explanation, Explanation]:
    if bool((rival == NONE).any()):
        raise FinerCAMError("the explanation has no reference to compare the target with; give a class as against=")
    forward = answer.ask(against=rival[:, None], gamma=gamma, weights="mean")
    return forward, forward.reverse()


def _less(forward: Explanation, reverse: Explanation) -> Tensor:
    """The evidence for the one class minus the evidence for the other, `(N, h, w)`."""
    return (forward.signed.clamp(min=0) - reverse.signed.clamp(min=0)).float()


def rather(answer: Explanation) -> tuple[Line, ...]:
    """The lines "rather than …" for the first few references."""
    rivals = _rivals(answer)
    notes = [
        Line(("rather than " if first == 0 else "or ") + _class(answer, d), f", {_probability(answer, d)}")
        for first, d in enumerate(rivals[:MOST_NAMED])
    ]
    if len(rivals) > MOST_NAMED:
        notes.append(Line(f"or {len(rivals) - MOST_NAMED} more", lines=1))
    return tuple(notes)


def _itself(answer: Explanation) -> Line:
    return Line(f"rather than {_class(answer, _rivals(answer)[0])}; itself", f" {_target_probability(answer)}", 3)


def _target_probability(answer: Explanation) -> str:
    return _probability(answer, int(answer.target[0]))


def question(answer: Explanation) -> str:
    names = answer.reference_names[0]
    c, p = name_of(answer), _target_probability(answer)
    if not names:
        return f"Why {c} ({p})?"
    more = f" (or {len(names) - 1} more)" if len(names) > 1 else ""
    return f"Why {c} ({p}), and not {_class(answer, int(closest(answer)))}{more}?"


def how(answer: Explanation, gamma: bool = True) -> str:
    """One line with the settings of the explanation."""
    strengths = sorted({round(value, 4) for value in answer.gamma.tolist()})
    strength = f", γ {' / '.join(f'{value:g}' for value in strengths[:4])}" if gamma else ""
    picked = "references given" if answer.strategy == "explicit" else f"references {answer.strategy}"
    grid = "×".join(map(str, answer.signed.shape[1:]))
    return (
        f"finercam: {answer.question.method.label} at {', '.join(answer.layers)} ({grid}){strength}, "
        f"weights {answer.contrast.weights}, {picked}. Each map is divided by its own peak, a weak one is dimmed; 0 is untouched."
    )


def _rivals(answer: Explanation) -> list[int]:
    return [d for d in answer.references[0].tolist() if d != NONE]


def name_of(answer: Explanation) -> str:
    return _class(answer, int(answer.target[0]))


def _class(answer: Explanation, index: int) -> str:
    """The common name of a class if it is unique; the scientific name would fill the line."""
    names = answer.class_names
    if names is None or index >= len(names):
        return closed(answer.name(index))
    return closed(short_names(names)[index])


def _probability(answer: Explanation, index: int) -> str:
    return score_text(answer.probability(index), answer.link)


def _single(answer: Explanation, what: str) -> None:
    if len(answer) != 1:
        raise FinerCAMError(f"{what} shows one image, not {len(answer)}; take answer[i]")
    if what == "reference_grid" and not _rivals(answer):
        raise FinerCAMError("the explanation has no references; ask with against=")
