"""The registry of methods."""

from __future__ import annotations

import pytest
import torch

from finercam import FinerCAM, FinerCAMError, methods
from finercam.methods import method as registry

BUILT_IN = [
    "gradcam",
    "gradcam++",
    "xgradcam",
    "hirescam",
    "layercam",
    "gradcam-elementwise",
    "eigengradcam",
    "scorecam",
    "scorecam-softmax",
    "gscorecam",
    "ablationcam",
]


def test_the_built_in_methods():
    assert methods.names()[: len(BUILT_IN)] == BUILT_IN
    for name in BUILT_IN:
        assert methods.get(name).name == name
        assert "\n" not in methods.get(name).summary
        assert methods.get(name).summary.endswith(".") or methods.get(name).summary.endswith(")")


@pytest.fixture
def own_method():
    @methods.register("test-positive")
    def positive(activations, gradients):
        """Only positive activations count."""
        return (activations.relu() * gradients).sum(1)

    yield "test-positive"
    registry._REGISTRY.pop("test-positive")


def test_a_users_method_works_wherever_a_name_does(toys, pictures, own_method):
    model, images = toys.cnn(), pictures(2)
    assert own_method in methods.names()
    assert methods.get(own_method).summary == "Only positive activations count."
    explain = FinerCAM(model, own_method, layer="stage1", smooth="flip")
    answer = explain(images)
    assert answer.method == own_method
    asked = FinerCAM(model, "gradcam", layer="stage1", smooth="flip")(images).ask(method=own_method)
    assert torch.equal(asked.signed, answer.signed)
    assert torch.equal(explain(images, method=own_method).signed, answer.signed)
    several = FinerCAM(model, own_method, layer=["stage1", "stage2"], fusion="product")(images)
    assert several.signed.shape == (2, 8, 8)
    ((activations, gradients),) = answer.seen[0][1].contrasted(answer.contrast)
    by_hand = (activations.relu() * gradients).sum(1)
    plain = FinerCAM(model, own_method, layer="stage1")(images)
    torch.testing.assert_close(plain.signed, by_hand)


def test_a_method_object_needs_no_registration(toys, pictures):
    own = methods.Method("unregistered", lambda a, g: (a * g).amax(dim=1))
    answer = FinerCAM(toys.gap(), own, layer="features")(pictures(1))
    ((activations, gradients),) = answer.seen[0][1].contrasted(answer.contrast)
    assert torch.equal(answer.signed, (activations * gradients).amax(dim=1))
    assert answer.method == "unregistered"


@pytest.mark.parametrize(
    ("wrong", "says"), [("gradcan", "Did you mean 'gradcam'"), (0, "method 0"), (["gradcam"], "gradcam")]
)
def test_an_unknown_method_is_refused_in_one_line(toys, wrong, says):
    with pytest.raises(FinerCAMError) as caught:
        FinerCAM(toys.gap(), method=wrong)
    assert says in str(caught.value)
    assert "expected one of gradcam, " in str(caught.value)
    assert "\n" not in str(caught.value)
