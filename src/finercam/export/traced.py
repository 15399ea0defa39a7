"""The question as a graph of forward operations: the model, the gradients of its tail, and the map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from finercam.core.capture import Capture, capture
from finercam.core.functional_relu import RELUS
from finercam.core.fuse import fuse
from finercam.core.maps import positive, upsample
from finercam.core.references import NONE, similarity
from finercam.export.backward import decompositions
from finercam.methods import gather
from finercam.methods.source import Source
from finercam.question import LARGEST_GAMMA, Question

__all__ = ["INPUTS", "Traced", "examples"]

INPUTS = ("image", "target", "rivals", "gamma")
_C: Any = torch._C
_POOLS = (F.adaptive_avg_pool2d, _C._nn.adaptive_avg_pool2d)


@dataclass(frozen=True)
class Traced:
    """A function of `image (N, 3, H, W)`, `target (N,)`, `rivals (N, T)` and `gamma (N,)` that a trace can follow.

    It answers as `FinerCAM` does on the run `source`, without its checks. A target of -1 is the prediction, and a row
    of rivals that are all -1 leaves the choice to the question's strategy. A question that `FinerCAM` would refuse
    gives maps of NaN. `terms` adds, for each layer, the maps `(N, 2, h, w)` for and against the target, whose
    difference gives every gamma; the method must be linear then.
    """

    source: Source
    question: Question
    rows: Tensor | None = None
    """Weight rows `(K, D)` of the linear head, for the strategy "similar"."""
    terms: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the outputs."""
        layers = range(len(self.source.layers)) if self.terms else ()
        return ("logits", "maps", "signed", *(["evidence"] if self.closed else []), *(f"terms_{i}" for i in layers))

    @property
    def closed(self) -> bool:
        """Whether the maps of all classes are in the graph: linear methods, where the head averages the layer."""
        return self.source.averaged is not None and self.question.method.linear

    def __call__(self, image: Tensor, target: Tensor, rivals: Tensor, gamma: Tensor) -> tuple[Tensor, ...]:
        with _plain_attention(), torch.no_grad(), _Rewritten() as relus:
            run = capture(self.source.model, self.source.layers, image, self.source.readout)
            activations = self._activations(run, relus)
            logits = run.logits.detach()
            speaks_for, against, possible = self._asked(logits, target, rivals, gamma)
            strength = gamma.to(logits)[:, None]
            evidence = self._evidence(activations[0].detach()) if self.closed else None
            run = Capture(run.layers, activations, run.logits)
            if self.terms:
                sides = [self._maps(run, side, evidence) for side in (speaks_for, against)]
                maps = [one - strength[..., None] * other for one, other in zip(*sides, strict=True)]
                terms = [torch.stack(of_layer, 1) for of_layer in zip(*sides, strict=True)]
            else:
                maps, terms = self._maps(run, speaks_for - strength * against, evidence), []
            nothing = torch.full_like(maps[0][:, :1, :1], torch.nan)
            signed = torch.where(possible[:, None, None], fuse(maps, self.question.fusion), nothing)
            shown = positive(upsample(signed, (image.shape[2], image.shape[3])))
            return logits, shown, signed, *([] if evidence is None else [evidence]), *terms

    def trace(self, images: Tensor, count: int | None) -> GraphModule:
        """The graph for images of this size: of any number where `count` is None, with any number of rivals."""
        from torch.fx.experimental.proxy_tensor import make_fx

        arguments = examples(images, count)
        faked = _faked(arguments, dynamic=count is None)
        traced = make_fx(
            self, decomposition_table=decompositions(), tracing_mode="symbolic", _allow_non_fake_inputs=True
        )(*faked)
        if count is None:  # a model that calls len(x) bakes the number in, and fails here with another one
            traced(*examples(images, 2))
        return traced.eval()

    def _activations(self, run: Capture, relus: _Rewritten) -> tuple[Tensor, ...]:
        """What the layers gave, or the result of the functional ReLU that belongs to the layer."""
        if self.source.run.activations[0].is_leaf:
            return run.activations
        return (relus.last(run.activations[0]),)

    def _maps(self, run: Capture, direction: Tensor, evidence: Tensor | None) -> list[Tensor]:
        """The signed map of each layer for a direction `(N, K)` in logit space: `(N, h, w)`."""
        if evidence is not None:
            return [torch.einsum("nk,nkhw->nhw", direction, evidence)]
        rule, shares = self.question.method.rule, self.question.method.gather is gather.shares
        activations = self.source.to_maps(tuple(activation.detach() for activation in run.activations))
        if self.source.averaged is not None:
            alpha = direction @ self.source.averaged / (activations[0].shape[2] * activations[0].shape[3])
            gradients: Sequence[Tensor] = (alpha[..., None, None].expand_as(activations[0]),)
        else:
            (raw,) = run.gradients(direction[:, None], batched=False, retain=True)
            gradients = self.source.to_maps(raw)
        found = [rule(activation, gradient) for activation, gradient in zip(activations, gradients, strict=True)]
        return [gather.smoothed(of_layer[:, None])[:, 0] if shares else of_layer for of_layer in found]

    def _evidence(self, activation: Tensor) -> Tensor:
        """The map of each class, `(N, K, h, w)`: rows of the head times activations, divided by the places."""
        (maps,) = self.source.to_maps((activation,))
        assert self.source.averaged is not None
        rows = self.source.averaged / (maps.shape[2] * maps.shape[3])
        found = F.conv2d(maps, rows[..., None, None])
        return gather.smoothed(found) if self.question.method.gather is gather.shares else found

    def _asked(self, logits: Tensor, target: Tensor, rivals: Tensor, gamma: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The directions for and against the target, `(N, K)` each, and which questions are possible, `(N,)`."""
        count = logits.shape[1]
        classes = torch.arange(count)
        target = torch.where(target == NONE, logits.argmax(1), target)
        own = classes == target[:, None]
        named = (rivals[:, :, None] == classes).sum(1)
        is_open = (rivals == NONE).all(1, keepdim=True)
        usual = self._usual_rivals(logits, own, target.clamp(0, count - 1))
        chosen = (is_open & usual) | (named > 0)  # not torch.where, which onnxruntime lacks for booleans
        possible = own.any(1) & (named <= 1).all(1) & ~(own & chosen).any(1)
        possible &= ((rivals >= NONE) & (rivals < count)).all(1) & (gamma >= 0) & (gamma <= LARGEST_GAMMA)
        if self.question.weights == "probability":
            against = torch.where(chosen, logits, -torch.inf).softmax(1)
        else:
            against = chosen.to(logits) / chosen.sum(1, keepdim=True).clamp(min=1)
        return own.to(logits), against, possible

    def _usual_rivals(self, logits: Tensor, own: Tensor, target: Tensor) -> Tensor:
        """The classes that the question's strategy picks, as a mask `(N, K)`."""
        strategy = self.question.references
        if strategy == "all":
            return ~own
        scores = logits
        if strategy == "nearest":
            scores = -(logits - logits.gather(1, target[:, None])).abs()
        elif strategy == "similar":
            assert self.rows is not None
            scores = similarity(self.rows, target)
        elif strategy == "confused":
            assert self.question.confusion is not None
            scores = (self.question.confusion + self.question.confusion.T).to(logits)[target]
        count = min(self.question.num_references, logits.shape[1] - 1)
        ids = scores.masked_fill(own, -torch.inf).topk(count).indices
        return (ids[:, :, None] == torch.arange(logits.shape[1])).any(1)


def examples(images: Tensor, count: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Inputs to trace with. Sizes of 2 and more, all different, since a trace takes equal ones for the same."""
    count = count or 3
    images = images[:1].repeat(count, 1, 1, 1)
    return images, torch.full((count,), NONE), torch.full((count, 2), NONE), torch.ones(count)


def _faked(arguments: Sequence[Tensor], dynamic: bool) -> list[Any]:
    """Tensors without values, whose number of samples and of rivals is open."""
    from torch._dynamo.source import ConstantSource
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

    mode = FakeTensorMode(shape_env=ShapeEnv(), allow_non_fake_inputs=True)
    faked = []
    for name, argument in zip(INPUTS, arguments, strict=True):
        is_open = [(dynamic and axis == 0) or (name == "rivals" and axis == 1) for axis in range(argument.ndim)]
        context = StatelessSymbolicContext([DimDynamic.DYNAMIC if one else DimDynamic.STATIC for one in is_open])
        faked.append(mode.from_tensor(argument, source=ConstantSource(name), symbolic_context=context))
    return faked


@contextmanager
def _plain_attention() -> Iterator[None]:
    """Attention as products and a softmax, whose gradients are known; the fused kernels' are not."""
    from torch.backends.mha import get_fastpath_enabled, set_fastpath_enabled
    from torch.nn.attention import SDPBackend, sdpa_kernel

    before = get_fastpath_enabled()
    set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        set_fastpath_enabled(before)


class _Rewritten(TorchFunctionMode):
    """Records the results of ReLUs that are functions, and writes the mean over all places as a mean.

    PyTorch's own global pooling sets strides, and the gradient of that has no operation in ONNX. The tokens of
    `nn.MultiheadAttention` are made contiguous: otherwise PyTorch multiplies each position with a copy of the weights of
    its own, and runtimes that compute constants in advance store them all (1.4 GB a block of ViT-B/16).
    """

    def __init__(self) -> None:
        super().__init__()
        self.results: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _POOLS and _is_one(args[1] if len(args) > 1 else (kwargs or {}).get("output_size")):
            return args[0].mean(dim=(-2, -1), keepdim=True)
        if func is F.multi_head_attention_forward:
            whole = {id(tokens): tokens.contiguous() for tokens in args[:3]}  # equal inputs stay the same object
            args = (*(whole[id(tokens)] for tokens in args[:3]), *args[3:])
        result = func(*args, **(kwargs or {}))
        if func in RELUS:
            self.results.append(result)
        return result

    def last(self, like: Tensor) -> Tensor:
        """The last result with the shape of the layer's activation."""
        return [result for result in self.results if result.shape == like.shape][-1]


def _is_one(size: Any) -> bool:
    return size == 1 or (isinstance(size, Sequence) and tuple(size) == (1, 1))
