"""What `python -m fuzz.silent` found: each was wrong without a word, or a raw error, or changed the process."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finercam import FinerCAM, FinerCAMError
from finercam.core.contrast import Contrast, contrast_terms
from finercam.core.evidence import Evidence, NotKept, directions
from finercam.core.grid import find_layout
from finercam.core.pixels import detail, pixel_evidence
from finercam.methods.fold import folded
from finercam.methods.rules import eigengradcam


class Tiny(nn.Module):
    """Convolution, normalisation, a ReLU as a function or as a module, mean, and one head or two."""

    def __init__(self, relu: str = "module", heads: int = 1, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.features = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width))
        self.relu = nn.ReLU() if relu == "module" else None
        self.heads = nn.ModuleList(nn.Linear(width, 5) for _ in range(heads))
        self.eval()

    def forward(self, x):
        x = self.features(x)
        x = F.relu(x) if self.relu is None else self.relu(x)
        found = [head(x.mean((2, 3)).tanh()) for head in self.heads]
        return found[0] if len(found) == 1 else {f"head{n}": y for n, y in enumerate(found)}


class Transformer(nn.Module):
    def __init__(self, pause: float = 0.0) -> None:
        super().__init__()
        self.pause = pause
        torch.manual_seed(3)
        self.patch, self.norm1 = nn.Conv2d(3, 8, 4, 4), nn.LayerNorm(8)
        self.qkv, self.head = nn.Linear(8, 24), nn.Linear(8, 5)

    def forward(self, x):
        time.sleep(self.pause)
        tokens = self.norm1(self.patch(x).flatten(2).mT)
        q, k, v = self.qkv(tokens)[:, None].chunk(3, -1)
        return self.head((tokens + F.scaled_dot_product_attention(q, k, v)[:, 0]).mean(1))


def test_legrad_under_no_grad(pictures):
    images, explain = pictures(2, size=16), FinerCAM(Transformer(), "legrad", layer="norm1")
    with torch.no_grad():
        answer = explain(images)
    assert torch.equal(answer.signed, explain(images).signed)


def test_scaled_views_in_half_precision(pictures):
    answer = FinerCAM(Tiny().bfloat16(), smooth="scale")(pictures(2, size=16))
    assert bool(answer.signed.isfinite().all())


def test_a_slice_of_an_answer_with_a_gamma_an_image_takes_other_classes(pictures):
    explain = FinerCAM(Tiny())
    part = explain(pictures(3), target=[0, 1, 2], against=[[3], [4], [4]], gamma=[0.2, 0.6, 1.0])[1:3]
    assert part.reverse().gamma.tolist() == [0.6, 1.0]
    assert part.ask(target=0).target.tolist() == [0, 0]


def test_released_weights_are_asked_under_inference_mode(pictures):
    explain = FinerCAM(Tiny(), weights="released")
    with torch.inference_mode():
        answer = explain(pictures(2))
        plain = answer.ask(gamma=0.0)
    assert torch.equal(plain.target, answer.target)
    assert bool(answer.ask(gamma=0.3).signed.isfinite().all())


def test_mirrored_pixels_under_inference_mode(pictures):
    explain, images = FinerCAM(Tiny(), "hirescam", layer="input", smooth="flip"), pictures(2)
    with torch.inference_mode():
        answer = explain(images)
    assert torch.allclose(answer.signed, explain(images).signed, atol=1e-6)


@pytest.mark.parametrize("method", ["ablationcam", "reciprocam"])
def test_threads_do_not_meet_the_exchanged_layers_of_others(pictures, method):
    explain, images = FinerCAM(Tiny(), method, batch_size=1), pictures(3, size=16)
    alone = explain(images).signed
    with ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(explain, images) for _ in range(12)]
        assert all(torch.equal(job.result().signed, alone) for job in jobs)


def test_other_threads_run_their_models_while_one_is_traced(pictures):
    """torch.fx patches the modules of the whole process."""
    mine, other, images = Tiny(), Tiny(), pictures(1)
    expected, errors, stop = other(images), [], threading.Event()

    def run() -> None:
        while not stop.is_set():
            try:
                assert torch.equal(other(images), expected)
            except Exception as error:
                errors.append(error)

    with torch.no_grad(), ThreadPoolExecutor(2) as pool:
        job = pool.submit(run)
        for _ in range(60):
            assert folded(mine, images, mine(images)) is not None
        stop.set()
        job.result()
    assert not errors


def test_shapleycam_in_threads_puts_fused_attention_back(pictures):
    images = pictures(1, size=16)
    explainers = [FinerCAM(Transformer(0.01 * n), "shapleycam", layer="norm1") for n in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        for job in [pool.submit(explain, images) for _ in range(8) for explain in explainers]:
            job.result()
    assert torch.backends.cuda.flash_sdp_enabled() and torch.backends.cuda.mem_efficient_sdp_enabled()


def test_shapleycam_changes_no_setting_of_the_process_while_it_runs(pictures):
    """Another thread's attention ran by another kernel meanwhile, and its answer was another one in the last bits."""
    seen = []
    model = Transformer()
    model.patch.register_forward_hook(lambda *_: seen.append(torch.backends.cuda.flash_sdp_enabled()))
    assert FinerCAM(model, "shapleycam", layer="norm1")(pictures(1, size=16)).maps.any()
    assert len(seen) > 1 and all(seen)


