"""Capture: the activations as the layer gave them, the gradient of the tail, and nothing left behind."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAMError
from finercam.core.capture import capture, exchanged, guest, run_model
from finercam.core.logits import Readout, find_logits


def named(model: nn.Module, *names: str) -> list[tuple[str, nn.Module]]:
    return [(name, model.get_submodule(name)) for name in names]


def hooks_of(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


def finite_difference(model: nn.Module, layer: nn.Module, images: Tensor, at: Tensor, v: Tensor) -> Tensor:
    """Central difference of `sum v*y` along random changes of the activations, through the whole model."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(4):
        change = torch.randn(at.shape, generator=generator, dtype=at.dtype)
        with exchanged(layer, at + 1e-6 * change):
            above = run_model(model, images)
        with exchanged(layer, at - 1e-6 * change):
            below = run_model(model, images)
        found.append((change, float(((above - below) * v).sum() / 2e-6)))
    return found


@pytest.mark.parametrize(
    ("kind", "layer"),
    [("cnn", "stage1"), ("cnn", "stage2"), ("vit", "blocks.0.norm1"), ("vit", "blocks.1.norm1")],
)
def test_tail_gradient_is_the_finite_difference(toys, pictures, kind, layer):
    model, images = getattr(toys, kind)().double(), pictures(2, dtype=torch.float64)
    run = capture(model, named(model, layer), images)
    v = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ((gradient,),) = run.gradients(v[:, None])
    assert float(gradient.abs().max()) > 1e-4
    at = run.activations[0].detach()
    for change, slope in finite_difference(model, model.get_submodule(layer), images, at, v):
        assert float((gradient * change).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-8)


@pytest.mark.parametrize(("kind", "layer"), [("cnn", "stage1"), ("vit", "blocks.1.norm1")])
def test_one_batched_product_equals_one_after_another(toys, pictures, kind, layer):
    model, images = getattr(toys, kind)(), pictures(2)
    v = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    one_by_one = capture(model, named(model, layer), images).gradients(v, batched=False)
    at_once = capture(model, named(model, layer), images).gradients(v, batched=True)
    for a, b in zip(one_by_one, at_once, strict=True):
        torch.testing.assert_close(a[0], b[0])


def test_without_a_batching_rule_the_products_are_taken_one_after_another(pictures):
    class Stubborn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 3 * x

        @staticmethod
        def backward(ctx, gradient):
            return torch.from_numpy(3 * gradient.numpy())  # no vmap rule for .numpy()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x):
            return Stubborn.apply(self.conv(x).mean(dim=(2, 3)))

    model = Model()
    run = capture(model, named(model, "conv"), pictures(1, size=4))
    found = run.gradients(torch.eye(4)[None, :2], batched=True)
    assert found[0][0][0, 0].unique().tolist() == [pytest.approx(3 / 16)]
    assert found[1][0][0, 0].abs().max() == 0


def test_activations_and_logits_are_those_of_a_plain_run(toys, pictures):
    model, images = toys.cnn(), pictures(3)
    seen = {}
    handle = model.stage1.register_forward_hook(lambda _m, _i, out: seen.update(a=out.detach().clone()))
    expected = model(images).detach()
    handle.remove()
    run = capture(model, named(model, "stage1"), images)
    assert torch.equal(run.activations[0], seen["a"])
    assert torch.equal(run.logits.detach(), expected)


def test_an_in_place_relu_after_the_layer_does_not_change_what_is_kept(toys, pictures):
    model = toys.cnn()
    run = capture(model, named(model, "stage1"), pictures(2))
    assert float(run.activations[0].detach().min()) < 0  # the ReLU behind it writes in place
    (gradient,) = run.gradients(torch.ones(2, 1, 5))[0]
    assert bool((gradient[run.activations[0] < 0] == 0).all())


