"""LeGrad: how far each patch's share in every attention of a vision transformer would raise the margin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from finercam.core.capture import guest
from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence
from finercam.core.grid import find_layout
from finercam.errors import FinerCAMError
from finercam.methods.method import register
from finercam.methods.source import Source

__all__ = ["attention_gradients", "legrad"]


def attention_gradients(source: Source, contrast: Contrast, directions: Tensor) -> Evidence:
    """Values of every attention `(N, d·H, h, w)` and the gradients of what the queries read `(N, M, d, H, T)`.

    The gradient with respect to an attention weight is the product of the two, so the weights themselves are never
    kept. H counts the heads of all blocks, T the queries. The model runs once more, with a graph from its first block.
    """
    model, reading = source.model, source.readout.reading()
    with guest(model), torch.inference_mode(False), torch.enable_grad(), _Attentions() as seen, reading as read:
        logits = read(model(source.images))
    pairs = [
        (value, out) for value, out in seen.pairs if value.shape == out.shape and len(value) == len(source.images)
    ]
    pairs = [pair for pair in pairs if pair[0].shape[2:] == pairs[0][0].shape[2:]]
    if not pairs or not logits.requires_grad:
        raise FinerCAMError(
            f"{type(source.model).__name__} has no attention over all patches that goes through "
            "scaled_dot_product_attention; take hirescam, or switch fused attention on (attn_implementation='sdpa')"
        )
    values, outs = zip(*pairs, strict=True)
    shape = (len(logits), values[0].shape[2], values[0].shape[1] * values[0].shape[3])
    layout = find_layout(shape, source.images.shape, source.model)
    gradients = []
    for m, vector in enumerate(directions.to(logits).unbind(1)):
        with torch.inference_mode(False), torch.enable_grad():
            margin = (vector.clone() * logits).sum()
        found = torch.autograd.grad(margin, outs, retain_graph=m + 1 < directions.shape[1])
        gradients.append(torch.cat(found, 1).permute(0, 3, 1, 2))  # (N, d, H, T)
    joined = torch.cat([value.detach() for value in values], 1).permute(0, 3, 1, 2).flatten(1, 2)
    patches = layout.to_maps(joined.transpose(1, 2))
    return Evidence(source.logits.cpu().double(), directions, (patches,), (torch.stack(gradients, 1),))


def legrad(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive gradients of the attention weights, mean over heads, blocks and queries (LeGrad, ICCV 2025, Eq. 8).

    The ReLU comes after the contrast, so the method is not linear in it.
    """
    width, heads = gradients.shape[1:3]
    values = activations.flatten(2).unflatten(1, (width, heads))
    total = 0.0
    for head in range(heads):  # one after another: all of them are as large as every attention of the model
        total = total + torch.einsum("ndt,ndp->ntp", gradients[:, :, head], values[:, :, head]).relu().mean(1)
    return (torch.as_tensor(total) / heads).unflatten(1, activations.shape[2:])


class _Attentions(TorchFunctionMode):
    """Keeps the values and the output of each attention while a model runs; the graph begins at the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.pairs: list[tuple[Tensor, Tensor]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is F.multi_head_attention_forward:
            return self._multi_head(*args, **kwargs)
        if function is F.scaled_dot_product_attention:
            return self._read(*args, **kwargs)
        return function(*args, **kwargs)

    def _read(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        torch.set_grad_enabled(True)
        if not (query.requires_grad or key.requires_grad or value.requires_grad):
            value = value.detach().requires_grad_()
        out = F.scaled_dot_product_attention(query, key, value, *args, **kwargs)
        if value.ndim == 4:
            self.pairs.append((value, out))
        return out

    def _multi_head(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        """`nn.MultiheadAttention` with packed weights, `(T, N, C)` in and out, written in terms of `_read`."""
        heads, weight, bias, out_weight, out_bias = args[1], args[2], args[3], args[8], args[9]
        if weight is None or args[4] is not None or kwargs.get("key_padding_mask") is not None:
            raise FinerCAMError("this kind of nn.MultiheadAttention is not known to legrad; take hirescam")
        biases = (None, None, None) if bias is None else bias.chunk(3)
        projected = [F.linear(x, w, b) for x, w, b in zip((query, key, value), weight.chunk(3), biases, strict=True)]
        q, k, v = (x.unflatten(2, (heads, -1)).permute(1, 2, 0, 3) for x in projected)  # (N, H, T, d)
        out = self._read(q, k, v, kwargs.get("attn_mask"))
        return F.linear(out.permute(2, 0, 1, 3).flatten(2), out_weight, out_bias), None


register("legrad", legrad, gather=attention_gradients, label="LeGrad", declared_linear=False)
