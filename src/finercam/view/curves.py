"""Figures of deletion and insertion curves of a target and its rival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.view.text import font, wrapped

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves"]

TARGET, RIVAL = "#dd4a00", "#2540c8"


def curves(
    shares: Any,
    target: Any,
    rival: Any = None,
    *,
    kind: str = "deletion",
    names: tuple[str, str] = ("target", "rival"),
    title: str = "",
    score: str = "probability",
) -> Figure:
    """Plot the scores of target and rival over the share of deleted or revealed pixels, and the area between them.

    `shares (S,)` are in [0, 1]. `target (S,)` and `rival (S,)` are scores, such as a row of the `target` and `rivals`
    of `finercam.metrics.deletion(…)`; rows `(N, S)` are averaged. The legend shows the areas under the curves, as
    computed by `metrics.area`. `kind` is "deletion" or "insertion". See Fig. 5 of the Finer-CAM paper.

    Raises FinerCAMError for curves that differ in length from `shares` or are not finite.

    >>> figure = curves([0, 0.5, 1], [0.9, 0.3, 0.1], [0.05, 0.4, 0.2], names=("wren", "robin"))
    >>> [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    ['wren, area 0.400', 'robin, area 0.263', 'between, 0.137']
    """
    from matplotlib.figure import Figure

    if kind not in ("deletion", "insertion"):
        raise FinerCAMError(f"kind={kind!r}: expected 'deletion' or 'insertion'")
    x = _numbers("shares", shares)
    lines = [(_curve("target", target, x), names[0], TARGET, "-")]
    if rival is not None:
        lines.append((_curve("rival", rival, x), names[1], RIVAL, "--"))
    figure = Figure(figsize=(5.2, 3.6), dpi=150, facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    for y, name, colour, style in lines:
        shown = wrapped(name, 190, 9, lines=2, tail=f", area {_area(x, y):.3f}")
        axes.plot(x, y, style, color=colour, linewidth=2, label=shown)
    if rival is not None:
        above, below = lines[0][0], lines[1][0]
        between = f"between, {_area(x, above - below):.3f}"
        axes.fill_between(x, above, below, where=above >= below, interpolate=True, color=TARGET, alpha=0.16, lw=0)
        axes.fill_between(x, above, below, where=above <= below, interpolate=True, color=RIVAL, alpha=0.16, lw=0)
        axes.plot([], [], color="#999999", linewidth=6, alpha=0.5, label=between)
    axes.set_xlim(float(x.min()), float(x.max()))
    if score == "probability":
        axes.set_ylim(0, max(1.02 * max(float(y.max()) for y, *_ in lines), 1e-3))
    gone = "deleted" if kind == "deletion" else "revealed"
    axes.set_xlabel(f"share of pixels {gone}, most relevant first", fontproperties=font(9))
    axes.set_ylabel(score, fontproperties=font(9))
    heading = axes.set_title(
        wrapped(title or kind.capitalize(), 330, 11), fontproperties=font(11, bold=True), loc="left"
    )
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    legend = axes.legend(prop=font(9), frameon=False)
    for text in (*legend.get_texts(), heading, axes.yaxis.label):
        text.set_parse_math(False)
    return figure


def _numbers(what: str, values: Any) -> np.ndarray:
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, dtype=float)
    if array.ndim == 0 or array.size == 0 or not np.isfinite(array).all():
        raise FinerCAMError(f"{what} of shape {array.shape}: expected finite numbers (S,)")
    return array


def _curve(what: str, values: Any, x: np.ndarray) -> np.ndarray:
    curve = _numbers(what, values)
    if x.ndim != 1 or curve.ndim > 2 or curve.shape[-1] != len(x):
        raise FinerCAMError(f"{what} of shape {curve.shape} for shares of shape {x.shape}: expected (S,) or (N, S)")
    return curve.mean(0) if curve.ndim == 2 else curve


def _area(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / (x[-1] - x[0]))
