from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from finercam.core.grid import Layout, find_layout, tensors_of
from finercam.errors import FinerCAMError


def encoded(batch: int, channels: int, h: int, w: int) -> torch.Tensor:
    """Maps whose every value tells its place."""
    return torch.arange(batch * channels * h * w, dtype=torch.float32).reshape(batch, channels, h, w)


@given(
    kind=st.sampled_from(["nchw", "nhwc", "tokens", "tokens-first"]),
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 5)),
    prefix=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_to_maps_undoes_the_layout(kind, batch, channels, grid, prefix) -> None:
    maps = encoded(batch, channels, *grid)
    tokens = torch.cat([torch.full((batch, prefix, channels), -1.0), maps.flatten(2).transpose(1, 2)], 1)
    given_as = {
        "nchw": maps,
        "nhwc": maps.permute(0, 2, 3, 1),
        "tokens": tokens,
        "tokens-first": tokens.transpose(0, 1),
    }[kind]
    layout = Layout(kind, grid, prefix if kind.startswith("tokens") else 0)
    assert torch.equal(layout.to_maps(given_as.contiguous()), maps)


def test_to_maps_passes_gradients_and_costs_no_copy() -> None:
    tokens = torch.randn(2, 7, 3, requires_grad=True)
    maps = Layout("tokens", (2, 3), 1).to_maps(tokens)
    weights = torch.randn(2, 3, 2, 3)
    (maps * weights).sum().backward()
    assert torch.equal(tokens.grad[:, 0], torch.zeros(2, 3))
    assert torch.equal(tokens.grad[:, 1:].transpose(1, 2).reshape(2, 3, 2, 3), weights)
    assert maps.data_ptr() == tokens[:, 1:].data_ptr()


@pytest.mark.parametrize(
    ("layout", "shape", "message"),
    [
        (Layout("tokens", (2, 3), 1), (2, 8, 4), "gave 8 tokens, but 1 prefix tokens and a grid of 2x3 are 7"),
        (Layout("nchw", (2, 3)), (2, 8, 4), r"'nchw' layout reads rank 4, the layer gave \(2, 8, 4\)"),
        (Layout("tokens-first", (2, 3)), (2, 3, 4, 4), "reads rank 3"),
    ],
)
def test_to_maps_refuses_another_shape(layout, shape, message) -> None:
    with pytest.raises(FinerCAMError, match=message):
        layout.to_maps(torch.zeros(shape))


@pytest.mark.parametrize(
    ("shape", "images", "expected"),
    [
        ((1, 197, 768), (1, 3, 224, 224), Layout("tokens", (14, 14), 1)),
        ((1, 196, 768), (1, 3, 224, 224), Layout("tokens", (14, 14), 0)),
        ((1, 198, 768), (1, 3, 224, 224), Layout("tokens", (14, 14), 2)),
        ((1, 261, 768), (1, 3, 224, 224), Layout("tokens", (16, 16), 5)),
        ((2, 393, 64), (2, 3, 224, 448), Layout("tokens", (14, 28), 1)),
        ((2, 393, 64), (2, 3, 448, 224), Layout("tokens", (28, 14), 1)),
        ((1, 49 * 63 + 1, 768), (1, 3, 784, 1008), Layout("tokens", (49, 63), 1)),  # native resolution
        ((197, 1, 768), (1, 3, 224, 224), Layout("tokens-first", (14, 14), 1)),
        ((50, 2, 768), (2, 3, 224, 224), Layout("tokens-first", (7, 7), 1)),
        ((1, 49, 1024), (1, 3, 224, 224), Layout("tokens", (7, 7), 0)),  # the last stage of Swin
        ((1, 12, 64), (1, 3, 70, 100), Layout("tokens", (3, 4), 0)),  # stride 32, rounded up
        ((1, 2048, 7, 7), (1, 3, 224, 224), Layout("nchw", (7, 7))),
        ((1, 7, 7, 768), (1, 3, 224, 224), Layout("nhwc", (7, 7))),
        ((7, 7, 7, 768), (7, 3, 224, 224), Layout("nhwc", (7, 7))),  # batch as large as the grid
        ((7, 768, 7, 7), (7, 3, 224, 224), Layout("nchw", (7, 7))),
        ((4, 7, 14, 7), (4, 3, 224, 448), Layout("nhwc", (7, 14))),
        ((1, 8, 16, 32), (1, 3, 128, 256), Layout("nhwc", (8, 16))),  # both readings fit: more channels than rows
        ((1, 32, 16, 8), (1, 3, 256, 128), Layout("nchw", (16, 8))),
        ((1, 512, 4, 3), (1, 3, 97, 70), Layout("nchw", (4, 3))),
        ((1, 64, 2, 37), (1, 3, 224, 224), Layout("nchw", (2, 37))),  # no common stride: still channels first
    ],
)
def test_find_layout_by_shape(shape, images, expected) -> None:
    assert find_layout(shape, images) == expected


