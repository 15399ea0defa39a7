"""The built-in models: exact weights, the accuracy their records state, the field they promise."""

from __future__ import annotations

import pickle
from functools import cache
from importlib.resources import files

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finercam.data.fieldguide import SPECIES, Fieldguide
from finercam.errors import FinerCAMError
from finercam.models.builtin import ARCHITECTURES, PatchCNN, PatchViT, builtin_names, load_builtin

NAMES = builtin_names()


@cache
def fresh() -> tuple[torch.Tensor, torch.Tensor]:
    """200 pictures of a seed that neither training nor the recorded accuracy used."""
    birds = Fieldguide(200, seed=77)
    pixels = torch.from_numpy(birds.batch(range(200))).permute(0, 3, 1, 2).float() / 255
    return (pixels - 0.5) / 0.25, torch.from_numpy(birds.labels(range(200)))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_models_name_fresh_birds(name: str) -> None:
    model, meta = load_builtin(name)
    assert not model.training
    assert meta.class_names == [species.name for species in SPECIES]
    pixels, labels = fresh()
    with torch.inference_mode():
        right = torch.cat([model(part).argmax(1) for part in pixels.split(50)]) == labels
    assert right.float().mean() >= 0.95
    low, high = meta.training["accuracy_interval"]
    assert low <= meta.training["accuracy"] <= high and meta.training["accuracy"] >= 0.97
    assert meta.training["accuracy_images"] >= 4_000 and meta.training["seed"] != meta.training["accuracy_seed"]


@pytest.mark.parametrize("name", NAMES)
def test_loading_is_exact_and_repeatable(name: str) -> None:
    model, _ = load_builtin(name)
    path = files("finercam.models") / "weights" / name.replace("/", "-") / "model.safetensors"
    stored = load_file(str(path))
    state = model.state_dict()
    assert set(stored) == set(state)
    for key, value in stored.items():
        assert state[key].dtype != torch.float16
        assert torch.equal(state[key], value.to(state[key].dtype))
    again, _ = load_builtin(name)
    pixels = fresh()[0][:4]
    with torch.inference_mode():
        assert torch.equal(model(pixels), again(pixels))
    for parameter in model.parameters():
        assert parameter.requires_grad and not parameter.is_meta


def test_together_they_stay_small() -> None:
    folder = files("finercam.models") / "weights"
    sizes = [len((folder / name.replace("/", "-") / "model.safetensors").read_bytes()) for name in NAMES]
    assert sum(sizes) <= 8e6


def test_no_feature_of_the_cnn_sees_more_than_15_pixels() -> None:
    model, meta = load_builtin("fieldguide/cnn")
    pixels = fresh()[0][:1].clone().requires_grad_()
    features = model.get_submodule(meta.layer)(pixels)
    assert features.shape[-2:] == (32, 32)
    for row, column in [(16, 16), (7, 20)]:
        (gradient,) = torch.autograd.grad(features[0, :, row, column].sum(), pixels, retain_graph=True)
        rows, columns = np.nonzero(gradient[0].abs().sum(0).numpy())
        assert np.ptp(rows) < 15 and np.ptp(columns) < 15
        assert abs(rows.mean() - 4 * row) < 4 and abs(columns.mean() - 4 * column) < 4


def test_folding_normalisation_changes_nothing() -> None:
    torch.manual_seed(0)
    model = PatchCNN(5, (4, 6, 8, 10), norm=True)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(8, 3, 32, 32))
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(model.eval()(x), model.folded()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_head_is_linear_in_the_mean_of_the_layer(name: str) -> None:
    """What class activation maps rest on: logits are a linear function of pooled features."""
    model, _ = load_builtin(name)
    inner = {"fieldguide/cnn": "features", "fieldguide/resnet": "layer4", "fieldguide/vit": "norm"}[name]
    head = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(inner).register_forward_hook(lambda *call: seen.append(call[2]))
    with torch.inference_mode():
        logits = model(fresh()[0][:4])
        pooled = seen[0].mean(1) if seen[0].ndim == 3 else seen[0].mean((2, 3))
        torch.testing.assert_close(logits, head(pooled), rtol=1e-4, atol=1e-4)
    handle.remove()


def test_the_layer_of_the_record_exists() -> None:
    for name in NAMES:
        model, meta = load_builtin(name)
        model.get_submodule(meta.layer)


def test_the_vit_takes_other_sizes() -> None:
    """Trained or not: a picture of twice the size gives tokens in the same order, on twice the grid."""
    torch.manual_seed(0)
    model = PatchViT(5).eval()
    torch.nn.init.normal_(model.pos_embed)
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 96, 160)).shape == (1, 5)
        assert torch.equal(model._positions(16, 16), model.pos_embed)
        twice = model._positions(32, 32).unflatten(1, (32, 32))[0]
        once = model.pos_embed.unflatten(1, (16, 16))[0]
        pooled = twice.unflatten(0, (16, 2)).unflatten(2, (16, 2)).mean((1, 3))
        assert torch.nn.functional.cosine_similarity(pooled, once, dim=-1).min() > 0.8


def test_unknown_names_are_answered_in_one_line() -> None:
    with pytest.raises(FinerCAMError, match="fieldguide/cnn"):
        load_builtin("fieldguide/alexnet")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_architectures_pickle(architecture: str) -> None:
    model = ARCHITECTURES[architecture](3).eval()
    twin = pickle.loads(pickle.dumps(model))
    x = torch.rand(1, 3, 128, 128)
    with torch.inference_mode():
        assert torch.equal(model(x), twin(x))
