from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from finercam.core.layers import resolve_layers, unwrap
from finercam.errors import FinerCAMError


class Net(nn.Module):
    """stem, two stages, a head; `broken` makes the forward pass fail after the first stage."""

    def __init__(self, broken: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList([nn.Conv2d(4, 6, 3, 2, 1), nn.Conv2d(6, 8, 3, 2, 1)])
        self.dropout, self.fc, self.broken, self.passes = nn.Dropout(0.5), nn.Linear(8, 3), broken, 0
        self.seen: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.passes += 1
        self.seen.append(tuple(images.shape))
        x = self.stages[0](self.stem(images))
        if self.broken:
            raise RuntimeError("mat1 and mat2 do not fit\nat some length")
        return self.fc(self.dropout(self.stages[1](x)).mean((2, 3)))


IMAGES = torch.randn(5, 3, 32, 48, generator=torch.Generator().manual_seed(0))


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_found_by_one_pass_of_one_sample_that_leaves_no_trace() -> None:
    model = Net().train()
    model.stem[1].eval()
    model.fc.requires_grad_(False)
    model.stages[0].weight.grad = torch.ones_like(model.stages[0].weight)
    state, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    rng = torch.get_rng_state()
    assert [name for name, _ in resolve_layers(model, None, IMAGES)] == ["stages.1"]
    assert model.seen == [(1, 3, 32, 48)]
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.fc.parameters()] == [False, False]
    assert model.stem[0].weight.requires_grad
    assert torch.equal(model.stages[0].weight.grad, torch.ones_like(model.stages[0].weight))
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())  # batch norm's too
    assert torch.equal(torch.get_rng_state(), rng)
    assert hooks(model) == 0


def test_a_failing_model_is_one_line_and_leaves_no_hooks() -> None:
    model = Net(broken=True).train()
    with pytest.raises(FinerCAMError, match=r"Net fails on images of shape \(1, 3, 32, 48\): mat1 and mat2") as error:
        resolve_layers(model, None, IMAGES)
    assert "\n" not in str(error.value)
    assert hooks(model) == 0
    assert model.training
    assert model.fc.training


def test_run_takes_the_place_of_the_call() -> None:
    model = Net()
    found = resolve_layers(model, None, IMAGES, run=lambda: model.stages[0](model.stem(IMAGES[:1])))
    assert found == [("stages.0", model.stages[0])]
    assert model.passes == 0


def test_named_layers_need_no_pass_and_keep_their_order() -> None:
    model = Net(broken=True)
    found = resolve_layers(model, ["stages.1", model.stem, "stages[-2]", "stem.-1"], IMAGES)
    assert [name for name, _ in found] == ["stages.1", "stem", "stages.0", "stem.2"]
    assert [module for _, module in found] == [model.stages[1], model.stem, model.stages[0], model.stem[2]]
    assert model.passes == 0


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("stagse.1", "No layer 'stagse.1' in Net. Did you mean 'stages.1'"),
        ("stages.7", "Did you mean 'stages"),
        ("zzz", "It has: stem, stem.0, stem.1, stem.2, stages, stages.0"),
        ("stem[-4]", "No layer 'stem\\[-4\\]'"),
        ("", "empty name"),
        ([], "empty list"),
        (nn.Linear(2, 2), "Linear is not a module of Net"),
        ([3], "must be a name or a module, not int"),
    ],
)
def test_wrong_layers_are_one_line(layer, message) -> None:
    with pytest.raises(FinerCAMError, match=message) as error:
        resolve_layers(Net(), layer, IMAGES)
    assert "\n" not in str(error.value)


def test_a_reused_module_is_not_eligible() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.again(self.again(self.first(x))).mean((2, 3)))

    assert resolve_layers(Twice(), None, IMAGES)[0][0] == "first"


def test_no_spatial_layer_is_one_line() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(FinerCAMError, match="No layer of Sequential gives feature maps larger than 1x1"):
        resolve_layers(model, None, IMAGES)


def test_a_normalisation_in_front_and_a_wrapper_around() -> None:
    class Normalise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - 0.5) / 0.5

    model = nn.Sequential(Normalise(), Net())
    assert resolve_layers(model, None, IMAGES)[0][0] == "1.stages.1"


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        pytest.param(torch.compile, marks=pytest.mark.slow),
        pytest.param(lambda m: nn.DataParallel(torch.compile(m)), marks=pytest.mark.slow),
    ],
)
def test_wrapped_models(wrap) -> None:
    model = Net()
    wrapped = wrap(model)
    assert unwrap(wrapped) is model
    for layer in (None, "stages.1", "module.stages.1", "_orig_mod.stages.1", model.stages[1]):
        assert resolve_layers(wrapped, layer, IMAGES) == [("stages.1", model.stages[1])]


@pytest.mark.slow
def test_compiled_parts_run_as_written() -> None:
    model = Net()
    model.stages[1] = torch.compile(model.stages[1])
    model.compile()
    found = resolve_layers(model, None, IMAGES)
    assert found[0][1] in (model.stages[1], unwrap(model.stages[1]))
    assert resolve_layers(model, "stages.1", IMAGES)[0][1] is unwrap(model.stages[1])


@pytest.mark.slow
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_under_the_callers_grad_mode(context) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, embed_dim=24, num_heads=2, num_classes=3)
    with context():
        images = torch.zeros(2, 3, 32, 32)
        assert resolve_layers(model, None, images) == [("blocks.0.norm1", model.blocks[0].norm1)]
    assert model.head.weight.requires_grad


def test_half_precision_and_channels_last() -> None:
    model = Net().to(torch.bfloat16).to(memory_format=torch.channels_last)
    images = IMAGES.to(torch.bfloat16).contiguous(memory_format=torch.channels_last)
    assert resolve_layers(model, None, images)[0][0] == "stages.1"


def test_sequence_first_attention() -> None:
    """The first CLIP code moves the sequence to the front before its blocks."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ln_1, self.attn = nn.LayerNorm(16), nn.MultiheadAttention(16, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.ln_1(x)
            return x + self.attn(y, y, y, need_weights=False)[0]

    class Clip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(3, 16, 8, 8)
            self.class_embedding = nn.Parameter(torch.randn(16))
            self.resblocks, self.head = nn.Sequential(Block(), Block()), nn.Linear(16, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv1(x).flatten(2).permute(2, 0, 1)
            x = torch.cat([self.class_embedding.expand(1, x.shape[1], -1), x])
            return self.head(self.resblocks(x)[0])

    assert resolve_layers(Clip(), None, IMAGES)[0][0] == "resblocks.1.ln_1"
