"""Which layer: the target layer of a model, found by one traced forward pass or named by the caller."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from finercam.core.capture import INPUT, guest
from finercam.core.grid import Layout, find_layout, tensors_of
from finercam.errors import FinerCAMError
from finercam.io import one_line

__all__ = ["is_no_op", "resolve_layers", "unwrap"]

LayerSpec = str | nn.Module
Run = Callable[[], object]
Scores = Callable[[Any], Tensor]

# What libraries call the normalisation at a transformer block's entrance.
_ENTRANCES = {"norm1", "ln_1", "ln1", "layernorm_before", "layer_norm1", "norm_before", "in_norm", "input_norm"}


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside torch.compile, DataParallel and DistributedDataParallel, a pipeline, or an Ultralytics YOLO.

    >>> type(unwrap(nn.DataParallel(nn.Linear(2, 2)))).__name__
    'Linear'
    """
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module
        if inner is None and (not isinstance(model, nn.Module) or hasattr(model, "predictor")):
            inner = getattr(
                model, "model", None
            )  # a pipeline of transformers, or YOLO, whose forward gives no logits
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def resolve_layers(
    model: nn.Module,
    layer: LayerSpec | Sequence[LayerSpec] | None,
    images: Tensor,
    run: Run | None = None,
    scores: Scores | None = None,
) -> list[tuple[str, nn.Module]]:
    """The target layers as (dotted name, module), in the order given.

    `layer` is a dotted name ("layer4", "blocks[-1].norm1"), a module of the model, or a list of either.
    None: found by one no-grad forward pass of one sample, `model(images[:1])`, or of `run()` if given; `scores` picks
    the logits out of what it returns, and the layer is then one that they depend on. It is the normalisation before the last self-attention of a transformer whose tokens keep one grid or carry a CLS
    token (the choice of Finer-CAM; with CLS pooling, patches reach the logits only through attention), and
    otherwise the last feature map before pooling. "input" is the images themselves. Raises FinerCAMError for an unknown name, with the nearest.

    >>> cnn = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(1568, 2))
    >>> resolve_layers(cnn, None, torch.zeros(4, 3, 16, 16))
    [('1', ReLU())]
    """
    model = unwrap(model)
    if layer is None:
        return [_find_layer(model, images, run, scores)]
    if isinstance(layer, (str, nn.Module)):
        return [_named_layer(model, layer)]
    if not isinstance(layer, (list, tuple)):
        raise FinerCAMError(
            f"layer={layer!r}: expected a module, its dotted name, a list of either, or None to find it"
        )
    if not layer:
        raise FinerCAMError("layer is an empty list; give at least one layer, or None to find it.")
    return [_named_layer(model, one) for one in layer]


# --- layers that the caller names


def _named_layer(model: nn.Module, layer: LayerSpec) -> tuple[str, nn.Module]:
    if isinstance(layer, nn.Module):
        layer = unwrap(layer)
        for name, module in model.named_modules():
            if unwrap(module) is layer:
                return name, layer
        raise FinerCAMError(f"The layer {type(layer).__name__} is not a module of {type(model).__name__}.")
    if layer == INPUT and not hasattr(model, INPUT):
        return INPUT, model
    if not isinstance(layer, str):
        raise FinerCAMError(f"layer must be a name or a module, not {type(layer).__name__}.")
    parts = layer.replace("[", ".").replace("]", "").split(".")
    module, path = model, []
    for part in (p for p in parts if p and p not in ("module", "_orig_mod")):
        children = dict(unwrap(module).named_children())
        if part.lstrip("-").isdigit() and int(part) < 0 and -int(part) <= len(children):
            part = list(children)[int(part)]
        if part not in children:
            near = _nearest(model, layer, path)
            raise FinerCAMError(f"No layer {layer!r} in {type(model).__name__}.{near}")
        module = children[part]
        path.append(part)
    if not path:
        raise FinerCAMError("layer is an empty name; give a dotted name such as 'layer4'.")
    return ".".join(path), unwrap(module)


def _nearest(model: nn.Module, wrong: str, path: list[str]) -> str:
    names = [name.replace("_orig_mod.", "") for name, _ in model.named_modules() if name]
    close = get_close_matches(wrong, names, n=3, cutoff=0.6)
    if close:
        return " Did you mean " + " or ".join(map(repr, close)) + "?"
    start = ".".join(path)
    below = [name for name in names if name.startswith(f"{start}.")] if start else names
    shown = below if len(below) <= 12 else [*below[:6], "…", *below[-6:]]
    return f" {start or 'It'} has: {', '.join(shown) or 'no submodules'}."


