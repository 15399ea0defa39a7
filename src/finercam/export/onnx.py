"""A model with its explanation as one ONNX graph, for runtimes without PyTorch."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finercam._version import __version__
from finercam.core.capture import INPUT
from finercam.core.views import IDENTITY
from finercam.errors import FinerCAMError
from finercam.explainer import FinerCAM
from finercam.explanation import Explanation
from finercam.export.traced import INPUTS, Traced, examples
from finercam.images import Preprocess
from finercam.io import one_line, whole_file
from finercam.methods import gather

__all__ = ["Exported", "about", "export_onnx"]

METADATA = "finercam"
"""The key of the graph's metadata under which a JSON object describes it."""
CLOSE = 1e-3
"""Largest difference of the graph's maps from FinerCAM's on the example images; beyond, the export is refused."""
KINK = 0.02
"""Largest difference that is accepted where rounding the images moves FinerCAM's own maps as much."""
ROUNDING = 3e-7
"""Noise as a share of a pixel's value: a few units in the last place of float32."""
LARGEST = 2_000_000_000
"""Bytes of the weights that one ONNX file can hold (protobuf ends at 2 GiB)."""
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class Exported:
    """What was written: the file, and what its metadata says."""

    file: Path
    about: Mapping[str, Any]


def export_onnx(
    explain: FinerCAM,
    images: Tensor,
    file: str | os.PathLike[str],
    *,
    preprocess: Preprocess | None = None,
    name: str = "",
    terms: bool = False,
) -> Exported:
    """Write a model with its explanation as an ONNX graph that gives the explainer's own maps.

    Inputs: `image (N, 3, H, W)` as the model takes it; `target (N,)` int64, -1 for the prediction; `rivals (N, T)`
    int64, filled with -1, all -1 for the strategy's choice; `gamma (N,)`. Outputs: `logits (N, K)`; `maps (N, H, W)` in
    [0, 1] as `Explanation.maps`; `signed (N, h, w)` before the ReLU; for linear methods before an averaging head
    `evidence (N, K, h, w)`, what each class sees. A question that `explain` would refuse gives maps of NaN.

    Args:
        explain: the explainer; its method, layers, fusion, strategy and weights are built in.
        images: example images `(N, 3, H, W)`; the graph takes this size, and is compared with `explain` on them.
        file: the `.onnx` file. Its metadata holds classes, preprocessing, layers and method, see `about`.
        preprocess: the preprocessing of the model, for the metadata.
        name: what the model is called, for the metadata.
        terms: add the two maps of each layer, for and against the target, as `terms_0`, …: every gamma follows from
            them without a further run. Costs a second run of the tail backwards.

    Where the preset chose relevance (`fine` on plain ViTs), which no graph can hold, the graph has HiResCAM of the last
    layer instead; a warning and the metadata's entry `note` say so.

    Raises FinerCAMError for a question or model that cannot be exported, and for a graph whose maps differ.
    """
    _check_libraries()
    images = explain.classifier.prepared(images)
    explain, note = _exportable(explain, images)
    if note is not None:
        warnings.warn(note, stacklevel=2)
    _refuse(explain, images, terms)
    source = explain.capture(images)
    rows = explain.head_rows(source.logits.shape[1])
    traced = Traced(source, explain.question, rows, terms)
    batch, program = _program(traced, images)
    described = {**_described(explain, traced, images, batch, preprocess, name), "note": note}
    with whole_file(file) as partial:
        _save(program, partial, described)
        described["difference"] = compared(partial, explain, images, batch)
        _save(program, partial, described)
    return Exported(Path(file), described)