@given(
    patch=st.sampled_from([8, 14, 16, 32]),
    grid=st.tuples(st.integers(3, 40), st.integers(3, 40)),
    prefix=st.sampled_from([0, 1, 5]),
    batch=st.integers(1, 4),
)
@settings(max_examples=150, deadline=None)
def test_tokens_split_as_the_model_says(patch, grid, prefix, batch) -> None:
    """With the patch convolution and the prefix parameters in view, every grid is found, oblong or not."""
    model = nn.Module()
    model.patches = nn.Conv2d(3, 8, patch, patch)
    if prefix:
        model.cls_token = nn.Parameter(torch.zeros(1, 1, 8))
        model.register_tokens = nn.Parameter(torch.zeros(1, prefix - 1, 8))
    images = (batch, 3, grid[0] * patch, grid[1] * patch)
    shape = (batch, prefix + math.prod(grid), 8)
    assert find_layout(shape, images, model) == Layout("tokens", grid, prefix)


def test_batch_as_large_as_the_sequence_follows_the_models_attention() -> None:
    images, shape = (50, 3, 224, 224), (50, 50, 64)
    assert find_layout(shape, images).kind == "tokens"
    assert find_layout(shape, images, nn.MultiheadAttention(64, 2)).kind == "tokens-first"
    assert find_layout(shape, images, nn.MultiheadAttention(64, 2, batch_first=True)).kind == "tokens"


def test_hints_decide_a_cube() -> None:
    images, shape = (1, 3, 64, 64), (1, 8, 8, 8)
    assert find_layout(shape, images).kind == "nchw"
    assert find_layout(shape, images, layer=nn.LayerNorm(8)).kind == "nhwc"
    channels_last = nn.Module()
    channels_last.output_fmt = "NHWC"
    assert find_layout(shape, images, channels_last).kind == "nhwc"


def test_override_by_layout_and_by_grid() -> None:
    chosen = Layout("tokens", (2, 98), 0)
    assert find_layout((1, 196, 8), (1, 3, 224, 224), override=chosen) is chosen
    assert find_layout((1, 196, 8), (1, 3, 224, 224), override=(7, 28)) == Layout("tokens", (7, 28), 0)
    assert find_layout((1, 203, 8), (1, 3, 224, 224), override=(14, 14)) == Layout("tokens", (14, 14), 7)
    assert find_layout((1, 3, 5, 8), (1, 3, 224, 224), override=(3, 5)) == Layout("nhwc", (3, 5))
    with pytest.raises(FinerCAMError, match=r"with grid \(3, 4\)"):
        find_layout((1, 3, 5, 8), (1, 3, 224, 224), override=(3, 4))


@pytest.mark.parametrize("shape", [(1, 768), (1, 50, 50, 3, 2), (1, 211, 8), (4, 16, 8), (4, 8, 7, 7)])
def test_shapes_that_are_no_maps(shape) -> None:
    model = nn.Conv2d(3, 8, 16, 16)
    with pytest.raises(FinerCAMError, match="cannot be read as feature maps for images of shape") as error:
        find_layout(shape, (1, 3, 224, 224), model)
    assert "\n" not in str(error.value)


def test_tensors_of_structures() -> None:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    a, b = torch.zeros(1), torch.zeros(2)
    assert [t is a or t is b for t in tensors_of([{"x": a}, (b, None), "text"])] == [True, True]
    assert next(tensors_of(BaseModelOutputWithPooling(last_hidden_state=b))) is b
