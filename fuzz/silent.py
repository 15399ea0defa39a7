"""Silent errors: random small models, methods and questions against a slow reference written independently.

python -m fuzz.silent --cases 10000 --seed 0        # the table; `--case N` repeats one case

A case agrees with `fuzz.reference`, or is refused with one line of a known kind, or is a finding. After each case, and
after another run into which an error is injected, the model and the process must be as they were.
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any

import torch
from torch import Tensor

from finercam import FinerCAM, FinerCAMError
from fuzz import reference
from fuzz.guests import Snapshot, disturb, tripwire
from fuzz.models import Drawn, draw_model, twin_of
from fuzz.rules import one_line

__all__ = ["Case", "Result", "hunt", "run_case"]

TEXT = ("value-attention", "self-attention", "grad-eclip")
KNOWN = (*reference.RULES, "scorecam", "scorecam-softmax", "gscorecam", "ablationcam", "relevance", "legrad")
KNOWN += ("reciprocam", "smoothgradcam++", *TEXT)
"""Methods that `fuzz.reference` knows, and those that are refused for all these models."""
USUAL = {"gamma": 1.0, "references": "predicted", "num_references": 1, "weights": "mean"}
PRESETS: dict[str | None, dict[str, Any]] = dict.fromkeys((None, "fast", "fine", "finest"), USUAL)
PRESETS["measured"] = USUAL | {"gamma": 0.6}
"""What docs/fine.md says that a preset asks where nothing else is said."""
NOT_FOR_PIXELS = ("ablationcam", "reciprocam", "shapleycam", "smoothgradcam++")
"""Methods that are not compared with the images as a layer: a run for each pixel, or no formula in the docs."""
BASE = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1}
"""Deviation from the reference, as a share of the map's peak, that needs no further look."""
CLOSE_LOGITS = {torch.float64: 1e-9, torch.float32: 1e-4, torch.bfloat16: 0.1}
SLACK = 20
"""Beyond the base, a map may move by this many times what rounding the weights and the image once moves the reference."""
REFUSALS = {
    "text methods need a zero-shot model": "is no ZeroShotClassifier",
    "the patches do not reach the logits": "its patches do not reach the logits",
    "the logits do not depend on the layer": "the logits do not depend on it",
    "legrad needs fused attention": "no attention over all patches",
    "what was not kept": "were not kept|the evidence is for targets|large rounding errors|for one target|reads other evidence",
    "scores= picks a place under a flip": "scores= picks places of the output",
    "scores= holds data of each image": "it seems to hold data of each",
    "scores= fits another number of images": "scores= failed on|expected one row each",
    "several tensors and no scores=": "expected logits \\(N, K\\): pass scores=",
    "no map larger than 1x1": "gives feature maps larger than 1x1",
    "orthogonal needs several channels": "orthogonal",
    "the tail cannot be differentiated": "cannot be differentiated",
    "images as a layer of this method": "images themselves",
    "the injected error": "injected",
}


@dataclass
class Case:
    """What was drawn for one seed."""

    seed: str
    draw: Random
    drawn: Drawn
    dtype: torch.dtype
    images: Tensor
    build: dict[str, Any]
    ask: dict[str, Any]
    again: dict[str, Any]
    confusion: Tensor
    threads: int
    mode: str
    compiled: bool = False

    @property
    def usual(self) -> dict[str, Any]:
        """The question's values where a call says nothing."""
        return PRESETS[self.build.get("preset")] | self.build

    @cached_property
    def model(self) -> Any:
        """The model as it is explained: as it is, or compiled and run once."""
        if not self.compiled:
            return self.drawn.model
        compiled: Any = torch.compile(self.drawn.model, backend="eager")
        with torch.no_grad():
            compiled(self.images.to(self.dtype))
        return compiled

    @property
    def method(self) -> str:
        return str(self.build.get("method", self.build.get("preset", "default")))


@dataclass
class Result:
    """How a case ended: worst deviation as a share of the peak, refusals by kind, findings."""

    kind: str = ""
    method: str = ""
    worst: float = 0.0
    compared: int = 0
    conditioned: int = 0
    cancelled: int = 0
    refusals: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)


# --- drawing