def test_several_layers_come_in_the_order_given(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    late_first = capture(model, named(model, "stage2", "stage1"), images)
    early_first = capture(model, named(model, "stage1", "stage2"), images)
    assert [a.shape[1] for a in late_first.activations] == [8, 6]
    v = torch.ones(2, 1, 5)
    backwards, forwards = late_first.gradients(v)[0], early_first.gradients(v)[0]
    assert torch.equal(backwards[0], forwards[1])
    assert torch.equal(backwards[1], forwards[0])
    alone = capture(model, named(model, "stage1"), images).gradients(v)[0][0]
    torch.testing.assert_close(forwards[0], alone)


def test_a_layer_and_the_last_module_inside_it(toys, pictures):
    model = toys.cnn()
    run = capture(model, named(model, "stage2", "stage2.2"), pictures(2))
    outer, inner = run.gradients(torch.ones(2, 1, 5))[0]
    assert torch.equal(run.activations[0], run.activations[1])
    assert torch.equal(outer, inner)


def test_the_trunk_has_no_graph(toys, pictures):
    model = toys.cnn()
    run = capture(model, named(model, "stage2"), pictures(1).requires_grad_())
    assert run.activations[0].is_leaf
    nodes, seen = [run.logits.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is not None and node not in seen:
            seen.add(node)
            nodes += [parent for parent, _ in node.next_functions]
    assert not any("Convolution" in type(node).__name__ for node in seen)


def test_a_backbone_held_under_no_grad(toys, pictures):
    class Probe(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            with torch.no_grad():
                maps = self.inner.features(x)
                pooled = maps.mean(dim=(2, 3))
            return self.inner.head(pooled)

    inner = toys.gap()
    model, images = Probe(inner), pictures(2)
    run = capture(model, named(model, "inner.features"), images)
    (gradient,) = run.gradients(torch.eye(5)[None, 1:2].expand(2, 1, 5))[0]
    torch.testing.assert_close(gradient[0, :, 0, 0], inner.head.weight[1].detach() / 64)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_under_the_callers_own_mode(toys, pictures, mode):
    model, images = toys.vit(), pictures(2)
    v = torch.ones(2, 1, 5)
    expected = capture(model, named(model, "blocks.1.norm1"), images).gradients(v)[0][0]
    with mode():
        found = capture(model, named(model, "blocks.1.norm1"), images).gradients(v)[0][0]
        assert not torch.is_grad_enabled()
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    assert torch.equal(found, expected)


def test_layers_that_return_tuples_and_dicts(pictures):
    class Stage(nn.Module):
        def __init__(self, form) -> None:
            super().__init__()
            self.conv, self.form = nn.Conv2d(3, 4, 3), form

        def forward(self, x):
            return self.form(self.conv(x))

    Pair = namedtuple("Pair", "maps extra")
    forms = [
        (lambda a: a, lambda o: o),
        (lambda a: (a, "extra"), lambda o: o[0]),
        (lambda a: [a, None], lambda o: o[0]),
        (lambda a: {"maps": a, "n": 1}, lambda o: o["maps"]),
        (lambda a: Pair(a, 0), lambda o: o.maps),
    ]

    class Model(nn.Module):
        def __init__(self, form, take) -> None:
            super().__init__()
            self.stage, self.head, self.take = Stage(form), nn.Linear(4, 3), take

        def forward(self, x):
            return self.head(self.take(self.stage(x)).mean(dim=(2, 3)))

    for form, take in forms:
        model = Model(form, take)
        run = capture(model, named(model, "stage"), pictures(1, size=6))
        (gradient,) = run.gradients(torch.eye(3)[None, :1])[0]
        torch.testing.assert_close(gradient[0, :, 0, 0], model.head.weight[0].detach() / 16)


def test_a_layer_that_runs_twice_or_never_is_named(toys, pictures):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.spare = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x)).mean(dim=(2, 3))

    model = Twice()
    with pytest.raises(FinerCAMError, match="'conv' runs more than once"):
        capture(model, named(model, "conv"), pictures(1))
    with pytest.raises(FinerCAMError, match="'spare' did not run"):
        capture(model, named(model, "spare"), pictures(1))
    assert hooks_of(model) == 0


def test_a_layer_that_the_logits_do_not_depend_on_is_named(pictures):
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aside = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            self.aside(x)
            return self.main(x).mean(dim=(2, 3))

    model = Aside()
    with pytest.raises(FinerCAMError, match="'aside': the logits do not depend on it"):
        capture(model, named(model, "aside"), pictures(1))
    with pytest.raises(FinerCAMError, match="'aside': the logits do not depend on it"):
        capture(model, named(model, "main", "aside"), pictures(1)).gradients(torch.ones(1, 1, 3))


def test_a_model_that_detaches_its_tail_is_told_so(toys, pictures):
    class Shut(nn.Module):
        def __init__(self, inner, mode) -> None:
            super().__init__()
            self.inner, self.mode = inner, mode

        def forward(self, x):
            with self.mode():
                return self.inner(x) if self.mode is torch.inference_mode else self.inner(x).detach()

    for mode in (torch.enable_grad, torch.inference_mode):
        model = Shut(toys.gap(), mode)
        with pytest.raises(FinerCAMError, match=r"inner\.features") as caught:
            capture(model, named(model, "inner.features"), pictures(1))
        assert "\n" not in str(caught.value)
        assert hooks_of(model) == 0


@dataclass
class Output:
    features: Tensor
    logits: Tensor


def test_where_logits_are_found():
    y, other = torch.rand(2, 5), torch.rand(2, 9)
    assert find_logits(y) is y
    assert find_logits((y, other)) is y
    assert find_logits([torch.zeros(2, 3, 4), y]) is y
    assert find_logits({"features": other, "logits": y}) is y
    assert find_logits({"maps": torch.zeros(2, 3, 4), "scores": y}) is y
    assert find_logits(Output(other, y)) is y
    assert Readout.of(lambda o: o["b"]).read({"a": other, "b": y}) is y
    from transformers.modeling_outputs import ImageClassifierOutput

    assert find_logits(ImageClassifierOutput(logits=y, hidden_states=(other,))) is y


@pytest.mark.parametrize(
    ("output", "scores", "says"),
    [
        (torch.zeros(2, 5, 7), None, r"a tensor of shape \(2, 5, 7\)"),
        (torch.zeros(2, 5, dtype=torch.long), None, "expected logits"),
        ("logits", None, "returned str"),
        (None, None, "returned NoneType"),
        ({"image": torch.zeros(2, 5), "text": torch.zeros(3, 5)}, None, r"keys \['image', 'text'\]"),
        (torch.zeros(2, 5), lambda o: o[0], r"scores= returned a tensor of shape \(5,\)"),
        (torch.zeros(2, 5), lambda o: "x", "scores= returned str"),
    ],
)
def test_no_logits_to_be_found_is_one_line(output, scores, says):
    with pytest.raises(FinerCAMError, match=says) as caught:
        Readout.of(scores).read(output)
    assert "\n" not in str(caught.value)


def test_guest_puts_each_flag_back(toys):
    model = toys.cnn()
    model.train()
    model.stage2.eval()
    model.head.weight.requires_grad_(False)
    modes = [m.training for m in model.modules()]
    grads = [p.requires_grad for p in model.parameters()]
    with pytest.raises(KeyError), guest(model):
        assert not any(m.training for m in model.modules())
        assert not any(p.requires_grad for p in model.parameters())
        raise KeyError
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == grads


def test_exchanged_gives_another_activation_and_lets_go(toys, pictures):
    model, images = toys.gap(), pictures(2)
    with exchanged(model.features, torch.zeros(2, 6, 8, 8)):
        torch.testing.assert_close(run_model(model, images), model.head.bias.detach().expand(2, -1))
    assert hooks_of(model) == 0


def test_gradient_checkpointing_is_switched_off_by_its_flag(toys, pictures):
    """As timm and open_clip do it: recomputed in the backward pass, the layers would run without hooks."""
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        def __init__(self, inner, flag) -> None:
            super().__init__()
            self.inner, self.grad_checkpointing = inner, flag

        def forward(self, x):
            if self.grad_checkpointing:
                return checkpoint(self.inner, x, use_reentrant=False)
            return self.inner(x)

    v = torch.ones(2, 1, 5)
    found = []
    for flag in (True, False):
        model = Checkpointed(toys.vit(), flag)
        found += capture(model, named(model, "inner.blocks.1.norm1"), pictures(2)).gradients(v)[0]
        assert model.grad_checkpointing is flag
    assert torch.equal(found[0], found[1])


def test_checkpointing_without_a_flag_is_named(toys, pictures):
    from torch.utils.checkpoint import checkpoint

    class Always(nn.Module):
        def __init__(self, inner) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    model = Always(toys.vit())
    run = capture(model, named(model, "inner.blocks.1.norm1"), pictures(2))
    with pytest.raises(FinerCAMError, match="gradient checkpointing; switch that off") as caught:
        run.gradients(torch.ones(2, 1, 5))
    assert "\n" not in str(caught.value)
