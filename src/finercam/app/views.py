"""What the page shows of an answer, as HTML in which names are only ever text."""

from __future__ import annotations

import io
from base64 import b64decode, b64encode
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from finercam.app.questions import Result, rivals, truth
from finercam.text import literal, percent
from finercam.view.drawn import picture, strength_of
from finercam.view.sheet import colour_ramp

__all__ = ["choices", "details", "finer", "headline", "notice", "pixels", "plain", "ramp_styles", "short"]

SHORT = 90
"""Letters of a class name that a list shows."""


def plain(result: Result, view: str = "overlay") -> str:
    """The picture of the plain method: what speaks for the target at all."""
    caption = f"what speaks for {_named(result, result.target)}"
    return _figure(picture(result.photo, result.answer.plain, view), "Plain", caption)


def finer(result: Result, view: str = "overlay") -> str:
    """The picture of the contrast, with its strength: what speaks for the target rather than its rivals."""
    image = picture(result.photo, result.shown, view)
    if not result.against:
        return _figure(image, "Finer", "choose a rival", more=_legend(result, view, weak=False))
    c, d = _named(result, result.target), _several(result)
    gamma, held = float(result.answer.gamma[0]), strength_of(result.answer)
    if held.positive == 0:
        strength, note = "", "" if view == "photo" else f"Nothing speaks for {c} against {d} at γ = {gamma:.2f}."
    else:
        strength, note = held.words if gamma > 0 else "the plain map", ""
    kind = "strength weak" if held.weak else "strength"
    legend = f'<p class="{kind}">{escape(strength)}</p>{_legend(result, view, held.weak)}'
    return _figure(image, "Finer", f"{c} rather than {d}", note, legend)


def _legend(result: Result, view: str, weak: bool) -> str:
    """The colours with what their ends mean, as in the panel."""
    if view == "photo":
        return ""
    low, high = "no evidence", "peak of a clear map" if weak else "peak"
    if view == "signed":
        low, high = (_several(result) if result.against else "against"), _named(result, result.target)
    kind = "signed ramp" if view == "signed" else "ramp"
    return f'<p class="legend"><span>{low}</span><i class="{kind}"></i><span>{high}</span></p>'


def ramp_styles() -> str:
    """The legend's colours as CSS."""

    def rule(selector: str, signed: bool) -> str:
        colours = np.rint(255 * colour_ramp(signed)[0, ::15]).astype(int).tolist()
        stops = ", ".join(f"rgb({r} {g} {b})" for r, g, b in colours)
        return f"{selector} {{ background-image: linear-gradient(90deg, {stops}); }}\n"

    return rule(".ramp", False) + rule(".ramp.signed", True)


def headline(result: Result) -> str:
    """The question in words, and what the model predicts."""
    c = f'<b class="for">{_named(result, result.target)}</b> <i>{result.score(result.target)}</i>'
    named = [f'<b class="against">{_named(result, d)}</b> <i>{result.score(d)}</i>' for d in result.against[:3]]
    if len(result.against) > 3:
        named.append(f"{len(result.against) - 3} more")
    question = f"Why {c}, and not {' or '.join(named)}?" if named else f"What speaks for {c}?"
    target, best = result.target, int(result.answer.logits[0].argmax())
    prediction = "this is the prediction" if best == target else f"the prediction is {_named(result, best)}"
    model = Path(result.opened.name).name if Path(result.opened.name).is_dir() else result.opened.name
    return (
        f'<p class="file">{_text(result.picture.name)} <span>· {escape(model)} · {prediction}</span></p>'
        f'<h2 id="question">{question}</h2>'
    )


def details(result: Result) -> str:
    """How the answer was made, and how good it is where that is known."""
    answer = result.answer
    height, width = answer.signed.shape[-2:]
    how = "from the kept evidence, without a run of the model"
    if result.ran:
        often = answer.question.method.evidence == "channels"
        how = "the model ran once for each channel used" if often else "the model ran once"
    took = f"{1000 * result.seconds:.0f} ms" if result.seconds < 1 else f"{result.seconds:.1f} s"
    lines = [
        f"{escape(answer.question.method.label)} at {escape(', '.join(answer.layers))} ({height}×{width}) · {took}, {how}"
    ]
    if result.certificate is not None:
        lines.append(f"Checked: {escape(str(result.certificate))}.")
    known = truth(result)
    if known is not None:
        plain, finer, parts = known
        lines.insert(
            0,
            f"They differ in <b>{escape(', '.join(parts))}</b>. On those pixels: "
            f"plain <b>{percent(plain)}</b>, finer <b>{percent(finer)}</b> of the map.",
        )
    return "".join(f"<p>{line}</p>" for line in lines)


def choices(result: Result) -> list[tuple[str, int]]:
    """Rivals to tick: what to read, and the class id."""
    return [(f"{short(result.name(d))} · {result.score(d)}", d) for d in rivals(result)]


def notice(message: str) -> str:
    """One line about what went wrong."""
    return f'<p role="alert">{_text(message)}</p>'


def short(name: str) -> str:
    """A name for a list: literal, and not endless."""
    name = literal(name) or "(no name)"
    return name if len(name) <= SHORT else name[: SHORT - 1] + "…"


def _figure(image: Image.Image, title: str, caption: str, note: str = "", more: str = "") -> str:
    over = f'<span class="note">{note}</span>' if note else ""
    return (
        f"<figure><figcaption><b>{title}</b>: {caption}</figcaption>"
        f'<div class="frame"><img alt="{title}: {caption}" src="{_uri(image)}">{over}</div>{more}</figure>'
    )


def _uri(image: Image.Image) -> str:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + b64encode(stream.getvalue()).decode("ascii")


def _named(result: Result, index: int) -> str:
    return _text(short(result.name(index)))


def _several(result: Result) -> str:
    named = [_named(result, d) for d in result.against[:3]]
    more = len(result.against) - len(named)
    return " or ".join([*named, f"{more} more"] if more else named)


def _text(name: str) -> str:
    # isolated, so that a name in another direction does not turn what stands around it
    return f"\u2068{escape(literal(name))}\u2069"


def pixels(uri: str) -> np.ndarray:
    """The picture `(H, W, 3)` out of a data address, as the page holds it."""
    return np.asarray(Image.open(io.BytesIO(b64decode(uri.split(",", 1)[1]))))