def draw_case(seed: int, number: int) -> Case:
    name = f"{seed}-{number}"
    draw = Random(name)
    torch.manual_seed(draw.getrandbits(60))
    kind = draw.choice(["cnn", "cnn", "cnn", "vit-cls", "vit-mean", "vit-mean", "dense", "several"])
    drawn = draw_model(draw, kind)
    dtype = draw.choice([torch.float32, torch.float32, torch.float32, torch.float64, torch.bfloat16])
    drawn.model.to(dtype).train(draw.random() < 0.4)
    method = draw.choice([m for m in KNOWN if m not in TEXT or draw.random() < 0.1])
    if kind.startswith("vit") and draw.random() < 0.1:
        method = "legrad"
    count, threads = draw.choice([1, 2, 3, 4]), 4 if draw.random() < 0.06 else 1
    side = draw.choice([8, 12, 16, 16, 20, 24, 32]) if kind[0] != "v" else draw.choice([16, 16, 24, 32])
    images = torch.randn(count, 3, side, draw.choice([side, side, 16, 24]))
    if draw.random() < 0.2:  # smooth pictures, and one with an even area
        images = torch.nn.functional.interpolate(images, scale_factor=2)[..., : images.shape[2], : images.shape[3]]
        images[0, :, : side // 2] = 0.5
    drawn.model.images = count
    disturb(draw, drawn.model)
    confusion = torch.randint(0, 9, (drawn.classes, drawn.classes))
    drawn_build = _draw_preset if draw.random() < 0.12 else _draw_build
    build = drawn_build(draw, drawn, method) | {"confusion": confusion}
    ask = _draw_question(draw, drawn.classes, count)
    mode = draw.choice(["grad", "grad", "no_grad", "inference"])
    again = _draw_again(draw, drawn, count, method)
    compiled = draw.random() < 0.004
    return Case(name, draw, drawn, dtype, images, build, ask, again, confusion, threads, mode, compiled)


def _draw_build(draw: Random, drawn: Drawn, method: str) -> dict[str, Any]:
    build: dict[str, Any] = {"method": method, "scores": drawn.scores}
    if draw.random() < 0.6:
        build["layer"] = draw.choice(drawn.layers)
        if draw.random() < 0.25:
            build["layer"] = draw.sample(drawn.layers, 2)
            build["fusion"] = draw.choice(["mean", "product", "geometric", "weighted"])
        elif draw.random() < 0.08 and method not in NOT_FOR_PIXELS:
            build["layer"] = "input"
    build["gamma"] = draw.choice([0.0, 0.6, 1.0, 1.79, round(draw.uniform(0, 2), 3)])
    build["weights"] = draw.choice(["mean", "mean", "probability", "orthogonal", "released"])
    build["references"] = draw.choice(["predicted", "predicted", "similar", "nearest", "all", "confused"])
    build["num_references"] = draw.choice([1, 1, 2, 3, 9])
    build["smooth"] = draw.choice([None] * 9 + ["flip", "scale", ("flip", "scale"), "larger", ("flip", "larger")])
    build["keep"] = draw.choice([None, None, "question", "contrast", "closest", "references", 3])
    build["keep_images"] = draw.random() < 0.8
    build["batch_size"] = draw.choice([None, None, 1, 2, 3])
    return build


def _draw_preset(draw: Random, drawn: Drawn, _method: str) -> dict[str, Any]:
    """Only a preset, or nothing, and perhaps some values of the question."""
    build: dict[str, Any] = {"scores": drawn.scores, "keep_images": draw.random() < 0.8}
    if preset := draw.choice(list(PRESETS)):
        build["preset"] = preset
    if draw.random() < 0.5:
        build["gamma"] = draw.choice([0.0, 0.6, 1.79])
    if draw.random() < 0.3:
        build["weights"] = draw.choice(["probability", "released"])
        build["num_references"] = 2
    return build


def _draw_question(draw: Random, classes: int, count: int) -> dict[str, Any]:
    """A target and rivals, for all images or for each."""
    ask: dict[str, Any] = {}
    if draw.random() < 0.6:
        each = [draw.randrange(classes) for _ in range(count)]
        ask["target"] = draw.choice([each[0], each, torch.tensor(each)])
        own = [each[0]] * count if isinstance(ask["target"], int) else each
        if draw.random() < 0.5:
            rows = [
                draw.sample(others, draw.randint(1, len(others)))
                for c in own
                for others in [[k for k in range(classes) if k != c]]
            ]
            ask["against"] = rows
    if draw.random() < 0.3:
        ask["gamma"] = [round(draw.uniform(0, 2), 2) for _ in range(count)]
    return ask


def _draw_again(draw: Random, drawn: Drawn, count: int, method: str) -> dict[str, Any]:
    """Further questions about the answer: a slice of it, another question, its reverse, or the plain one."""
    again: dict[str, Any] = {"slice": None, "how": draw.choice(["ask", "ask", "ask", "reverse", "plain"])}
    if count > 1 and draw.random() < 0.5:
        first = draw.randrange(count)
        again["slice"] = slice(first, draw.randint(first + 1, count))
        count = again["slice"].stop - first
    ask = _draw_question(draw, drawn.classes, count) if draw.random() < 0.5 else {}
    if draw.random() < 0.5:
        ask["gamma"] = draw.choice([0.0, 0.3, 1.0, 2.0])
    if draw.random() < 0.3:
        ask["weights"] = draw.choice(["mean", "probability", "orthogonal", "released"])
    if draw.random() < 0.3:
        same = ["gradcam", "hirescam", "layercam", "eigengradcam", "xgradcam", "gradcam++", "gradcam-elementwise"]
        ask["method"] = draw.choice(same if draw.random() < 0.7 else [m for m in KNOWN if m not in TEXT])
    again["ask"] = ask
    return again


# --- running


def run_case(seed: int, number: int) -> Result:
    case = draw_case(seed, number)
    result = Result(case.drawn.kind, case.method)
    case.model  # compiling adds attributes to modules  # noqa: B018
    before, pixels = Snapshot(case.drawn.model), case.images.clone()
    try:
        _asked(case, result)
    except FinerCAMError as error:
        _refused(error, result)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        result.findings.append(f"{type(error).__name__}: {error} at {place.filename.split('/')[-1]}:{place.lineno}")
    result.findings += [f"changed: {change}" for change in before.changes()[:3]]
    if not torch.equal(pixels, case.images):
        result.findings.append("changed: the images")
    result.findings += _injected(case)
    return result


def _asked(case: Case, result: Result) -> None:
    explain = FinerCAM(case.model, **case.build)
    with _mode(case.mode):
        answer = explain(case.images, **case.ask)
    checker = _Checker(case, result)
    checker.question(answer, case.ask, range(len(case.images)))
    checker.check(answer, range(len(case.images)))
    if case.threads > 1:
        with ThreadPoolExecutor(case.threads) as pool:
            jobs = [pool.submit(explain, case.images, **case.ask) for _ in range(2 * case.threads)]
            for job in jobs:
                if not torch.equal(job.result().signed, answer.signed):
                    result.findings.append("another answer from another thread")
    at = case.again["slice"]
    samples = range(len(case.images))[at] if at else range(len(case.images))
    part = answer if at is None else answer[at]
    if at is not None and not torch.equal(part.signed, answer.signed[at]):
        result.findings.append("a slice has another map")
    with _mode(case.mode):
        other = _again(part, case.again)
    checker.again(other, part, case.again, samples)
    checker.check(other, samples)


def _again(part: Any, again: dict[str, Any]) -> Any:
    if again["how"] == "reverse":
        return part.reverse()
    return part.plain if again["how"] == "plain" else part.ask(**again["ask"])


@contextmanager
def _mode(name: str) -> Iterator[None]:
    modes: dict[str, Callable[[], Any]] = {"no_grad": torch.no_grad, "inference": torch.inference_mode}
    with modes.get(name, nullcontext)():
        yield


def _refused(error: FinerCAMError, result: Result) -> None:
    one_line(error)
    kinds = [kind for kind, pattern in REFUSALS.items() if re.search(pattern, str(error))]
    result.refusals.append(kinds[0] if kinds else "unknown")
    if not kinds:
        result.findings.append(f"refused for no known reason: {error}")


def _injected(case: Case) -> list[str]:
    """The same call, with an error raised by a random module at a random call: it passes or is one line."""
    error = case.draw.choice([RuntimeError, ValueError, KeyError, ZeroDivisionError, KeyboardInterrupt])
    remove = tripwire(case.draw, case.drawn.model, error)
    before = Snapshot(case.drawn.model)
    found: list[str] = []
    try:
        answer = FinerCAM(case.drawn.model, **case.build)(case.images, **case.ask)
        _again(answer, {**case.again, "slice": None})
    except FinerCAMError as refusal:
        one_line(refusal)
    except (Exception, KeyboardInterrupt) as raised:
        if not (isinstance(raised, error) and "injected" in str(raised)):
            found.append(f"after an injected {error.__name__}: {type(raised).__name__}: {raised}")
    found += [f"changed after an injected {error.__name__}: {change}" for change in before.changes()[:3]]
    remove()
    return found


# --- comparing


class _Checker:
    """Compares answers of one case with the reference."""

    def __init__(self, case: Case, result: Result) -> None:
        self.case, self.result = case, result
        self.twin = twin_of(case.drawn)
        self.images = case.images.to(case.dtype).double()
        head = self.twin.get_submodule(case.drawn.head).weight
        self.rows = head.flatten(1)

    def question(self, answer: Any, ask: dict[str, Any], samples: range) -> None:
        """Whether the answer is to the question: logits, target, rivals, strength."""
        for at, n in enumerate(samples):
            y = self._logits(n)
            deviation = float((answer.logits[at].double() - y).abs().max())
            if deviation > CLOSE_LOGITS[self.case.dtype] * max(1.0, float(y.abs().max())):
                self._finding(f"logits of sample {n} differ by {deviation:.2g}")
            own = answer.logits[at].double()
            target = ask.get("target")
            expected = int(own.argmax()) if target is None else int(target if isinstance(target, int) else target[at])
            if int(answer.target[at]) != expected:
                self._finding(f"target of sample {n} is {int(answer.target[at])}, not {expected}")
            self._rivals(answer, at, ask.get("against"), own, expected)
            gamma = ask.get("gamma", self.case.usual["gamma"])
            gamma = gamma[at] if isinstance(gamma, list) else gamma
            if abs(float(answer.gamma[at]) - gamma) > 1e-12:
                self._finding(f"gamma of sample {n} is {float(answer.gamma[at])}, not {gamma}")

    def again(self, other: Any, part: Any, again: dict[str, Any], samples: range) -> None:
        ask = dict(again["ask"]) if again["how"] == "ask" else {}
        if again["how"] == "reverse":
            ask = {"target": part.references[:, 0].tolist(), "against": [[c] for c in part.target.tolist()]}
        if again["how"] == "plain":
            ask["gamma"] = 0.0
        ask.setdefault("gamma", part.gamma.tolist())
        same_target = "target" not in ask or (
            torch.as_tensor(ask["target"]).expand(len(part)).tolist() == part.target.tolist()
        )
        ask.setdefault("target", part.target.tolist())
        if "against" not in ask and same_target:
            ask["against"] = [[d for d in row if d != -1] for row in part.references.tolist()]
        self.question(other, ask, samples)
        wanted = ask.get("method", part.method), ask.get("weights", part.contrast.weights)
        if again["how"] == "plain":
            wanted = part.method, "mean"
        if (other.method, other.contrast.weights) != wanted:
            self._finding(f"asked for {wanted}, got {other.method}, {other.contrast.weights}")

    def check(self, answer: Any, samples: range) -> None:
        """Whether the maps are the reference's."""
        if answer.signed.shape[0] != len(samples):
            self._finding(f"{answer.signed.shape[0]} maps for {len(samples)} images")
            return
        for at, n in enumerate(samples):
            question = self._question(answer, at)
            seldom = question is not None and "input" in question.layers and question.method in NOT_FOR_PIXELS
            if question is None or seldom:
                return
            y = answer.logits[at].double()
            expected = self._map(self.twin, self.images[n : n + 1], question, y, n)
            self._compare(answer, at, n, question, y, expected)

    def _compare(self, answer: Any, at: int, n: int, question: Any, y: Tensor, expected: Tensor) -> None:
        self.result.compared += 1
        if answer.signed[at].shape != expected.shape:
            self._finding(f"a map of {tuple(answer.signed[at].shape)}, not {tuple(expected.shape)}")
            return
        peak = float(expected.abs().max())
        deviation = float((answer.signed[at].double() - expected).abs().max())
        share = deviation / peak if peak else float(deviation > 0)
        base = BASE[self.case.dtype]
        if share <= base:
            self.result.worst = max(self.result.worst, share / base)
            self._shown(answer, at, n, question, expected, base)
            return
        plain = self._map(self.twin, self.images[n : n + 1], replace(question, gamma=0.0, weights="mean"), y, n)
        if deviation <= base * (1 + question.gamma) * float(plain.abs().max()):
            self.result.cancelled += 1
            return
        moved = self._moved(n, question, y, expected)
        if deviation <= SLACK * moved:
            self.result.conditioned += 1
        else:
            self._finding(
                f"{question.method} {question.weights} {question.layers} sample {n}: off by {share:.3g} of the peak "
                f"{peak:.3g} (rounding moves it by {moved / peak if peak else moved:.3g})"
            )

    def _shown(self, answer: Any, at: int, n: int, question: Any, expected: Tensor, base: float) -> None:
        """The picture's map: positive, enlarged, divided by its peak."""
        shown = reference.scaled(expected, tuple(self.images.shape[-2:]))
        if float(expected.max()) < 0.05 * float(expected.abs().max()):
            return  # little is positive, and is divided by its own small peak
        deviation = float((answer.maps[at].double() - shown).abs().max())
        if deviation > 60 * base:
            self._finding(f"the shown map of sample {n} is off by {deviation:.3g}")

    def _moved(self, n: int, question: Any, y: Tensor, expected: Tensor) -> float:
        """How far the reference moves when the weights and the image are rounded as the model's numbers are."""
        eps, worst = torch.finfo(self.case.dtype).eps, 0.0
        for seed in range(4):
            random = torch.Generator().manual_seed(seed)
            twin = copy.deepcopy(self.twin)
            for tensor in (*twin.parameters(), *twin.buffers()):
                if tensor.is_floating_point():
                    tensor.mul_(1 + eps * torch.randn(tensor.shape, generator=random, dtype=torch.float64))
            image = self.images[n : n + 1]
            image = image * (1 + eps * torch.randn(image.shape, generator=random, dtype=torch.float64))
            found = self._map(twin, image, question, y, n)
            worst = max(worst, float((found - expected).abs().max()))
        rounded = copy.deepcopy(self.twin).to(self.case.dtype)
        image = self.images[n : n + 1].to(self.case.dtype)
        found = self._map(rounded, image, question, y, n).double()
        return max(worst, float((found - expected).abs().max()))

    def _map(self, twin: Any, image: Tensor, question: Any, y: Tensor, n: int) -> Tensor:
        return reference.signed(twin, image, question, y, self._read(n)).detach()

    def _question(self, answer: Any, at: int) -> reference.Question | None:
        layers = answer.layers
        if "layer" not in self.case.build:
            if not self._as_expected(layers) and answer.method != "legrad":
                self._finding(f"found {layers}, expected one of {self.case.drawn.found()}")
                return None
            trunk = getattr(self.case.drawn.model, "trunk", None)
            if layers[-1] == "trunk" and trunk.relu.startswith("function"):
                layers = (*layers[:-1], "trunk.tap")
        rivals = tuple(d for d in answer.references[at].tolist() if d != -1)
        looks = tuple(reference.Look(view.flip, view.scale) for view, _ in answer.seen)
        if "preset" not in self.case.build and "method" in self.case.build:
            smooth = self.case.build["smooth"] or ()
            scales = (1.0, *((0.875, 1.125) if "scale" in smooth else ()), *((1.5,) if "larger" in smooth else ()))
            flips = (False, True) if "flip" in smooth else (False,)
            if looks != tuple(reference.Look(flip, scale) for scale in scales for flip in flips):
                self._finding(f"seen by {looks}")
        several = "product" if self.case.build.get("preset") in (None, "fine", "finest") else "mean"
        fusion = self.case.build.get("fusion", "mean" if "method" in self.case.build else several)
        return reference.Question(
            answer.method,
            tuple(layers),
            int(answer.target[at]),
            rivals,
            float(answer.gamma[at]),
            answer.contrast.weights,
            fusion if len(layers) > 1 else "mean",
            looks,
        )

    def _as_expected(self, layers: tuple[str, ...]) -> bool:
        """Whether layers that were found end in the one that is meant; the others of a preset are of other grids."""
        found = self.case.drawn.found()
        if layers[-1:] in found:
            return len(layers) == 1 or "method" not in self.case.build
        return set(layers) <= {"input", "patch", *(name for one in found for name in one)}

    def _read(self, n: int) -> reference.Read:
        drawn = self.case.drawn

        def read(output: Any, look: reference.Look) -> Tensor:
            if drawn.scores_kind == "batch masks":
                repeated = _repeated(output, drawn.model.images)
                return drawn.scores(repeated)[n : n + 1]  # type: ignore[misc]
            if drawn.scores is not None:
                return (
                    drawn.scores(output, torch.tensor([n]), look)
                    if drawn.scores_kind == "masks"
                    else drawn.scores(output)
                )
            if isinstance(output, dict):
                return output["logits"]
            if isinstance(output, tuple):
                return next(one for one in output if one.ndim == 2)
            return output

        return read

    def _logits(self, n: int) -> Tensor:
        with torch.no_grad():
            return reference.logits(self.twin, self.images[n : n + 1], self._read(n))

    def _rivals(self, answer: Any, at: int, against: Any, y: Tensor, target: int) -> None:
        found = [d for d in answer.references[at].tolist() if d != -1]
        if against is not None:
            expected, strategy = list(against[at]), "explicit"
        else:
            strategy, count = self.case.usual["references"], self.case.usual["num_references"]
            expected = reference.picked(strategy, count, y, target, self.rows, self.case.confusion)
        if found != expected:
            self._finding(f"rivals of sample {at} by {strategy} are {found}, not {expected}")

    def _finding(self, text: str) -> None:
        self.result.findings.append(text)


def _repeated(output: Any, count: int) -> Any:
    if isinstance(output, dict):
        return {key: _repeated(value, count) for key, value in output.items()}
    return output.expand(count, -1, -1, -1)


# --- the table


def hunt(cases: int, seed: int, seconds: float = float("inf")) -> tuple[list[tuple[int, Result]], float]:
    """Run cases from 0 on until they or the seconds are over."""
    begin, results = time.monotonic(), []
    for number in range(cases):
        if time.monotonic() - begin > seconds:
            break
        results.append((number, run_case(seed, number)))
    return results, time.monotonic() - begin


def _print_table(results: list[tuple[int, Result]], took: float) -> None:
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for _, result in results:
        groups[result.method, result.kind].append(result)
    print(
        f"{'method':20} {'model':9} {'cases':>6} {'maps':>6} {'worst':>6} {'cancel':>7} {'rounding':>8} {'refused':>8} {'findings':>8}"
    )
    for (method, kind), of in sorted(groups.items()):
        worst, maps, rounding = max(r.worst for r in of), sum(r.compared for r in of), sum(r.conditioned for r in of)
        refused, found = sum(bool(r.refusals) for r in of), sum(bool(r.findings) for r in of)
        print(
            f"{method:20} {kind:9} {len(of):6} {maps:6} {worst:6.2f} {sum(r.cancelled for r in of):7} {rounding:8} {refused:8} {found:8}"
        )
    print("worst: largest deviation among the maps within the base tolerance, as a share of that tolerance")
    for kind, count in Counter(kind for _, result in results for kind in result.refusals).most_common():
        print(f"refused {count:6}  {kind}")
    maps, found = sum(r.compared for _, r in results), sum(bool(r.findings) for _, r in results)
    print(f"{len(results)} cases, {maps} maps compared, {found} findings, {took:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="repeat one case")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after these")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if given.case is not None:
        case = draw_case(given.seed, given.case)
        print(case.drawn.model, replace(case, draw=Random(0), drawn=replace(case.drawn, model=None)), sep="\n")
        results = [(given.case, run_case(given.seed, given.case))]
    else:
        results, took = hunt(given.cases, given.seed, given.seconds)
        _print_table(results, took)
    for number, result in results:
        for finding in result.findings:
            print(f"finding: --seed {given.seed} --case {number} ({result.kind}, {result.method}): {finding}")
    return int(any(result.findings for _, result in results))


if __name__ == "__main__":
    sys.exit(main())
