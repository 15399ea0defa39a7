"""For `fuzz.malformed`: explainers, questions and images of every wrong kind, for sound and for odd models."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fuzz import contrasts
from fuzz.contrasts import IMAGES, NAMES, ODD, Gap
from fuzz.guests import Snapshot

__all__ = ["drawn"]

PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    -1,
    5,
    10**9,
    10**400,
    0.5,
    -0.5,
    1e300,
    float("nan"),
    float("inf"),
]
PLAIN += ["", "x", "\n", "💥" * 900, "Blue Jay", "Junko", "gradcam", "flip", b"x", (), [], [[]], [[1], [2]], [0, 1]]
PLAIN += [
    [None],
    [1, "x"],
    ["Blue Jay"] * 2,
    {"a": 1},
    {1: "x"},
    {None},
    lambda *_: 1,
    object(),
    nn.Linear(2, 2),
    type,
]
SENSIBLE: dict[str, list[Any]] = {
    "method": ["gradcam", "layercam", "scorecam", "ablationcam", "relevance", "legrad", "shapleycam", "finecam"],
    "gamma": [0.0, 0.6, [0.1, 2.0]],
    "references": ["similar", "predicted", "nearest", "all", "confused"],
    "num_references": [1, 3],
    "weights": ["mean", "probability", "orthogonal", "released"],
    "layer": ["features", "input", ["features", "features"], "stages"],
    "scores": [lambda y: y, lambda y: y[:, :2], lambda y: None, lambda y: y[0], lambda y, samples, view: y],
    "class_names": [NAMES, NAMES[:2], ["x"] * 5],
    "fusion": ["mean", "product", "geometric"],
    "smooth": ["flip", "scale", ("flip", "scale")],
    "keep": ["question", "contrast", 2],
    "keep_images": [True, False],
    "confusion": [torch.ones(5, 5), torch.full((5, 5), float("nan")), np.ones((5, 5)), torch.ones(4, 5)],
    "layout": [],
    "batch_size": [1, 7],
    "link": ["softmax", "sigmoid", "none"],
    "preset": ["fine", "fast", "finest", "measured", "paper"],
}
QUESTION = {"target": [0, "Blue Jay", [0, 1]], "against": [1, "Junco", [[1], [2]]]}
QUESTION |= {name: SENSIBLE[name] for name in ("gamma", "weights", "method")}
PICTURES: list[Callable[[], Any]] = [
    *(lambda: IMAGES[:, :1], lambda: IMAGES[0], lambda: IMAGES[:0], lambda: IMAGES[..., :0], lambda: IMAGES[..., :1]),
    *(
        lambda: IMAGES.numpy(),
        lambda: IMAGES.int(),
        lambda: IMAGES.bool(),
        lambda: IMAGES.half(),
        lambda: IMAGES * 1e30,
    ),
    *(
        lambda: IMAGES.to(torch.complex64),
        lambda: IMAGES.to_sparse(),
        lambda: IMAGES.to("meta"),
        lambda: IMAGES * np.nan,
    ),
    *(
        lambda: IMAGES.expand(2, 3, 8, 8).clone().requires_grad_(),
        lambda: IMAGES[None],
        lambda: [IMAGES[0], IMAGES[1]],
    ),
    *(lambda: torch.nested.nested_tensor([IMAGES[0], IMAGES[1, :, :4]]), lambda: IMAGES.permute(0, 2, 3, 1)),
    *(lambda: None, lambda: 3, lambda: "photo.jpg", lambda: b"x", lambda: {"pixel_values": IMAGES}, lambda: Gap()),
    *(lambda: torch.quantize_per_tensor(IMAGES, 0.1, 0, torch.qint8), lambda: IMAGES[:1].expand(50, 3, 8, 8)),
    *(lambda: IMAGES.to(torch.float8_e4m3fn), lambda: IMAGES.double(), lambda: IMAGES.transpose(2, 3)),
]


class Injected(Exception):
    """Raised by an odd model's own code; it is not finercam's, and may pass."""


class _Backward(torch.autograd.Function):
    @staticmethod
    def forward(_ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(_ctx: Any, *_grads: Tensor) -> Tensor:
        raise ZeroDivisionError("backward")


class Ends(Gap):
    """A model whose output is made into something else."""

    def __init__(self, ending: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.ending = ending

    def forward(self, x: Tensor) -> Any:
        return self.ending(super().forward(x))


def _raised(_y: Tensor) -> Tensor:
    raise Injected("forward")


ENDINGS: list[Callable[[Tensor], Any]] = [
    *(
        lambda y: None,
        lambda y: 3,
        lambda y: "x",
        lambda y: [],
        lambda y: {},
        lambda y: (y, y),
        lambda y: {"a": {"b": y}},
    ),
    *(lambda y: y[:, :0], lambda y: y[:, :1], lambda y: y[:0], lambda y: y[0], lambda y: y.sum(), lambda y: y[None]),
    *(lambda y: y + 1j, lambda y: y.int(), lambda y: y > 0, lambda y: y.to_sparse(), lambda y: y.to("meta")),
    *(
        lambda y: y * float("nan"),
        lambda y: y / 0,
        lambda y: y.detach(),
        lambda y: y.detach().numpy(),
        lambda y: y * 0,
    ),
    *(lambda y: y.half() * 60000, lambda y: y.repeat(2, 1), lambda y: torch.zeros(2, 5), lambda y: y.softmax(1)),
    *(lambda y: y.sigmoid(), lambda y: y.argmax(1), lambda y: torch.rand(2, 5) * y, _Backward.apply, _raised),
    *(
        lambda y: y.relu_(),
        lambda y: torch.nested.nested_tensor([y[0], y[1, :3]]),
        lambda y: y.double(),
        lambda y: y * 1e38,
    ),
]


def _odd_model(draw: random.Random) -> Any:
    kind = draw.choice(
        ["ending"] * 6 + ["script", "traced", "lazy", "meta", "none", "empty", "double", "inference", "deep"]
    )
    match kind:
        case "ending":
            return Ends(draw.choice(ENDINGS))
        case "script":
            return torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()))
        case "traced":
            return torch.jit.trace(Gap(), IMAGES)
        case "lazy":
            return nn.Sequential(nn.LazyConv2d(4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(5))
        case "meta":
            return Gap().to("meta")
        case "none":
            return draw.choice([None, 3, "fieldguide/cnn", len, nn.Conv2d, {"a": 1}])
        case "empty":
            return draw.choice([nn.Identity(), nn.Sequential(), nn.ModuleList([Gap()]), nn.Module(), nn.Flatten()])
        case "inference":
            with torch.inference_mode():
                return Gap()
        case "deep":
            return nn.Sequential(
                *[nn.Conv2d(3, 3, 3, padding=1) for _ in range(40)], nn.AdaptiveAvgPool2d(1), nn.Flatten()
            )
    return Gap().double()


def _options(draw: random.Random, known: dict[str, list[Any]], most: int) -> dict[str, Any]:
    found = {}
    for name in draw.sample(list(known), draw.randint(0, most)):
        pool = known[name] if known[name] and draw.random() < 0.5 else draw.choice([PLAIN, ODD])
        found[name] = draw.choice(pool)
    return found


def drawn(draw: random.Random) -> Callable[[], Any]:
    """A call with something wrong in it, or a few things."""
    torch.manual_seed(draw.getrandbits(40))
    build = _options(draw, SENSIBLE, 3)
    ask, again = _options(draw, QUESTION, 3), _options(draw, QUESTION, 2)
    if draw.random() < 0.4:
        plain = {name: value for name, value in build.items() if name not in ("layer", "layout", "scores")}
        return lambda: contrasts.check(plain, ask, again)
    model = _odd_model(draw) if draw.random() < 0.6 else Gap()
    picture = draw.choice(PICTURES)
    images = IMAGES if draw.random() < 0.6 else picture
    return lambda: _asked(model, build, images, ask, again)


def _asked(model: Any, build: dict[str, Any], images: Any, ask: dict[str, Any], again: dict[str, Any]) -> None:
    from finercam import FinerCAM

    given = images() if callable(images) else images
    before, guest = torch.get_rng_state(), Snapshot(model) if type(model) is Ends else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            answer = FinerCAM(model, **build)(given, **ask)
            answer = answer.ask(**again) if again else answer.plain
        except Injected:  # of the model, in its own words
            return
        finally:
            assert guest is None or not guest.changes(), guest.changes()
    assert bool(answer.signed.isfinite().all()) and bool(answer.maps.isfinite().all())
    assert float(answer.maps.min()) >= 0 and float(answer.maps.max()) <= 1
    assert torch.equal(before, torch.get_rng_state())
