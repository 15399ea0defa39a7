"""Leave out the rows that nothing reads: where a head reads the CLS token, the last block's other tokens."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import fx

from finercam.core.record import Recording

__all__ = ["without_unread_rows"]

aten = torch.ops.aten
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """The part of a tensor that is read: the elements at place i, counted in row-major order, where
    `(i // stride) % count == row`. A view keeps the order of the elements, so the same numbers hold for it.
    """

    stride: int
    count: int
    row: int

    @classmethod
    def of(cls, shape: Shape, axis: int, row: int) -> Rows:
        return cls(math.prod(shape[axis + 1 :]), shape[axis], row)

    def place(self, shape: Shape) -> tuple[int, int] | None:
        """The axis that holds the rows, and the places of one row in it; None where no single axis holds them."""
        for axis in range(len(shape)):
            after = math.prod(shape[axis + 1 :])
            if self.stride % after == 0 and shape[axis] % (self.stride // after * self.count) == 0:
                return axis, self.stride // after
        return None

    def axis(self, shape: Shape) -> int | None:
        """The axis whose entries are the rows, one each."""
        place = self.place(shape)
        return place[0] if place is not None and place[1] == 1 and shape[place[0]] == self.count else None

    def shape(self, shape: Shape) -> Shape | None:
        """The shape of the part."""
        place = self.place(shape)
        return None if place is None else _with(shape, place[0], shape[place[0]] // self.count)


def without_unread_rows(recording: Recording) -> Recording | None:
    """The same function with fewer rows in its matrix products, or None where every row is read.

    A row that a `select` takes out is followed backwards through operations that treat rows independently. Where
    another operation reads all rows of a tensor, it is computed whole, as before. The recording may not write in place.
    """
    wanted = _wanted(recording.graph)
    products = [n for n, rows in wanted.items() if n.target in _PRODUCTS and isinstance(rows, Rows)]
    return replace(recording, graph=_rewritten(recording.graph, wanted)) if products else None


def _wanted(graph: fx.Graph) -> dict[fx.Node, Rows | None]:
    """What of each node's result is read, from the end backwards: rows, or None for everything; unread nodes are missing."""
    wanted: dict[fx.Node, Rows | None] = {}

    def want(node: fx.Node, rows: Rows | None) -> None:
        wanted[node] = rows if wanted.get(node, rows) == rows else None

    for node in reversed(graph.nodes):
        if node.op == "placeholder":
            wanted[node] = None
        elif node.op == "output":
            want(node.args[0], None)  # type: ignore[arg-type]
        elif node in wanted and node.op == "call_function":
            rows = wanted[node]
            through = None if rows is None else _through(node, rows)
            if through is None:
                wanted[node] = None  # computed whole; who wants rows of it takes them out
                through = ({} if (taken := _taken(node)) is None else {0: taken}), ()
            for at, one in enumerate(node.args):
                for given in _nodes_in(one):
                    want(given, through[0].get(at))
            for given in _nodes_in(tuple(node.kwargs.values())):
                want(given, None)
    return wanted


