"""Layout: how a layer's output becomes feature maps (N, C, h, w)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from finercam.core.volume import read_volume, volume_patch
from finercam.errors import FinerCAMError

__all__ = ["Layout", "find_layout", "tensors_of"]

# Names that libraries give to parameters with tokens before the patches.
_PREFIX_NAMES = {
    "cls_token", "class_token", "class_embedding", "cls_emb",
    "dist_token", "distillation_token", "reg_token", "register_tokens", "registers", "storage_tokens",
}  # fmt: skip
_COMMON_PREFIXES = (0, 1, 5, 2, 4, 3, 6, 9, 17, 8, 16)  # none; CLS; CLS, 4 registers; CLS, distillation; …


@dataclass(frozen=True)
class Layout:
    """How a layer's output is read as feature maps; re-indexing only, so it serves gradients as well.

    kind: "nchw" (N, C, h, w), "nhwc" (N, h, w, C), "tokens" (N, L, C), "tokens-first" (L, N, C);
    grid: (h, w); prefix: number of CLS and register tokens before the h*w patches, L = prefix + h*w.
    For volumes the grid is (d, h, w), and maps have a third axis.

    >>> import torch
    >>> Layout("tokens", grid=(2, 3), prefix=1).to_maps(torch.zeros(5, 7, 16)).shape
    torch.Size([5, 16, 2, 3])
    """

    kind: Literal["nchw", "nhwc", "tokens", "tokens-first"]
    grid: tuple[int, ...]
    prefix: int = 0

    def to_maps(self, x: Tensor) -> Tensor:
        """Re-index the layer's output, or its gradient, to (N, C, h, w); FinerCAMError if it does not fit."""
        rank = len(self.grid) + 2 if self.kind in ("nchw", "nhwc") else 3
        if x.ndim != rank:
            raise FinerCAMError(f"A {self.kind!r} layout reads rank {rank}, the layer gave {tuple(x.shape)}.")
        if self.kind == "nchw":
            return x
        if self.kind == "nhwc":
            return x.movedim(-1, 1)
        maps = x.permute(1, 2, 0) if self.kind == "tokens-first" else x.transpose(1, 2)
        expected = self.prefix + math.prod(self.grid)
        if maps.shape[2] != expected:
            raise FinerCAMError(
                f"The layer gave {maps.shape[2]} tokens, but {self.prefix} prefix tokens and a grid of "
                f"{'x'.join(map(str, self.grid))} are {expected}; pass the right Layout."
            )
        return maps[:, :, self.prefix :].unflatten(2, self.grid)


def find_layout(
    shape: Sequence[int],
    image_shape: Sequence[int],
    model: nn.Module | None = None,
    override: Layout | tuple[int, ...] | None = None,
    layer: nn.Module | None = None,
) -> Layout:
    """The layout of an output of `shape` for images of `image_shape` (N, C, H, W).

    The number of prefix tokens and the patch size are read from `model` where it tells, otherwise the grid is
    the one that a common stride in both directions explains. `override` is a Layout, or the grid (h, w) only.
    `layer` helps with shapes that can be read both ways. Raises FinerCAMError when no reading fits.

    >>> find_layout((1, 197, 768), (1, 3, 224, 224))
    Layout(kind='tokens', grid=(14, 14), prefix=1)
    >>> find_layout((8, 7, 14, 768), (8, 3, 224, 448))
    Layout(kind='nhwc', grid=(7, 14), prefix=0)
    """
    if isinstance(override, Layout):
        return override
    shape, batch, size = tuple(shape), image_shape[0], (int(image_shape[-2]), int(image_shape[-1]))
    layout = None
    if len(image_shape) == 5:
        layout = _volume_layout(shape, image_shape, model, override, layer)
    elif len(shape) == 4 and shape[0] == batch:
        layout = _map_layout(shape, size, model, override, layer)
    elif len(shape) == 3:
        layout = _token_layout(shape, batch, size, model, override)
    if layout is None:
        wanted = "" if override is None else f" with grid {tuple(override)}"
        raise FinerCAMError(
            f"A layer's output of shape {shape} cannot be read as feature maps{wanted} for images of shape "
            f"{tuple(image_shape)}; choose another layer or pass layout=Layout(kind, grid, prefix)."
        )
    return layout


