"""The compiled model: equal to the model's own answers, and the model itself where it cannot be compiled."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from finercam import FinerCAM, FinerCAMError
from finercam.core.split import backend_of

QUESTION = {"target": [0, 1], "against": [[1, 2], [3, 4]]}
BACKEND = "aot_eager"


def assert_same(found, expected) -> None:
    size = float(expected.signed.abs().max())
    torch.testing.assert_close(found.signed, expected.signed, rtol=1e-4, atol=1e-5 * size)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert found.layers == expected.layers and torch.equal(found.references, expected.references)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("cnn", {"method": "layercam", "layer": "stage1"}),
        ("cnn", {"method": "hirescam", "layer": ["stage1", "stage2"], "fusion": "product"}),
        ("gap", {}),
        ("vit", {"preset": "fast", "keep": "references"}),
    ],
)
def test_a_compiled_model_gives_the_same_answers(toys, pictures, kind, options):
    model, images = getattr(toys, kind)().train(), pictures(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain = FinerCAM(model, compile=BACKEND, **options)
        answers = [explain(images, **QUESTION), explain(pictures(2, seed=1), **QUESTION)]
    own = FinerCAM(model, compile=False, **options)
    for answer, x in zip(answers, (images, pictures(2, seed=1)), strict=True):
        assert_same(answer, own(x, **QUESTION))
    assert_same(answers[0].ask(gamma=0.1), own(images, gamma=0.1, **QUESTION))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        next(model.parameters()).mul_(2)
    assert_same(explain(images, **QUESTION), own(images, **QUESTION))
    assert len(explain.classifier.splits._found) == 1


@pytest.mark.slow
def test_rows_that_nothing_reads_are_left_out_of_a_compiled_tail(toys, pictures):
    explain = FinerCAM(toys.vit(), preset="fast", compile=BACKEND)
    explain(pictures(2))
    (split,) = explain.classifier.splits._found.values()
    graph = split.parts[1].function._orig_mod.graph
    (activated,) = [node for node in graph.nodes if node.target is torch.ops.aten.gelu.default]
    assert activated.args[0].args[1] == (2, 1, 16)


@pytest.mark.slow
def test_a_model_that_its_owner_compiled_runs_by_that_backend(toys, pictures):
    images, used = pictures(2), []

    def backend(graph, inputs):
        used.append(graph)
        return graph.forward

    compiled, in_place = torch.compile(toys.cnn(), backend=backend), toys.cnn()
    in_place.compile(backend=backend)
    expected = FinerCAM(toys.cnn(), layer="stage1")(images, **QUESTION)
    for model in (compiled, in_place):
        used.clear()
        explain = FinerCAM(model, layer="stage1")
        assert_same(explain(images, **QUESTION), expected)
        assert len(used) >= 2  # the trunk and the tail
        assert FinerCAM(model, compile=False).classifier.splits is None
    assert backend_of(toys.cnn()) is None


def test_what_cannot_be_compiled_runs_as_before_with_one_warning(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    model.stage2.register_forward_hook(lambda _m, _i, output: output)
    explain = FinerCAM(model, layer="stage1", compile=BACKEND)
    with pytest.warns(UserWarning, match="runs uncompiled: the model has hooks"):
        answer = explain(images, **QUESTION)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explain(images, **QUESTION)
    assert_same(answer, FinerCAM(model, layer="stage1")(images, **QUESTION))


def test_a_compile_of_another_kind_is_refused(toys):
    with pytest.raises(FinerCAMError, match="compile=3"):
        FinerCAM(toys.gap(), compile=3)


def test_a_model_is_not_compiled_unasked():
    assert FinerCAM(nn.Linear(2, 2)).classifier.splits is None
