"""The model is a guest: whatever state it comes in, and whatever goes wrong, it leaves as it came."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAM, FinerCAMError

METHODS = ["gradcam", "scorecam", "gscorecam", "ablationcam"]
QUESTION = {"target": [0, 3], "against": [[1, 2], [4]]}


def state_of(model: nn.Module) -> dict[str, object]:
    """Everything that an explanation might disturb."""
    return {
        "hooks": [
            (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks), len(m._backward_pre_hooks))
            for m in model.modules()
        ],
        "modes": [m.training for m in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        "state": {name: value.clone() for name, value in model.state_dict().items()},
        "grad_mode": torch.is_grad_enabled(),
        "rng": torch.get_rng_state(),
        "attributes": [sorted(vars(m)) for m in model.modules()],
    }


def assert_same(before: dict, after: dict) -> None:
    for key in ("hooks", "modes", "requires_grad", "grad_mode", "attributes"):
        assert before[key] == after[key], key
    assert torch.equal(before["rng"], after["rng"])
    for a, b in zip(before["grad"], after["grad"], strict=True):
        assert (a is None and b is None) or torch.equal(a, b)
    for name, value in before["state"].items():
        assert torch.equal(value, after["state"][name]), name


def mixed(model: nn.Module) -> nn.Module:
    """A model that is partly in train mode, partly frozen, and has gradients."""
    model.train()
    model.stage2.eval()
    model.head.weight.requires_grad_(False)
    for parameter in model.stage1.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_a_model_in_the_midst_of_training_is_left_as_it_was(toys, pictures, method):
    model, images = mixed(toys.cnn()), pictures(2)
    expected = FinerCAM(toys.cnn(), method, layer="stage1")(images, **QUESTION)
    before = state_of(model)
    answer = FinerCAM(model, method, layer="stage1")(images, **QUESTION)
    answer.ask(gamma=0.2)
    answer.ask(against=[[3], [0]])
    assert_same(before, state_of(model))
    assert torch.equal(answer.signed, expected.signed)  # dropout off, running statistics used


def test_finding_the_layer_leaves_no_trace_either(toys, pictures):
    model = mixed(toys.cnn())
    before = state_of(model)
    FinerCAM(model)(pictures(2))
    assert_same(before, state_of(model))


def test_an_idle_explainer_holds_no_hook_and_stores_no_forward(toys, pictures):
    model = toys.cnn()
    explain = FinerCAM(model, layer="stage1")
    answer = explain(pictures(2))
    kept = answer.seen[0][1].activations[0].clone()
    hooks = sum(len(m._forward_hooks) for m in model.modules())
    for seed in range(3):
        model(pictures(2, seed=seed))
    assert hooks == 0
    assert torch.equal(answer.seen[0][1].activations[0], kept)


def test_a_frozen_model(toys, pictures):
    model = toys.cnn().requires_grad_(False)
    expected = FinerCAM(toys.cnn(), layer="stage1")(pictures(2), **QUESTION)
    assert torch.equal(FinerCAM(model, layer="stage1")(pictures(2), **QUESTION).signed, expected.signed)
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_under_the_callers_no_grad_and_inference_mode(toys, pictures, method, mode, kind):
    layer = {"cnn": "stage1", "vit": "blocks.1.norm1"}[kind]
    model = getattr(toys, kind)()
    explain = FinerCAM(model, method, layer=layer)
    expected = explain(pictures(2), **QUESTION)
    with mode():
        answer = explain(pictures(2) * 1.0, **QUESTION)  # the images are inference tensors here
        inside = answer.ask(gamma=0.1)
        assert not torch.is_grad_enabled()
    assert torch.is_grad_enabled()
    assert torch.equal(answer.signed, expected.signed)
    assert torch.equal(inside.signed, expected.ask(gamma=0.1).signed)
    assert torch.equal(answer.ask(gamma=0.9).signed, expected.ask(gamma=0.9).signed)  # asked outside
    again, rerun = expected.ask(against=[[4], [0]]), answer.ask(against=[[4], [0]])
    assert torch.equal(again.signed, rerun.signed)


def test_images_that_carry_a_graph(toys, pictures):
    images = pictures(2).requires_grad_()
    answer = FinerCAM(toys.cnn(), layer="stage1")(images * 2, **QUESTION)
    assert images.grad is None
    assert answer.signed.grad_fn is None


def test_channels_last(toys, pictures):
    model = toys.cnn().to(memory_format=torch.channels_last)
    answer = FinerCAM(model, layer="stage1")(pictures(2).to(memory_format=torch.channels_last), **QUESTION)
    expected = FinerCAM(toys.cnn(), layer="stage1")(pictures(2), **QUESTION)
    torch.testing.assert_close(answer.signed, expected.signed, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.bfloat16, 0.1), (torch.float16, 0.02)]
)
@pytest.mark.parametrize("kind", ["cnn", "vit"])
def test_other_precisions(toys, pictures, method, dtype, tolerance, kind):
    layer = {"cnn": "stage2", "vit": "blocks.1.norm1"}[kind]
    expected = FinerCAM(getattr(toys, kind)(), method, layer=layer)(pictures(2), **QUESTION).signed
    answer = FinerCAM(getattr(toys, kind)().to(dtype), method, layer=layer)(pictures(2), **QUESTION)
    size = float(expected.abs().max())
    torch.testing.assert_close(answer.signed.float(), expected, rtol=0, atol=tolerance * size)
    assert answer.signed.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert answer.maps.isfinite().all()


def test_half_precision_zero_maps_and_large_gaps_stay_finite(toys, pictures):
    """fp16 turns the released objective into NaN at a gap of 12, and a peer's zero maps as well."""
    model = toys.gap().half()
    model.head.weight.data.zero_()
    model.head.bias.data = torch.tensor([30.0, 0, 0, 0, 0]).half()
    for weights in ("mean", "probability", "orthogonal", "released"):
        answer = FinerCAM(model, layer="features", weights=weights)(pictures(2))
        assert answer.maps.isfinite().all()
        assert answer.maps.abs().max() == 0