def about(file: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported graph says of itself: method, layers, classes, preprocessing, question, inputs and outputs."""
    _check_libraries()
    import onnx

    try:
        model = onnx.load(os.fspath(file), load_external_data=False)
    except Exception as error:  # protobuf raises its own errors
        raise FinerCAMError(f"{file} is not an ONNX file: {one_line(error)}") from error
    found = {entry.key: entry.value for entry in model.metadata_props}
    if METADATA not in found:
        raise FinerCAMError(f"{file} was not written by finercam export: its metadata has no entry {METADATA!r}")
    return json.loads(found[METADATA])


def _check_libraries() -> None:
    from importlib.util import find_spec

    missing = [name for name in LIBRARIES if find_spec(name) is None]
    if missing:
        raise FinerCAMError(f"exporting needs {', '.join(missing)}: pip install 'finercam[onnx]'")


def _exportable(explain: FinerCAM, images: Tensor) -> tuple[FinerCAM, str | None]:
    """The explainer, or the one of its preset without relevance, with a line that says so."""
    other = explain.without_relevance(images)
    if other is explain:
        return explain, None
    return other, (
        f"{explain.question.method.label} at several layers, the preset's choice for this model, cannot be exported; "
        f"the graph has {other.question.method.label} at the last layer instead, as preset='fast'"
    )


def _refuse(explain: FinerCAM, images: Tensor, terms: bool) -> None:
    """Refuse what the graph cannot hold, with the reason."""
    question, method = explain.question, explain.question.method

    def refuse(what: str, instead: str) -> None:
        raise FinerCAMError(f"{what} cannot be exported; {instead}")

    if method.gather not in (gather.gradients, gather.shares) or method.name == "eigengradcam":
        refuse(f"method {method.name!r}", "use a gradient method such as 'gradcam', 'hirescam' or 'layercam'")
    if terms and not method.linear:
        refuse(f"terms of method {method.name!r}, which is not linear in the contrast,", "use 'hirescam'")
    if any(view != IDENTITY for view in explain.views):
        refuse("the mean over several views (smooth=)", "leave smooth out, or use preset='fine'")
    if question.weights not in ("mean", "probability"):
        refuse(f"weights={question.weights!r}", "use 'mean' or 'probability'")
    if explain.classifier.readout.takes_samples:
        refuse("scores= that takes data of each image", "export a model that returns the logits")
    if INPUT in (explain.layers or ()):
        refuse("the layer 'input'", "name a layer of the model")
    if images.dtype != torch.float32 or images.device.type != "cpu":
        refuse(f"a model in {images.dtype} on {images.device}", "give model.float().cpu()")
    if explain.classifier.num_classes == 1:
        refuse("a model with one class, which has no rival class,", "give it two logits")
    size = sum(parameter.numel() * parameter.element_size() for parameter in explain.model.parameters())
    if size > LARGEST:
        refuse(f"a model of {size / 1e9:.1f} GB", f"one ONNX file holds at most {LARGEST / 1e9:g} GB")


def _program(traced: Traced, images: Tensor) -> tuple[int | None, Any]:
    """The number of images in a batch (None for any), and the ONNX program."""
    failures = []
    for batch in (None, 1):
        try:
            return batch, _converted(traced, images, batch)
        except Exception as error:  # tracing runs the model's own code, and the exporter raises its own errors
            failures.append(error)
    raise FinerCAMError(f"the model cannot be exported: {_reason(failures[-1])}") from failures[-1]


def _reason(error: BaseException) -> str:
    """The innermost cause, since the exporter wraps what happened in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {one_line(error)}"[:400]


def _converted(traced: Traced, images: Tensor, batch: int | None) -> Any:
    graph = traced.trace(images, batch)
    of_any = {} if batch else {0: torch.export.Dim("batch")}
    rivals = {**of_any, 1: torch.export.Dim("rivals")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # names of axes that are the same
        program = torch.onnx.export(
            graph,
            examples(images, batch),
            dynamo=True,
            verbose=False,
            input_names=INPUTS,
            output_names=traced.names,
            dynamic_shapes=(of_any, of_any, rivals, of_any),
        )
    assert program is not None
    _fold_transposes(program.model.graph)
    return program


def _fold_transposes(graph: Any) -> None:
    """Store weights that the tail reads transposed a second time, as weights of their own.

    OpenVINO 2026.4 takes a square weight for its transpose where a graph reads it both ways.
    """
    import onnx_ir

    for node in list(graph):
        weight = node.inputs[0].const_value if node.op_type == "Transpose" and node.inputs[0] is not None else None
        if weight is None or not node.inputs[0].is_initializer():
            continue
        output = node.outputs[0]
        turned = weight.numpy().transpose(node.attributes["perm"].as_ints()).copy()
        name = f"{output.name}_of_{weight.name}"
        value = onnx_ir.Value(name=name, const_value=onnx_ir.tensor(turned, name=name))
        value.type, value.shape = output.type, onnx_ir.Shape(turned.shape)
        graph.register_initializer(value)
        output.replace_all_uses_with(value)
        graph.remove(node, safe=True)


def _described(
    explain: FinerCAM, traced: Traced, images: Tensor, batch: int | None, preprocess: Preprocess | None, name: str
) -> dict[str, Any]:
    question, source = explain.question, traced.source
    names = explain.class_names
    return {
        "version": __version__,
        "model": name or type(explain.model).__name__,
        "classes": None if names is None else list(names),
        "preprocess": None if preprocess is None else preprocess.to_json(),
        "size": list(images.shape[2:]),
        "batch": batch,
        "method": question.method.name,
        "label": question.method.label,
        "layers": list(source.run.layers),
        "fusion": question.fusion if len(source.layers) > 1 else None,
        "gamma": float(question.gamma[0]),
        "references": question.references,
        "num_references": question.num_references,
        "weights": question.weights,
        "link": explain.link or explain.classifier.link,
        "outputs": list(traced.names),
    }


def _save(program: Any, file: Path, described: Mapping[str, Any]) -> None:
    program.model.metadata_props[METADATA] = json.dumps(described, allow_nan=False)
    program.save(os.fspath(file), external_data=False)


def compared(file: Path, explain: FinerCAM, images: Tensor, batch: int | None) -> float:
    """The largest difference between the graph's maps and the explainer's; raises FinerCAMError above `CLOSE`.

    A larger one, up to `KINK`, is accepted where the explainer's own maps move half as much by rounding.
    """
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(os.fspath(file), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise FinerCAMError(f"onnxruntime cannot load the exported graph: {one_line(error)}") from error
    images = images[:1].repeat(batch or 2, 1, 1, 1) if len(images) == 1 else images[: batch or 2]
    count, last = len(images), (explain.classifier.num_classes or 2) - 1
    usual, worst = float(explain.question.gamma[0]), 0.0
    for target, rivals, gamma in ((-1, [-1], usual), (0, [last], 0.5), (last, [0, -1], 1.0)):
        given = (images, torch.full((count,), target), torch.tensor([rivals] * count), torch.full((count,), gamma))
        feeds = {name: value.numpy() for name, value in zip(INPUTS, given, strict=True)}
        _, maps, *_ = session.run(None, feeds)
        named = {} if target == -1 else {"target": target, "against": [r for r in rivals if r >= 0]}
        ask = partial(explain, gamma=gamma, **named)
        difference = float((torch.from_numpy(maps) - ask(images).maps).abs().max())
        if not difference <= CLOSE and not difference <= min(
            2 * moved_by_rounding(ask, images), KINK
        ):  # also for NaN
            raise FinerCAMError(
                f"the exported graph's maps differ from the model's by {difference:.2g} of their peak; this model cannot "
                "be exported"
            )
        worst = max(worst, difference)
    return worst


def moved_by_rounding(ask: Callable[[Tensor], Explanation], images: Tensor) -> float:
    """The largest difference of the explainer's own maps for images that differ by rounding, over six draws of noise.

    Where two values in a pooling window are almost equal, or a value is almost at the bend of a ReLU, the order of the
    same sums decides which gradient passes.
    """
    maps, random = ask(images).maps, torch.Generator().manual_seed(0)
    draws = [images * (1 + ROUNDING * torch.randn(images.shape, generator=random)) for _ in range(6)]
    return max(float((ask(draw).maps - maps).abs().max()) for draw in draws)