def tensors_of(output: object) -> Iterator[Tensor]:
    """All tensors in a module's output (tensor, tuple, dict, ModelOutput, dataclass), in order.

    >>> import torch
    >>> [tuple(t.shape) for t in tensors_of((torch.zeros(2), {"a": torch.ones(1, 3)}, None))]
    [(2,), (1, 3)]
    """
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors_of(value)
    elif isinstance(output, (list, tuple)):
        for value in output:
            yield from tensors_of(value)
    elif hasattr(output, "__dataclass_fields__"):
        yield from tensors_of(list(vars(output).values()))


def _map_layout(
    shape: tuple[int, ...],
    size: tuple[int, int],
    model: nn.Module | None,
    grid: tuple[int, ...] | None,
    layer: nn.Module | None,
) -> Layout | None:
    first, last = (shape[2], shape[3]), (shape[1], shape[2])  # the grid if channels come first, or last
    if grid is not None:
        kind = "nchw" if first == tuple(grid) else "nhwc"
        return Layout(kind, (grid[0], grid[1])) if tuple(grid) in (first, last) else None

    def preference(grid: tuple[int, int], channels: int, hinted: bool) -> tuple[float, ...]:
        skew = abs(math.log(max(grid[0], 1) * size[1] / (max(grid[1], 1) * size[0])))
        # Both readings can fit when the sides are in proportion; real layers have more channels than rows.
        return (_fit(grid, size), -skew, hinted, channels)

    channels = _declared_channels(layer)
    if shape[1] in channels["nchw"] and shape[3] not in channels["nhwc"]:
        return Layout("nchw", first)
    if shape[3] in channels["nhwc"] and not channels["nchw"]:
        return Layout("nhwc", last)
    if _fit(first, size) and _fit(
        last, size
    ):  # ambiguous: the widths that occur in the layer, or in the model, decide
        for part in (channels, _declared_channels(model)):
            widths = part["nchw"] | part["nhwc"]
            if (shape[1] in widths) != (shape[3] in widths):
                return Layout("nchw", first) if shape[1] in widths else Layout("nhwc", last)
    channels_last = type(layer) is nn.LayerNorm or getattr(model, "output_fmt", None) == "NHWC"
    if preference(last, shape[3], channels_last) > preference(first, shape[1], False):
        return Layout("nhwc", last)
    return Layout("nchw", first)


def _declared_channels(layer: nn.Module | None) -> dict[str, set[int]]:
    """How many channels the parts of a layer give, of those that have them first and of those that have them last."""
    found: dict[str, set[int]] = {"nchw": set(), "nhwc": set()}
    for part in () if layer is None else layer.modules():
        if isinstance(part, nn.Conv2d | nn.Conv3d | nn.BatchNorm2d | nn.BatchNorm3d | nn.GroupNorm):
            first = getattr(part, "out_channels", getattr(part, "num_features", getattr(part, "num_channels", 0)))
            found["nchw"].add(int(first))
        elif type(part) is nn.LayerNorm or isinstance(part, nn.Linear):
            last = part.out_features if isinstance(part, nn.Linear) else part.normalized_shape[-1]
            found["nhwc"].add(int(last))
    return found


def _volume_layout(
    shape: tuple[int, ...],
    image_shape: Sequence[int],
    model: nn.Module | None,
    grid: tuple[int, ...] | None,
    layer: nn.Module | None,
) -> Layout | None:
    if shape[0] != image_shape[0]:
        return None
    prefix = _declared_prefix(model)
    if grid is not None and len(shape) == 3:
        return Layout("tokens", tuple(grid), shape[1] - math.prod(grid)) if math.prod(grid) <= shape[1] else None
    found = read_volume(shape, tuple(image_shape[2:]), _declared_channels(layer), volume_patch(model), prefix)
    if found is None or (grid is not None and tuple(grid) != found[1]):
        return None
    return Layout(*found)  # pyright: ignore[reportArgumentType]


