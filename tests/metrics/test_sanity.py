import numpy as np
import pytest
import torch
from torch import nn

from finercam import metrics
from finercam.errors import FinerCAMError


def input_gradient(model, images, target):
    x = images.detach().clone().requires_grad_()
    with torch.enable_grad():
        score = model(x).gather(1, target[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, x)
    return (gradient * x).sum(1).detach()


def for_quantus(model, inputs, targets, **_):
    images = torch.as_tensor(inputs, dtype=torch.float32)
    return input_gradient(model, images, torch.as_tensor(targets)).unsqueeze(1).numpy()


class Steady(nn.Conv2d):
    """Re-initialises to the same weights whatever torch's random state: then two libraries can be compared."""

    def reset_parameters(self):
        with torch.no_grad():
            generator = torch.Generator().manual_seed(self.weight.numel())
            self.weight.copy_(torch.randn(self.weight.shape, generator=generator))
            self.bias.zero_()


@pytest.fixture
def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = nn.Sequential(
            Steady(3, 6, 3, padding=1),
            nn.Tanh(),
            Steady(6, 5, 3, padding=1),
            nn.Tanh(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        for parameter in model.parameters():
            parameter.data.normal_()
    return model.eval()


@pytest.mark.slow
def test_spearman_equals_scipy_with_ties(maps):
    from scipy.stats import spearmanr

    rounded = maps.round()
    got = metrics.spearman(rounded, maps.roll(1, 0).half())
    want = [spearmanr(rounded[i].flatten(), maps.roll(1, 0)[i].half().flatten()).statistic for i in range(4)]
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert metrics.spearman(maps, torch.zeros_like(maps)).isnan().all()


@pytest.mark.peers
def test_the_cascade_equals_quantus(net, images, target):
    import quantus

    peer = quantus.MPRT(abs=False, normalise=False, layer_order="top_down", disable_warnings=True)
    want = peer(
        model=net,
        x_batch=images.numpy(),
        y_batch=target.numpy(),
        a_batch=None,
        explain_func=for_quantus,
        device="cpu",
    )
    ours = metrics.randomise_parameters(net, input_gradient, images, target)
    assert ours.layers == ("2", "0")
    for j, name in enumerate(ours.layers):
        np.testing.assert_allclose(ours.correlation[:, j], np.asarray(want[name], dtype=float), atol=1e-5)


@pytest.mark.peers
def test_the_random_logit_equals_quantus(net, images, target):
    import quantus
    from quantus.functions.similarity_func import correlation_spearman

    asked = []

    def remember(model, inputs, targets, **_):
        asked.append(targets)
        return for_quantus(model, inputs, targets)

    peer = quantus.RandomLogit(
        num_classes=5, abs=False, normalise=False, similarity_func=correlation_spearman, disable_warnings=True
    )
    want = peer(
        model=net,
        x_batch=images.numpy(),
        y_batch=target.numpy(),
        a_batch=for_quantus(net, images, target),
        explain_func=remember,
        device="cpu",
    )
    got = metrics.random_logit(net, input_gradient, images, target, others=torch.as_tensor(asked[-1]))
    np.testing.assert_allclose(got, want, atol=1e-5)


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(model, before):
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


class Odd(nn.Module):
    """A module with a parameter but no `reset_parameters`, and with a buffer that a reset would change."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.linspace(0.5, 1.5, 3))
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.3)
        self.head = nn.Linear(3, 5)

    def forward(self, x):
        return self.head(self.norm(x * self.gain[:, None, None]).tanh().mean((2, 3)))


def test_every_layer_is_randomised_and_everything_put_back(images, target):
    model = Odd().eval()
    before, rng, seen = state(model), torch.get_rng_state(), []

    def explain(net, x, classes):
        seen.append(state(net))
        return input_gradient(net, x, classes)

    answer = metrics.randomise_parameters(model, explain, images, target, seed=5)
    assert answer.layers == ("head", "norm", "")
    assert not torch.equal(seen[1]["head.weight"], before["head.weight"])
    assert torch.equal(seen[1]["norm.running_mean"], before["norm.running_mean"]), "not yet its turn"
    assert not torch.equal(seen[2]["norm.running_mean"], before["norm.running_mean"])
    assert not torch.equal(seen[3]["gain"], before["gain"])
    assert_same(model, before)
    assert torch.equal(rng, torch.get_rng_state())
    again = metrics.randomise_parameters(model, input_gradient, images, target, seed=5)
    assert torch.equal(answer.correlation, again.correlation)
    assert not torch.equal(
        answer.final, metrics.randomise_parameters(model, input_gradient, images, target, seed=6).final
    )


def test_put_back_after_an_error(net, images, target):
    before, calls = state(net), []

    def fail(model, x, classes):
        calls.append(0)
        if len(calls) == 3:
            raise RuntimeError("broken method")
        return input_gradient(model, x, classes)

    with pytest.raises(RuntimeError, match="broken method"):
        metrics.randomise_parameters(net, fail, images, target)
    assert_same(net, before)


def test_a_map_that_ignores_the_model_fails_both_checks(net, images, target):
    deaf = lambda model, x, classes: x.mean(1)  # noqa: E731
    assert metrics.randomise_parameters(net, deaf, images, target).mean.tolist() == pytest.approx([1] * 4)
    assert metrics.random_logit(net, deaf, images, target, classes=5).tolist() == pytest.approx([1] * 4)


def test_the_other_class_is_never_the_target(net, images):
    asked = []

    def explain(model, x, classes):
        asked.append(classes)
        return x.mean(1)

    for seed in range(30):
        metrics.random_logit(net, explain, images, 2, classes=3, seed=seed)
    others = torch.cat(asked[1::2])
    assert set(others.tolist()) == {0, 1}


def test_layers_by_name_and_absolute_maps(net, images, target):
    one = metrics.randomise_parameters(net, input_gradient, images, target, layers=["0"], absolute=True)
    assert one.correlation.shape == (4, 1)
    with pytest.raises(FinerCAMError, match="no layer"):
        metrics.randomise_parameters(net, input_gradient, images, target, layers=["1"])
    with pytest.raises(FinerCAMError, match="no layer with parameters to randomise"):
        metrics.randomise_parameters(nn.Tanh(), input_gradient, images, target)
    with pytest.raises(FinerCAMError, match="classes"):
        metrics.random_logit(net, input_gradient, images, target)