# --- the layer found by itself


@dataclass
class _Visit:
    """What one module did in the traced pass; parents start before their children and end after them."""

    name: str
    module: nn.Module
    started: int
    ended: int = -1
    calls: int = 1
    shape: tuple[int, ...] = ()
    same_as: _Visit | None = None  # the visit whose output this one passed on
    layout: Layout | None = None

    @property
    def parent(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def is_map(self) -> bool:
        return self.layout is not None and self.calls == 1 and max(self.layout.grid) > 1

    def has_channels(self, count: int) -> bool:
        return self.layout is not None and self.shape[1 if self.layout.kind == "nchw" else -1] == count


def _find_layer(model: nn.Module, images: Tensor, run: Run | None, scores: Scores | None) -> tuple[str, nn.Module]:
    visits, output = _trace(model, images, run)
    try:
        logits_width = _logits_width(output, scores)
    except FinerCAMError:  # a function of all the images, which cannot read one of them
        scores, logits_width = None, _logits_width(output, None)
    image_shape = (1, *images.shape[1:])
    for visit in visits:
        if visit.shape:
            try:
                visit.layout = find_layout(visit.shape, image_shape, model, layer=visit.module)
            except FinerCAMError:
                continue
    # Layers inside attention pooling come after the last feature map.
    pools = [v.name + "." for v in visits if v.name and _is_pooling(v.module) and not v.is_map]
    visits = [v for v in visits if not any(v.name.startswith(pool) for pool in pools)]
    maps = _maps_before_pooling(visits, logits_width)
    if scores is not None:  # the logits may be read from one of several heads, or be means of maps of class scores
        found = [visit for visit in maps if not visit.has_channels(logits_width)]
        maps = itertools.chain((v for v in found if _matters(v.module, model, images, run, scores)), found)
    chosen = _attention_input(visits) or _fused_attention_input(visits) or next(maps, None)
    if chosen is None:
        raise FinerCAMError(
            f"No layer of {type(model).__name__} gives feature maps larger than 1x1 for images of shape "
            f"{tuple(images.shape)}; name one with layer=, or give larger images."
        )
    return chosen.name, chosen.module


def _trace(model: nn.Module, images: Tensor, run: Run | None) -> tuple[list[_Visit], object]:
    """One forward pass of one sample with hooks on every module: visits in order of completion, and the output."""
    clock = 0
    visits: dict[int, _Visit] = {}
    order: list[_Visit] = []
    previous: tuple[Tensor | None, _Visit | None] = (None, None)

    def before(name: str, module: nn.Module) -> None:
        nonlocal clock
        clock += 1
        if id(module) in visits:
            visits[id(module)].calls += 1
        else:
            visits[id(module)] = _Visit(name, module, clock)

    def after(module: nn.Module, output: object) -> None:
        nonlocal clock, previous
        clock += 1
        visit = visits[id(module)]
        visit.ended = clock
        tensor = _single_tensor(output)
        if tensor is not None:
            visit.shape = tuple(tensor.shape)
            visit.same_as = previous[1] if tensor is previous[0] else None
            previous = (tensor, visit)
        if visit.calls == 1:
            order.append(visit)

    with ExitStack() as stack:
        stack.enter_context(guest(model))  # first: no other thread may run the hooks
        for name, module in model.named_modules():
            hook = module.register_forward_pre_hook(lambda m, _, name=name: before(name, m))
            stack.callback(hook.remove)
            stack.callback(module.register_forward_hook(lambda m, _, out: after(m, out)).remove)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        try:
            output = model(images[:1]) if run is None else run()
        except FinerCAMError:
            raise
        except Exception as error:
            given = f"{type(model).__name__} fails on images of shape {(1, *images.shape[1:])}"
            raise FinerCAMError(f"{given}: {one_line(error)}") from error
    return order, output


def _single_tensor(output: object) -> Tensor | None:
    """A module's output if it is one tensor, alone or with None beside it; several are no single place to cut."""
    if isinstance(output, tuple):
        given = [one for one in output if one is not None]
        output = given[0] if len(given) == 1 and len(output) > 1 else None
    return output if isinstance(output, Tensor) else None


def _logits_width(output: object, scores: Scores | None) -> int:
    """The number of classes, -1 if the output holds no logits."""
    found = output if scores is None else scores(output)
    logits = next((t for t in tensors_of(found) if t.ndim == 2), None)
    return int(logits.shape[1]) if logits is not None else -1


def _matters(module: nn.Module, model: nn.Module, images: Tensor, run: Run | None, scores: Scores) -> bool:
    """Whether other logits come out when a module gives zeros."""

    def logits() -> Tensor:
        return scores(model(images[:1]) if run is None else run())

    def blank(_module: nn.Module, _inputs: object, output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(torch.zeros_like(one) if isinstance(one, Tensor) else one for one in output)
        return torch.zeros_like(output)

    with guest(model), torch.inference_mode(False), torch.no_grad():
        before = logits()
        handle = module.register_forward_hook(blank)
        try:
            return not torch.equal(before, logits())
        finally:
            handle.remove()


def _attention_input(visits: list[_Visit]) -> _Visit | None:
    """The tokens that the last self-attention reads, if they keep one grid or carry prefix tokens."""
    attentions = [v for v in sorted(visits, key=lambda v: v.started) if _is_attention(v)]
    normed = {v.name: norm for v in attentions if (norm := _norm_before(v, visits)) is not None}
    targets: list[_Visit] = []
    for attention in attentions:
        target = normed.get(attention.name)
        if target is None and not any(_nested(attention.name, name) for name in normed):
            # A post-norm block normalises after its attention, which reads the previous block's output.
            earlier = [v for v in visits if v.ended < attention.started and not is_no_op(v.module)]
            target = next((v for v in reversed(earlier) if v.is_map), None)
        if target is not None and target.layout and target.layout.kind.startswith("tokens") and target.is_map:
            targets.append(target)
    if not targets:
        return None
    layouts = [target.layout for target in targets if target.layout is not None]
    return targets[-1] if layouts[-1].prefix or len({layout.grid for layout in layouts}) == 1 else None


def _fused_attention_input(visits: list[_Visit]) -> _Visit | None:
    """The last norm at the entrance of blocks whose attention is not a module, if there is a CLS token."""
    entrances = [v for v in visits if v.is_map and v.name.rpartition(".")[2] in _ENTRANCES]
    return next((v for v in reversed(entrances) if v.layout is not None and v.layout.prefix), None)


def _nested(one: str, other: str) -> bool:
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _norm_before(attention: _Visit, visits: list[_Visit]) -> _Visit | None:
    """The last normalisation that ran before an attention, in the same block."""
    norms = (v for v in visits if v.parent == attention.parent and v.ended < attention.started)
    return next((v for v in reversed(list(norms)) if _is_token_norm(v.module)), None)


def _maps_before_pooling(visits: list[_Visit], logits_width: int) -> Iterator[_Visit]:
    """Feature maps before pooling, the last one first: of modules that pass one tensor on, the outermost."""
    end = _class_maps_start(visits, logits_width)
    maps = (v for v in reversed(visits) if v.name and v.is_map and v.ended < end)
    return (visit for visit in maps if not _is_dull(visit))


def _class_maps_start(visits: list[_Visit], logits_width: int) -> float:
    """When the maps of a fully convolutional classifier begin, whose channels are the classes already."""
    leaves = [v for v in visits if _has_parameters(v.module) and not any(True for _ in v.module.children())]
    if not leaves or not leaves[-1].is_map:
        return math.inf
    module = leaves[-1].module
    channels = getattr(module, "out_channels", getattr(module, "out_features", None))
    return leaves[-1].started if channels == logits_width else math.inf


def _is_dull(visit: _Visit | None) -> bool:
    """Whether the output comes directly from pooling, or the module does nothing."""
    if visit is None:
        return False
    if is_no_op(visit.module) or (_is_pooling(visit.module) and not _has_parameters(visit.module)):
        return True
    return visit.same_as is not None and not is_no_op(visit.same_as.module) and _is_dull(visit.same_as)


def is_no_op(module: nn.Module) -> bool:
    """Whether a module returns its input unchanged in eval mode."""
    return _named_like(module, "identity", "dropout", "droppath", "patchdrop", "permute", "rearrange")


def _is_pooling(module: nn.Module) -> bool:
    return _named_like(module, "pool") and not _named_like(module, "poolformer")


def _is_attention(visit: _Visit) -> bool:
    leaf = visit.name.rpartition(".")[2].lower()
    named = "attn" in leaf or "attention" in leaf or _named_like(visit.module, "attention", "attn")
    return named and not _named_like(visit.module, "pool", "norm") and _has_parameters(visit.module)


def _is_token_norm(module: nn.Module) -> bool:
    return _named_like(module, "norm") and not _named_like(module, "batchnorm", "linearnorm")


def _named_like(module: nn.Module, *words: str) -> bool:
    name = type(module).__name__.lower()
    return any(word in name for word in words)


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())