def _token_layout(
    shape: tuple[int, ...],
    batch: int,
    size: tuple[int, int],
    model: nn.Module | None,
    grid: tuple[int, ...] | None,
) -> Layout | None:
    second = _split_tokens(shape[1], size, model, grid) if shape[0] == batch else None
    # For one image, four windows of one token look like four tokens in sequence-first order; the model decides.
    may_lead = shape[1] == batch and (model is None or _sequence_first(model))
    leading = _split_tokens(shape[0], size, model, grid) if may_lead else None
    if leading and (second is None or _sequence_first(model)):
        return Layout("tokens-first", *leading)
    return Layout("tokens", *second) if second else None


def _split_tokens(
    count: int, size: tuple[int, int], model: nn.Module | None, grid: tuple[int, ...] | None
) -> tuple[tuple[int, int], int] | None:
    """Split a number of tokens into ((h, w), prefix), or None."""
    if grid is not None:
        prefix = count - grid[0] * grid[1]
        return ((grid[0], grid[1]), prefix) if prefix >= 0 else None
    declared, patch = _declared_prefix(model), _declared_patch(model)
    best, best_fit = None, 0
    for prefix in dict.fromkeys((*(() if declared is None else (declared,)), *_COMMON_PREFIXES)):
        for candidate in _rectangles(count - prefix):
            fit = _fit(candidate, size, patch)
            if fit > best_fit:  # of equal fits, the earlier and more common prefix is kept
                best, best_fit = (candidate, prefix), fit
    return best


def _rectangles(area: int) -> Iterator[tuple[int, int]]:
    for side in range(1, math.isqrt(max(area, 0)) + 1):
        if area % side == 0:
            yield side, area // side
            if side * side != area:
                yield area // side, side


def _fit(grid: tuple[int, int], size: tuple[int, int], patch: tuple[int, int] | None = None) -> int:
    """How well a grid fits the image: 3 by the model's patches, 2 by one stride, 1 by a rounded stride."""
    (h, w), (height, width) = grid, size
    if patch and any(_rounds_to(grid, size, (patch[0] << level, patch[1] << level)) for level in range(5)):
        return 3
    if min(h, w) > 0 and height % h == 0 and width % w == 0 and height // h == width // w:
        return 2
    if min(h, w) < 1:
        return 0
    # A stride s with ceil(H/s) = h lies in [H/h, H/(h-1)), one with floor(H/s) = h in (H/(h+1), H/h].
    ceil_low, ceil_high = max(height / h, width / w), min(_ratio(height, h - 1), _ratio(width, w - 1))
    floor_low, floor_high = max(height / (h + 1), width / (w + 1)), min(height / h, width / w)
    return int(ceil_low < ceil_high or floor_low < floor_high)


def _ratio(a: int, b: int) -> float:
    return a / b if b else math.inf


def _rounds_to(grid: tuple[int, int], size: tuple[int, int], stride: tuple[int, int]) -> bool:
    down = (size[0] // stride[0], size[1] // stride[1])
    return grid in (down, (-(-size[0] // stride[0]), -(-size[1] // stride[1])))


def _declared_prefix(model: nn.Module | None) -> int | None:
    if model is None:
        return None
    for module in model.modules():
        if isinstance(getattr(module, "num_prefix_tokens", None), int):
            return int(module.num_prefix_tokens)  # pyright: ignore[reportArgumentType]
    tokens = [p for name, p in model.named_parameters() if name.rpartition(".")[2] in _PREFIX_NAMES]
    return sum(p.numel() // p.shape[-1] for p in tokens if p.numel()) if tokens else None


def _declared_patch(model: nn.Module | None) -> tuple[int, int] | None:
    """Patch size of the convolution that cuts the image into patches."""
    for module in model.modules() if model is not None else ():
        if isinstance(module, nn.Conv2d) and module.in_channels <= 4:
            is_patchify = tuple(module.kernel_size) == tuple(module.stride) and max(module.stride) > 1
            return (module.stride[0], module.stride[1]) if is_patchify else None
    return None


def _sequence_first(model: nn.Module | None) -> bool:
    """Whether the model's attention takes (L, N, C), as the first CLIP code did."""
    modules = model.modules() if model is not None else ()
    return any(isinstance(m, nn.MultiheadAttention) and not m.batch_first for m in modules)