def _nodes_in(argument: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(argument, found.append)
    return found


def _taken(node: fx.Node) -> Rows | None:
    """The row that a `select` reads of its argument."""
    if node.target is not aten.select.int:
        return None
    given, axis, row = cast(tuple[fx.Node, int, int], node.args)
    shape = given.meta["shape"]
    axis, row = axis % len(shape), row % shape[axis]
    return Rows.of(shape, axis, row)


Through = tuple[dict[int, Rows], tuple[Any, ...]]
"""Which arguments are needed in part only, by position, and the arguments with sizes of the part."""


def _through(node: fx.Node, rows: Rows) -> Through | None:
    """What an operation needs to give some rows only; None where it is not known to treat rows independently."""
    rule = _RULES.get(node.target)
    return (
        None if rule is None or node.kwargs.keys() - {"scale", "memory_format", "approximate"} else rule(node, rows)
    )


def _viewed(node: fx.Node, rows: Rows) -> Through | None:
    shape = rows.shape(node.meta["shape"])
    return None if shape is None or rows.shape(_shape(node, 0)) is None else ({0: rows}, (node.args[0], shape))


def _moved(node: fx.Node, rows: Rows) -> Through | None:
    """Axes in another order, an axis of one more or less."""
    axis = rows.axis(node.meta["shape"])
    if axis is None:
        return None
    given = _shape(node, 0)
    order = _order(node, len(given))
    came_from = None if order is None else order[axis]
    return None if came_from is None else ({0: Rows.of(given, came_from, rows.row)}, node.args)


def _order(node: fx.Node, rank: int) -> list[int | None] | None:
    """For each axis of the result the axis of the argument that it was; None for a new one."""
    order: list[int | None] = list(range(rank))
    axes: Any = node.args[1:]
    if node.target is aten.permute.default:
        return [axis % rank for axis in axes[0]]
    if node.target is aten.unsqueeze.default:
        order.insert(axes[0] % (rank + 1), None)
        return order
    first, second = (axis % rank for axis in axes[:2] or (0, 1))
    order[first], order[second] = order[second], order[first]
    return order


def _each_element(node: fx.Node, rows: Rows) -> Through | None:
    """Element by element; a smaller operand is repeated over the rows, or has them all."""
    shape = node.meta["shape"]
    parts: dict[int, Rows] = {}
    for at, one in enumerate(node.args):
        if not isinstance(one, fx.Node):
            continue
        own = one.meta["shape"]
        if own == shape:
            parts[at] = rows
        elif (axis := rows.axis(shape)) is None or not _repeated(own, shape, axis):
            return None
    return (parts, node.args) if rows.place(shape) is not None else None


def _repeated(own: Shape, shape: Shape, axis: int) -> bool:
    at = axis - (len(shape) - len(own))
    return at < 0 or own[at] == 1


def _product(node: fx.Node, rows: Rows) -> Through | None:
    """A matrix product with rows of its left matrix: `mm`, `addmm` with one bias for all rows, `bmm`."""
    left = 1 if node.target is aten.addmm.default else 0
    shape, given = node.meta["shape"], _shape(node, left)
    place = rows.place(shape)
    if place is None or place[0] != len(shape) - 2 or (left and len(_shape(node, 0)) != 1):
        return None
    return {left: Rows(rows.stride // shape[-1] * given[-1], rows.count, rows.row)}, node.args


def _normalised(node: fx.Node, rows: Rows) -> Through | None:
    """A layer norm over axes after the rows."""
    return {0: rows}, node.args


def _first_of(node: fx.Node, rows: Rows) -> Through | None:
    """The first result of a layer norm or of an attention; other operations give their results whole."""
    if node.args[1] != 0:
        return None
    whole: Any = node.args[0]
    if whole.target is aten.native_layer_norm.default:
        axis = rows.axis(node.meta["shape"])
        known = axis is not None and axis < len(node.meta["shape"]) - len(whole.args[1])
    else:
        known = whole.target in _ATTENTIONS and _attends_freely(whole) and rows.axis(node.meta["shape"]) == 2
    return ({0: rows}, node.args) if known else None


def _attends_freely(node: fx.Node) -> bool:
    """No mask, no causal order and no dropout."""
    return not any(node.args[3:]) and not node.kwargs.keys() - {"scale"}


def _attended(node: fx.Node, rows: Rows) -> Through | None:
    return {0: Rows.of(_shape(node, 0), 2, rows.row)}, node.args


def _softmaxed(node: fx.Node, rows: Rows) -> Through | None:
    shape = node.meta["shape"]
    axis = rows.axis(shape)
    return None if axis is None or axis == node.args[1] % len(shape) else ({0: rows}, node.args)  # type: ignore[operator]


def _shape(node: fx.Node, at: int) -> Shape:
    return node.args[at].meta["shape"]  # type: ignore[union-attr]


_PRODUCTS = (aten.addmm.default, aten.mm.default, aten.bmm.default)
_ATTENTIONS = (
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_flash_attention.default,
)
_RULES: dict[Any, Any] = {
    **dict.fromkeys((aten.view.default, aten._unsafe_view.default), _viewed),
    **dict.fromkeys((aten.permute.default, aten.transpose.int, aten.unsqueeze.default), _moved),
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_ATTENTIONS, _attended),
    **dict.fromkeys(
        (aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.div.Tensor, aten.gelu.default, aten.relu.default,
         aten.silu.default, aten.sigmoid.default, aten.tanh.default, aten.clone.default),
        _each_element,
    ),
    aten._softmax.default: _softmaxed,
    aten.native_layer_norm.default: _normalised,
    operator.getitem: _first_of,
}  # fmt: skip


def _rewritten(graph: fx.Graph, wanted: dict[fx.Node, Rows | None]) -> fx.Graph:
    """A graph that computes of each node what is wanted."""
    new = fx.Graph()
    made: dict[fx.Node, fx.Node] = {}
    parts: dict[tuple[fx.Node, Rows], fx.Node] = {}

    def part(node: fx.Node, rows: Rows) -> fx.Node:
        if wanted[node] == rows:
            return made[node]
        if (node, rows) not in parts:
            parts[node, rows] = _taken_out(new, made[node], node.meta["shape"], rows)
        return parts[node, rows]

    for node in graph.nodes:
        if node.op in ("placeholder", "output"):
            made[node] = new.node_copy(node, made.__getitem__)
        elif node in wanted:
            rows = wanted[node]
            through = None if rows is None else _through(node, rows)
            if through is not None:
                args = tuple(part(one, through[0][at]) if at in through[0] else fx.map_arg(one, made.__getitem__)
                             for at, one in enumerate(through[1]))  # fmt: skip
                made[node] = new.call_function(node.target, args, fx.map_arg(node.kwargs, made.__getitem__))
            elif (taken := _taken(node)) is not None and wanted[node.args[0]] == taken:
                made[node] = new.call_function(aten.select.int, (made[node.args[0]], node.args[1], 0))
            else:
                made[node] = new.node_copy(node, made.__getitem__)
    return new


def _taken_out(graph: fx.Graph, node: fx.Node, shape: Shape, rows: Rows) -> fx.Node:
    """Nodes that take rows out of a whole tensor."""
    place = rows.place(shape)
    assert place is not None
    axis, inner = place
    if inner == 1 and shape[axis] == rows.count:
        return graph.call_function(aten.slice.Tensor, (node, axis, rows.row, rows.row + 1))
    split = (*shape[:axis], -1, rows.count, inner, *shape[axis + 1 :])
    whole = graph.call_function(aten.view.default, (node, split))
    chosen = graph.call_function(aten.select.int, (whole, axis + 1, rows.row))
    return graph.call_function(aten.reshape.default, (chosen, rows.shape(shape)))


def _with(shape: Shape, axis: int, size: int) -> Shape:
    return (*shape[:axis], size, *shape[axis + 1 :])
