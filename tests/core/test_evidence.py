"""Evidence: any question in the span of the kept directions is a combination of the kept gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from finercam import Contrast, FinerCAM, FinerCAMError
from finercam.core.capture import capture
from finercam.core.contrast import contrast_objective, reference_weights
from finercam.core.evidence import Evidence, NotKept, checked_keep, directions
from finercam.core.grid import find_layout
from finercam.core.references import all_other_classes
from finercam.methods import gather
from finercam.methods.source import Source

TARGET = torch.tensor([0, 3, 2])
RAGGED = torch.tensor([[1, 2], [4, -1], [0, 4]])
GAMMA = torch.tensor([0.6, 0.0, 1.3], dtype=torch.float64)


def look(model, images, layer="features") -> Source:
    layers = ((layer, model.get_submodule(layer)),)
    return Source.of(model, layers, images, None, lambda a, x, _: find_layout(a.shape, x.shape, model))


def gathered(model, images, contrast, keep="contrast", layer="features") -> Evidence:
    source = look(model, images, layer)
    return gather.gradients(source, contrast, directions(source.logits.double(), contrast, keep))


def closed_form(weight: Tensor, logits: Tensor, contrast: Contrast) -> Tensor:
    """d z / d (pooled features) for a linear head, by the formulas of the design page."""
    rows = []
    for n, (c, ds, gamma) in enumerate(
        zip(contrast.target.tolist(), contrast.references.tolist(), contrast.gamma.tolist(), strict=True)
    ):
        ds = [d for d in ds if d >= 0]
        own, rivals = weight[c], weight[ds]
        if contrast.weights == "mean":
            rows.append(own - gamma * rivals.mean(0))
        elif contrast.weights == "probability":
            p = logits[n].softmax(0)[ds]
            rows.append(own - gamma * (p / p.sum()) @ rivals)
        elif contrast.weights == "orthogonal":
            beta, *_ = np.linalg.lstsq(rivals.T.numpy(), own.numpy(), rcond=None)
            rows.append(own - gamma * torch.from_numpy(beta) @ rivals)
        else:
            y = logits[n : n + 1].clone().requires_grad_()
            z = contrast_objective(y, torch.tensor([c]), torch.tensor([ds]), gamma, "released")
            rows.append(torch.autograd.grad(z.sum(), y)[0][0] @ weight)
    return torch.stack(rows)


@pytest.mark.parametrize("keep", ["contrast", "references", 2, (0, 4)])
@pytest.mark.parametrize("weights", ["mean", "probability", "orthogonal", "released"])
def test_gradients_of_a_linear_head_are_the_closed_form(toys, pictures, weights, keep):
    model, images = toys.gap().double(), pictures(3, dtype=torch.float64)
    contrast = Contrast(TARGET, RAGGED, GAMMA, weights)
    ((activations, gradients),) = gathered(model, images, contrast, keep).contrasted(contrast)
    places = activations.shape[2] * activations.shape[3]
    expected = closed_form(model.head.weight.detach(), model(images).detach(), contrast) / places
    torch.testing.assert_close(gradients, expected[:, :, None, None].expand_as(gradients))
    torch.testing.assert_close(activations, model.features(images).detach())


def test_released_where_the_logits_are_large(toys, pictures):
    """Its direction grows with the logits; the unit directions kept beside it must stay askable."""
    model, images = toys.gap().double(), pictures(3, dtype=torch.float64)
    model.head.weight.data *= 1e5
    contrast = Contrast(TARGET, RAGGED, GAMMA, "released")
    evidence = gathered(model, images, contrast)
    for question in (contrast, Contrast(TARGET, RAGGED, GAMMA, "mean")):
        ((activations, gradients),) = evidence.contrasted(question)
        places = activations.shape[2] * activations.shape[3]
        expected = closed_form(model.head.weight.detach(), model(images).detach(), question) / places
        expected = expected[:, :, None, None].expand_as(gradients)
        torch.testing.assert_close(gradients, expected, rtol=1e-6, atol=1e-9 * float(expected.abs().max()))


def test_orthogonal_takes_out_all_that_the_references_share(toys, pictures):
    model, images = toys.gap().double(), pictures(3, dtype=torch.float64)
    contrast = Contrast(TARGET, RAGGED, torch.ones(3), "orthogonal")
    ((_, gradients),) = gathered(model, images, contrast).contrasted(contrast)
    alpha = gradients.mean(dim=(2, 3))
    for n, ds in enumerate(RAGGED.tolist()):
        for d in (d for d in ds if d >= 0):
            assert abs(float(alpha[n] @ model.head.weight[d].detach())) < 1e-12


def test_orthogonal_with_references_that_say_the_same(toys, pictures):
    model, images = toys.gap().double(), pictures(1, dtype=torch.float64)
    model.head.weight.data[2] = 2 * model.head.weight.data[1]
    both = Contrast(torch.tensor([0]), torch.tensor([[1, 2]]), torch.ones(1), "orthogonal")
    one = Contrast(torch.tensor([0]), torch.tensor([[1]]), torch.ones(1), "orthogonal")
    evidence = gathered(model, images, both)
    torch.testing.assert_close(evidence.contrasted(both)[0][1], evidence.contrasted(one)[0][1])


def test_all_by_probability_is_the_gradient_of_the_log_odds(toys, pictures):
    """Class-contrastive back-propagation (NeurIPS 2022), by autograd through the whole of a non-linear tail."""
    model, images = toys.cnn().double(), pictures(3, dtype=torch.float64)
    contrast = Contrast(TARGET, all_other_classes(5, TARGET), torch.ones(3), "probability")
    ((activations, gradients),) = gathered(model, images, contrast, layer="stage1").contrasted(contrast)
    a = activations.clone().requires_grad_()
    p = model.head(model.stage2(a.relu()).mean(dim=(2, 3))).softmax(1).gather(1, TARGET[:, None])
    (expected,) = torch.autograd.grad((p / (1 - p)).log().sum(), a)
    torch.testing.assert_close(gradients, expected)


def test_kept_references_answer_what_a_fresh_run_would(toys, pictures):
    model, images = toys.cnn(), pictures(3)
    asked = Contrast(TARGET, RAGGED, GAMMA)
    evidence = gathered(model, images, asked, keep=(0, 1, 2, 3, 4), layer="stage1")
    others = Contrast(torch.tensor([4, 1, 0]), torch.tensor([[0, 2], [2, -1], [3, 1]]), GAMMA, "probability")
    fresh = gathered(model, images, others, layer="stage1")
    torch.testing.assert_close(evidence.contrasted(others)[0][1], fresh.contrasted(others)[0][1])


def test_coefficients_of_kept_directions_are_exactly_one_and_zero(toys, pictures):
    for weights in ("mean", "probability", "released"):
        evidence = gathered(toys.gap(), pictures(3), Contrast(TARGET, RAGGED, GAMMA, weights))
        found = evidence.coefficients(evidence.directions[:, 0])
        expected = torch.zeros_like(found)
        expected[:, 0] = 1
        assert torch.equal(found, expected)


def test_a_class_that_was_not_kept_is_named(toys, pictures):
    evidence = gathered(toys.gap(), pictures(3), Contrast(TARGET, RAGGED, GAMMA), keep="references")
    strange = Contrast(TARGET, torch.tensor([[1, -1], [1, -1], [0, -1]]), GAMMA + 0.1)
    with pytest.raises(NotKept, match=r"classes \[1\] of sample 1 were not kept") as caught:
        evidence.contrasted(strange)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("gamma", [1e-3, 1.0, 1e4])
def test_a_foreign_class_is_noticed_at_any_gamma(toys, pictures, gamma):
    evidence = gathered(toys.gap(), pictures(1), Contrast(TARGET[:1], RAGGED[:1], GAMMA[:1]), keep="references")
    with pytest.raises(NotKept, match=r"classes \[3\]"):
        evidence.contrasted(Contrast(TARGET[:1], torch.tensor([[3]]), torch.tensor([gamma], dtype=torch.float64)))


def test_contrast_keeps_two_directions_and_no_reference_alone(toys, pictures):
    contrast = Contrast(TARGET, RAGGED, GAMMA)
    evidence = gathered(toys.gap(), pictures(3), contrast, keep="contrast")
    assert evidence.directions.shape[1] == 2
    evidence.contrasted(Contrast(TARGET, RAGGED, GAMMA + 1))
    with pytest.raises(NotKept):
        evidence.contrasted(Contrast(TARGET, RAGGED[:, :1], GAMMA + 1))


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("references", [{0, 1, 2}, {3, 4}, {2, 0, 4}]),
        (1, [{0, 1, 2, 3}, {3, 4}, {2, 0, 4, 3}]),
        ((3,), [{0, 1, 2, 3}, {3, 4}, {2, 0, 4, 3}]),
        ((0, 1, 2, 3, 4), [{0, 1, 2, 3, 4}] * 3),
        (99, [{0, 1, 2, 3, 4}] * 3),
    ],
)
def test_what_keep_keeps(keep, kept):
    logits = torch.tensor([[0.0, 0.0, 0.0, 9.0, 0.0]]).expand(3, -1).double()
    found = directions(logits, Contrast(TARGET, RAGGED, GAMMA), keep)
    for n, expected in enumerate(kept):
        rows = [row for row in found[n].tolist() if any(row)]
        assert all(sorted(row) == [0, 0, 0, 0, 1] for row in rows)
        assert len(rows) == len(expected)
        assert {row.index(1) for row in rows} == expected


def test_probability_weights_use_what_the_question_is_asked_of(toys, pictures):
    model, images = toys.gap().double(), pictures(3, dtype=torch.float64)
    contrast = Contrast(TARGET, RAGGED, GAMMA, "probability")
    kept = directions(model(images).detach(), contrast, "contrast")
    w = reference_weights(model(images).detach(), RAGGED, "probability")
    assert float(kept[0, 1, 1]) == float(w[0, 0])
    assert float(kept[1, 1].sum()) == pytest.approx(1)


@pytest.mark.parametrize("wrong", ["all_other_classes", -1, True, 2.5, [1, "a"], [-3], None, {1}])
def test_wrong_keep_is_refused(wrong):
    with pytest.raises(FinerCAMError, match="keep=") as caught:
        checked_keep(wrong)
    assert "\n" not in str(caught.value)


def test_keep_takes_tensors_and_drops_repeats():
    assert checked_keep(torch.tensor([3, 1, 3])) == (3, 1)
    assert checked_keep(np.arange(2)) == (0, 1)


def test_half_precision_evidence_is_combined_in_single(toys, pictures):
    contrast = Contrast(TARGET, RAGGED, GAMMA)
    evidence = gathered(toys.gap().bfloat16(), pictures(3, dtype=torch.bfloat16), contrast)
    ((activations, gradients),) = evidence.contrasted(contrast)
    assert activations.dtype == gradients.dtype == torch.float32
    by_hand = evidence.gradients[0].float()
    torch.testing.assert_close(gradients, by_hand[:, 0] - GAMMA.float().view(-1, 1, 1, 1) * by_hand[:, 1])


def test_evidence_carries_no_graph(toys, pictures):
    model = toys.gap()
    evidence = gathered(model, pictures(2), Contrast(TARGET[:2], RAGGED[:2], GAMMA[:2]))
    for tensor in (evidence.logits, *evidence.activations, *evidence.gradients):
        assert tensor.grad_fn is None
        assert not tensor.requires_grad
    run = capture(model, [("features", model.features)], pictures(2))
    assert run.logits.grad_fn is not None  # the one that does hold it, to be dropped


@pytest.mark.parametrize("weights", ["mean", "probability", "released", "orthogonal"])
def test_the_question_alone_is_one_direction_and_answers_itself(toys, pictures, weights):
    options = {"layer": "stage1", "weights": weights, "keep_images": False}
    alone = FinerCAM(toys.cnn(), keep="question", **options)(pictures(3), 0, [1, 2], gamma=[0.0, 0.6, 1.3])
    wide = FinerCAM(toys.cnn(), keep="references", **options)(pictures(3), 0, [1, 2], gamma=[0.0, 0.6, 1.3])
    torch.testing.assert_close(alone.signed, wide.signed, rtol=1e-4, atol=1e-6 * float(wide.signed.abs().max()))
    assert torch.equal(
        alone.ask(method="hirescam").signed,
        FinerCAM(toys.cnn(), "hirescam", keep="question", **options)(
            pictures(3), 0, [1, 2], gamma=[0.0, 0.6, 1.3]
        ).signed,
    )
    if weights != "orthogonal":  # which needs its references on their own
        assert alone.seen[0][1].directions.shape[1] == 1
        with pytest.raises(NotKept):
            alone.ask(gamma=0.9)