def test_an_even_area_of_the_image_says_exactly_nothing(pictures):
    """The blur left rounding errors there, and a map that should be blank was divided by them."""
    images = pictures(1).double()
    images[0, :, :8] = 0.5
    assert not detail(images)[0, :, :4].any() and detail(images)[0, :, 8:].any()
    assert pixel_evidence(images, images[:, None])[1].dtype == torch.float64  # of a model in float64 too


def test_the_sign_of_a_component_does_not_come_from_rounding(pictures):
    """Before a normalisation gradient times activation sums to zero; in bfloat16 the sign was that of the rounding."""
    torch.manual_seed(0)
    activations = torch.randn(1, 3, 4, 4)
    gradients = torch.randn(1, 3, 4, 4)
    gradients[:, 2] = -(gradients[:, :2] * activations[:, :2]).sum(1) / activations[:, 2]
    expected = eigengradcam(activations, gradients)
    for seed in range(6):
        torch.manual_seed(seed)
        moved = eigengradcam(activations, gradients * (1 + 1e-4 * torch.randn(gradients.shape)))
        torch.testing.assert_close(moved, expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", ["head0", "head1"])
def test_similar_classes_are_those_of_the_head_that_is_read(pictures, name):
    model = Tiny(heads=2)
    with torch.no_grad():  # what is similar by one head is not by the other
        model.heads[0].weight[1], model.heads[1].weight[2] = model.heads[0].weight[0], model.heads[1].weight[0]
    answer = FinerCAM(model, references="similar", scores=lambda output: output[name])(pictures(1), target=0)
    rows = model.heads[int(name[-1])].weight
    cosine = F.cosine_similarity(rows[:1], rows[1:])
    assert answer.references.tolist() == [[int(cosine.argmax()) + 1]]


def test_orthogonal_weights_need_several_channels(pictures):
    for settings in ({"method": "reciprocam"}, {"method": "gradcam", "layer": "input"}):
        with pytest.raises(FinerCAMError, match="weights of several channels"):
            FinerCAM(Tiny(), weights="orthogonal", **settings)(pictures(1))
    with pytest.raises(FinerCAMError, match="weights of several channels"):
        FinerCAM(Transformer(), "legrad", layer="norm1", weights="orthogonal")(pictures(1, size=16))


def test_ablation_of_the_images_colours(pictures):
    """The images stood in the place of the scores, and were read as scores where there are three classes."""
    model, images = Tiny(), pictures(1)
    answer = FinerCAM(model, "ablationcam", layer="input")(images, target=0, against=[[1]], gamma=1.0)
    expected = 0
    with torch.no_grad():
        for colour in range(3):
            without = images.clone()
            without[:, colour] = 0
            fall = (model(images) - model(without))[0]
            expected = expected + (fall[0] - fall[1]) * images[:, colour]
    torch.testing.assert_close(answer.signed, expected)


@pytest.mark.parametrize(
    "layer", [nn.Conv2d(3, 2, 3), nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.ReLU())]
)
def test_a_convolution_has_its_channels_first(layer):
    """`(N, 2, 4, 8)` of an image of 8 x 16 also looks like a grid of 2 x 4 with 8 channels."""
    layout = find_layout((1, 2, 4, 8), (1, 3, 8, 16), layer=layer)
    assert (layout.kind, layout.grid) == ("nchw", (4, 8))
    layout = find_layout((1, 2, 4, 8), (1, 3, 8, 16), layer=nn.LayerNorm(8))
    assert (layout.kind, layout.grid) == ("nhwc", (2, 4))


def test_the_widths_of_the_model_decide_where_both_readings_fit():
    """`(N, 4, 6, 8)` of an image of 16 x 24 was read as a grid of 4 x 6 after an activation, and in a block."""
    block = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))  # channels last inside, and first outside
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 3, 1), nn.ReLU(), block)
    for layer in (model[1], block):
        layout = find_layout((1, 4, 6, 8), (1, 3, 16, 24), model, layer=layer)
        assert (layout.kind, layout.grid) == ("nchw", (6, 8))


@pytest.mark.parametrize("method", ["shapleycam", "smoothgradcam++"])
def test_a_functional_relu_belongs_to_the_layer_for_every_method(pictures, method):
    images = pictures(2)
    function = FinerCAM(Tiny(relu="function"), method)(images, target=0, against=[[1], [1]])
    module = FinerCAM(Tiny(relu="module"), method, layer="relu")(images, target=0, against=[[1], [1]])
    assert function.layers == ("features",)
    torch.testing.assert_close(function.signed, module.signed)


def test_nearly_parallel_directions_answer_nothing_but_themselves():
    """Coefficients of a billion made a map of rounding errors, thousands of times its peak."""
    logits = torch.tensor([[-0.1856, 0.3887, -0.6320, 0.4561, 0.2549]]).double()
    contrast = Contrast(torch.tensor([2]), torch.tensor([[3, 1, 4]]), torch.tensor([1.79]).double(), "released")
    kept = directions(logits, contrast, "contrast")
    one = torch.ones(1, 6, 2, 2)
    evidence = Evidence(logits, kept, (one,), (torch.randn(1, kept.shape[1], 6, 2, 2),))
    evidence.contrasted(contrast)
    other = Contrast(torch.tensor([3]), torch.tensor([[1, 4, 0]]), torch.tensor([1.79]).double(), "released")
    speaks_for, against = contrast_terms(logits, other)
    with pytest.raises(NotKept):
        evidence.coefficients(speaks_for - 1.79 * against)
