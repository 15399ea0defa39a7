from __future__ import annotations

import pytest
import torch
from torch import nn

from finercam.core.head import linear_head


def rows(model: nn.Module, num_classes: int) -> torch.Tensor:
    found = linear_head(model, num_classes)
    assert found is not None
    return found[0]


def test_linear_rows_are_views_of_the_parameters() -> None:
    fc = nn.Linear(6, 3)
    weight, bias = linear_head(nn.Sequential(nn.Flatten(), fc), 3)
    assert weight.data_ptr() == fc.weight.data_ptr()
    assert bias.data_ptr() == fc.bias.data_ptr()
    assert not weight.requires_grad
    assert not bias.requires_grad
    assert fc.weight.requires_grad


def test_logits_are_the_rows_times_the_features() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.AdaptiveAvgPool2d(1), nn.Conv2d(5, 4, 1), nn.Flatten()).eval()
    weight, bias = linear_head(model, 4)
    images = torch.randn(2, 3, 8, 8)
    assert torch.allclose(model[:2](images).flatten(1) @ weight.T + bias, model(images), atol=1e-6)


def test_last_of_several_matching_layers() -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 5, bias=False))
    weight, bias = linear_head(model, 5)
    assert weight.data_ptr() == model[2].weight.data_ptr()
    assert bias is None


def test_get_classifier_goes_before_the_order_of_definition() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.body = nn.Linear(7, 7), nn.Linear(7, 7)

        def get_classifier(self) -> nn.Module:
            return self.fc

    model = Odd()
    assert rows(model, 7).data_ptr() == model.fc.weight.data_ptr()


@pytest.mark.slow
def test_distilled_head_is_passed_over() -> None:
    import timm

    model = timm.create_model("deit_tiny_distilled_patch16_224", img_size=32, depth=1, num_classes=7)
    assert rows(model, 7).data_ptr() == model.head.weight.data_ptr()


def test_class_embeddings_of_a_zero_shot_classifier() -> None:
    model = nn.Linear(4, 3)
    model.register_buffer("class_embeddings", torch.randn(3, 4))
    weight, bias = linear_head(model, 3)
    assert torch.equal(weight, model.class_embeddings)
    assert bias is None


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten()),  # a 3x3 convolution has no rows
        nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.Flatten()),
        nn.Embedding(4, 6),
        nn.Linear(6, 5),
    ],
    ids=["conv3x3", "depthwise", "embedding", "other-width"],
)
def test_no_linear_head(model: nn.Module) -> None:
    assert linear_head(model, 4) is None


@pytest.mark.slow
def test_wrapped_models() -> None:
    fc = nn.Linear(6, 3)
    for wrapped in (nn.DataParallel(fc), torch.compile(nn.Sequential(fc))):
        assert rows(wrapped, 3).data_ptr() == fc.weight.data_ptr()
