"""Arguments of every kind as a question: a correct answer or a one-line error, and an unchanged model.

python -m fuzz.contrasts --seconds 60

The arguments are hypothesis's (`tests/test_fuzz.py` draws a few of them); atheris chooses the bytes that they are drawn
from, so that they are led by the code they reach.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fuzz.rules import one_line

__all__ = ["CLASSES", "IMAGES", "NAMES", "ODD", "Gap", "check", "explainers", "questions"]

NAMES = ["Blue Grosbeak", "Indigo Bunting", "Lazuli Bunting", "Blue Jay", "Junco"]
CLASSES = len(NAMES)
IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8).sin()


class Gap(nn.Module):
    """Features, their mean and a linear head, so that the map of any question is known in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 4, 3, padding=1)
        self.head = nn.Linear(4, CLASSES)
        random = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


one = st.one_of(
    st.integers(-2, CLASSES + 1),
    st.sampled_from([*NAMES, "blue jay", "Junko", "", "\n", "Blue Jay\n\x1b[2J", "💥"]),
    st.integers(),
    st.booleans(),
    st.none(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
)
ODD: list[Any] = [
    *(
        np.array(1),
        np.array([1, 2]),
        np.array([[1], [2]]),
        np.array([0.5, np.nan]),
        np.array(["Blue Jay", "Junco"]),
    ),
    *(np.array([], dtype=int), np.array([None, 1], dtype=object), np.int64(3), np.float32(1), np.bool_(True)),
    *(torch.tensor(1), torch.tensor([1, 2]), torch.tensor([[1, -1], [2, 3]]), torch.tensor([[[1]]])),
    *(torch.tensor([1.0]), torch.tensor([True, False]), torch.tensor(2 + 1j), torch.zeros(0), torch.zeros(2, 0)),
    *(torch.empty(2, device="meta"), torch.tensor([1, 2]).to_sparse(), torch.ones(2, requires_grad=True)),
    *(range(1, 3), {1, 2}, {"a": 1}, frozenset([1]), object, len, ..., 1j, slice(1), b"Junco", iter([1, 2])),
]
"""Values that hypothesis has no strategy for."""
anything = st.one_of(
    one,
    st.lists(one, max_size=4),
    st.lists(st.lists(one, max_size=3), max_size=3),
    st.tuples(one, one),
    st.recursive(one, lambda inner: st.lists(inner, max_size=2), max_leaves=6),
    st.sampled_from(ODD),
)
sensible = {
    "target": st.integers(0, CLASSES - 1)
    | st.sampled_from(NAMES)
    | st.lists(st.integers(0, 1), min_size=2, max_size=2),
    "against": st.lists(st.integers(2, CLASSES - 1), min_size=1, max_size=3, unique=True)
    | st.sampled_from(NAMES[2:]),
    "gamma": st.floats(0, 4) | st.lists(st.floats(0, 2), min_size=2, max_size=2),
    "weights": st.sampled_from(["mean", "probability", "orthogonal", "released"]),
    "method": st.sampled_from(["gradcam", "hirescam", "layercam", "gradcam++"]),
}
questions = st.fixed_dictionaries({}, optional={name: kind | anything for name, kind in sensible.items()})
explainers = st.fixed_dictionaries(
    {},
    optional={
        "references": st.sampled_from(["similar", "predicted", "nearest", "all"]) | anything,
        "num_references": st.integers(-1, 9) | anything,
        "keep": st.sampled_from(["contrast", "references", "closest"]) | anything,
        "gamma": st.floats(0, 2) | anything,
        "smooth": st.sampled_from(["flip", "scale", None]) | anything,
        "class_names": st.just(NAMES) | anything,
        "preset": st.sampled_from(["measured", "paper"]) | anything,
    },
)


def check(build: Mapping[str, Any], ask: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    """Ask a new explainer, and then its answer. Raises an error if the promise is broken."""
    from finercam import FinerCAM, FinerCAMError  # here, so that the runner can instrument what is imported

    model = Gap()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    try:
        explain = FinerCAM(model, layer="features", **build)
        answer = explain(IMAGES, **ask)
        _check_answer(model, answer, ask)
        answer = answer.ask(**again)
        assert bool(answer.signed.isfinite().all())
    except FinerCAMError as error:
        one_line(error)
    hooks = [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]
    assert not hooks and model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(rng, torch.get_rng_state())


def _check_answer(model: Gap, answer: Any, question: Mapping[str, Any]) -> None:
    """Check the targets, and compare Grad-CAM with plain means with its closed form from the head's rows."""
    target, references = answer.target, answer.references
    assert answer.maps.shape == (2, 8, 8) and len(answer.signed) == 2 and bool(answer.signed.isfinite().all())
    assert bool(((answer.maps >= 0) & (answer.maps <= 1)).all())
    assert bool(((target >= 0) & (target < CLASSES)).all())
    assert not bool((references == target[:, None]).any())
    if type(question.get("target")) is int:
        assert target.tolist() == [question["target"]] * 2
    if (answer.method, answer.contrast.weights) != ("gradcam", "mean") or len(answer.seen) > 1:
        return
    strength = torch.as_tensor(answer.gamma, dtype=torch.float32).reshape(-1, 1).expand(2, 1)
    rows = model.head.weight.detach()
    there = (references >= 0).float()
    others = (there[..., None] * rows[references.clamp(min=0)]).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
    alpha = (rows[target] - strength * others) / 64
    with torch.no_grad():
        expected = torch.einsum("nc,nchw->nhw", alpha, model.features(IMAGES))
    scale = float(expected.abs().max()) + 1e-6
    torch.testing.assert_close(answer.signed / scale, expected / scale, atol=1e-4, rtol=1e-4)


@settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(explainers, questions, questions)
def drawn(build: Mapping[str, Any], ask: Mapping[str, Any], again: Mapping[str, Any]) -> None:
    check(build, ask, again)


if __name__ == "__main__":
    from fuzz.runner import main

    begin = {f"{length}": bytes(range(256))[:length] for length in (8, 64, 200)}
    main("contrasts", drawn.hypothesis.fuzz_one_input, lambda: begin, ["finercam"])  # type: ignore[attr-defined]