def test_autocast_is_for_the_model_and_not_for_the_maps(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    explain = FinerCAM(model, layer="stage1")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = explain(images, **QUESTION)
        inside = answer.ask(gamma=0.9)
        assert torch.is_autocast_enabled("cpu")
    assert answer.logits.dtype == torch.bfloat16
    assert torch.equal(inside.signed, answer.ask(gamma=0.9).signed)  # outside autocast, from the same evidence
    expected = explain(images, **QUESTION).signed
    torch.testing.assert_close(answer.signed.float(), expected, rtol=0, atol=0.05 * float(expected.abs().max()))
    scored = FinerCAM(model, "scorecam", layer="stage1")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        masked = scored(images, **QUESTION).signed
    expected = scored(images, **QUESTION).signed
    torch.testing.assert_close(masked.float(), expected, rtol=0, atol=0.05 * float(expected.abs().max()))


@pytest.mark.slow
def test_data_parallel_and_compiled_models(toys, pictures):
    images = pictures(2)
    expected = FinerCAM(toys.cnn(), layer="stage1")(images, **QUESTION).signed
    parallel = nn.DataParallel(toys.cnn())
    compiled = torch.compile(toys.cnn(), backend="eager")
    in_place = toys.cnn()
    in_place.compile(backend="eager")
    inside = toys.cnn()
    inside.stage2 = torch.compile(inside.stage2, backend="eager")
    for model in (parallel, compiled, in_place, inside):
        for used in (False, True):
            if used:
                model(images)  # already compiled when it is explained
            answer = FinerCAM(model, layer="stage1")(images, **QUESTION)
            torch.testing.assert_close(answer.signed, expected)
    torch.testing.assert_close(compiled(images), toys.cnn()(images))  # and it still runs compiled


@dataclass
class Output:
    hidden: Tensor
    logits: Tensor


def test_models_that_return_structures(toys, pictures):
    class Wrapped(nn.Module):
        def __init__(self, inner, form) -> None:
            super().__init__()
            self.inner, self.form = inner, form

        def forward(self, x):
            return self.form(self.inner(x))

    images = pictures(2)
    expected = FinerCAM(toys.gap(), layer="features")(images, **QUESTION)
    for form, scores in [
        (lambda y: (y, "aux"), None),
        (lambda y: {"hidden": torch.zeros(2, 3, 4), "logits": y}, None),
        (lambda y: Output(torch.zeros(2, 9), y), None),
        (lambda y: [torch.zeros(2, 9), y], lambda output: output[1]),
        (lambda y: {"a": torch.zeros(2, 9), "b": y}, lambda output: output["b"]),
    ]:
        answer = FinerCAM(Wrapped(toys.gap(), form), layer="inner.features", scores=scores)(images, **QUESTION)
        assert torch.equal(answer.signed, expected.signed)


def test_scores_may_be_any_differentiable_function_of_the_output(toys, pictures):
    """One logit, read as two classes."""
    model, images = toys.gap(classes=1), pictures(2)
    explain = FinerCAM(model, layer="features", scores=lambda y: torch.cat([-y, y], dim=1), references="predicted")
    answer = explain(images, 1, gamma=1.0)
    expected = torch.einsum("c,nchw->nhw", 2 * model.head.weight[0].detach(), model.features(images).detach()) / 64
    torch.testing.assert_close(answer.signed, expected)


def test_a_backbone_under_no_grad_inside_the_model(toys, pictures):
    class Probe(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        @torch.no_grad()
        def features(self, x):
            return self.inner.stage2(self.inner.relu(self.inner.stage1(x)))

        def forward(self, x):
            return self.inner.head(self.features(x).mean(dim=(2, 3)))

    expected = FinerCAM(toys.cnn(), layer="stage1")(pictures(2), **QUESTION)
    answer = FinerCAM(Probe(toys.cnn()), layer="inner.stage1")(pictures(2), **QUESTION)
    torch.testing.assert_close(answer.signed, expected.signed)


class Fails(nn.Module):
    """A module that raises on request."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error

    def forward(self, x):
        if self.error is not None:
            raise self.error
        return x


ERRORS = [RuntimeError("first line\nsecond line"), KeyError("weights"), FinerCAMError("own")]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("where", ["trunk", "tail"])
@pytest.mark.parametrize("layer", ["1", None])
def test_an_error_in_trunk_or_tail(toys, pictures, error, where, layer):
    model = nn.Sequential(
        Fails(), toys.gap().features, Fails(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5)
    )
    model.train()
    model[3].eval()
    model[5].bias.requires_grad_(False)
    explain = FinerCAM(model, layer=layer)
    before = state_of(model)
    fails = model[0 if where == "trunk" else 2]
    fails.error = error
    with pytest.raises((FinerCAMError, KeyError)) as caught:
        explain(pictures(2))
    if isinstance(error, RuntimeError):
        assert "first line" in str(caught.value)
        assert "(" in str(caught.value)  # the shape of the images
    assert "\n" not in str(caught.value)
    assert_same(before, state_of(model))
    fails.error = None
    assert explain(pictures(2)).maps.shape == (2, 16, 16)  # and it works again


def test_an_error_in_the_scores_callable_and_in_the_rule(toys, pictures):
    from finercam.methods import Method

    def broken(*_):
        raise ZeroDivisionError("mine")

    model = mixed(toys.cnn())
    before = state_of(model)
    with pytest.raises(FinerCAMError, match=r"scores= failed on .* \(2, 5\): mine") as caught:
        FinerCAM(model, layer="stage1", scores=broken)(pictures(2))
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert_same(before, state_of(model))
    with pytest.raises(ZeroDivisionError):
        FinerCAM(model, Method("broken", broken), layer="stage1")(pictures(2))
    assert_same(before, state_of(model))


@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "x"},
        {"layer": "nowhere"},
        {"references": "x"},
        {"gamma": -1},
        {"keep": "x"},
        {"num_references": 0},
        {"smooth": "x"},
        {"weights": "x"},
        {"fusion": "x"},
        {"class_names": "abc"},
    ],
)
def test_a_failing_constructor_or_call_leaves_no_hooks(toys, pictures, arguments):
    model = mixed(toys.cnn())
    before = state_of(model)
    with pytest.raises(FinerCAMError):
        FinerCAM(model, **arguments)(pictures(2))
    assert_same(before, state_of(model))


def test_hooks_of_the_caller_stay_and_still_run(toys, pictures):
    model, seen = toys.cnn(), []
    handle = model.stage1.register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    FinerCAM(model, layer="stage1")(pictures(2))
    assert len(seen) == 1
    model(pictures(2))
    assert len(seen) == 2
    handle.remove()


def test_images_are_not_written_to(toys, pictures):
    class Scales(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return self.inner(x.mul_(2))

    images = pictures(2)
    with pytest.raises(FinerCAMError, match="writes into its input images"):
        FinerCAM(Scales(toys.gap()), layer="inner.features")(images)
    assert torch.equal(images, pictures(2))


def test_no_memory_is_held_but_the_evidence(toys, pictures):
    """Neither graph nor hooks keep the activations of a run alive when its answer is dropped."""
    import gc
    import weakref

    model = toys.cnn()
    explain = FinerCAM(model, layer="stage1")
    answer = explain(pictures(2))
    tensors = [weakref.ref(answer.seen[0][1].activations[0]), weakref.ref(answer.signed), weakref.ref(answer.images)]
    del answer
    gc.collect()
    assert all(ref() is None for ref in tensors)
