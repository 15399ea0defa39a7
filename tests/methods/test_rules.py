"""Map rules against their formulas, written out as loops."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from finercam.methods import rules


@pytest.fixture
def seen() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    activations = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64).relu()
    gradients = torch.randn(2, 4, 3, 5, generator=generator, dtype=torch.float64)
    activations[:, 2] = 0
    return activations, gradients


def by_loops(activations: Tensor, alpha) -> Tensor:
    """`sum_k alpha(n, k) A_k`, place by place."""
    n_, c_, h_, w_ = activations.shape
    found = torch.zeros(n_, h_, w_, dtype=activations.dtype)
    for n in range(n_):
        for k in range(c_):
            found[n] += alpha(n, k) * activations[n, k]
    return found


def test_gradcam(seen):
    activations, gradients = seen
    torch.testing.assert_close(rules.gradcam(*seen), by_loops(activations, lambda n, k: gradients[n, k].mean()))


def test_xgradcam_with_an_empty_channel(seen):
    activations, gradients = seen

    def alpha(n, k):
        mass = activations[n, k].sum()
        return 0 if mass == 0 else (gradients[n, k] * activations[n, k] / mass).sum()

    torch.testing.assert_close(rules.xgradcam(*seen), by_loops(activations, alpha))


def test_place_by_place_rules(seen):
    activations, gradients = seen
    for n in range(2):
        for i in range(3):
            for j in range(5):
                products = [float(activations[n, k, i, j] * gradients[n, k, i, j]) for k in range(4)]
                positive = [float(activations[n, k, i, j] * max(gradients[n, k, i, j], 0)) for k in range(4)]
                assert float(rules.hirescam(*seen)[n, i, j]) == pytest.approx(sum(products))
                assert float(rules.elementwise(*seen)[n, i, j]) == pytest.approx(sum(max(p, 0) for p in products))
                assert float(rules.layercam(*seen)[n, i, j]) == pytest.approx(sum(positive))


def test_gradcam_plusplus_is_equation_19(seen):
    activations, gradients = seen

    def alpha(n, k):
        total, mass = 0.0, float(activations[n, k].sum())
        for g in gradients[n, k].flatten().tolist():
            total += g**2 / (2 * g**2 + mass * g**3) * max(g, 0)
        return total

    torch.testing.assert_close(rules.gradcam_plusplus(*seen), by_loops(activations, alpha))


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0])
def test_gradcam_plusplus_at_the_size_of_real_gradients(seen, scale):
    """Behind global pooling gradients are about 1e-4 and their squares drown in a constant of 1e-6."""
    activations, gradients = seen
    found = rules.gradcam_plusplus(activations / scale, gradients * scale)
    torch.testing.assert_close(found, rules.gradcam_plusplus(activations, gradients))


def test_gradcam_plusplus_without_gradients_is_zero(seen):
    activations, gradients = seen
    assert rules.gradcam_plusplus(activations, gradients * 0).abs().max() == 0


@pytest.mark.parametrize("shape", [(2, 4, 3, 5), (2, 20, 3, 5)])
@pytest.mark.parametrize("scale", [1e-12, 1.0])
def test_eigengradcam_is_the_first_component_with_the_sign_of_hirescam(shape, scale):
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(shape, generator=generator, dtype=torch.float64)
    gradients = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
    found = rules.eigengradcam(activations, gradients)
    for n in range(2):
        features = (activations[n] * gradients[n]).flatten(1).T
        centred = features - features.mean(0)
        _, _, vh = torch.linalg.svd(centred, full_matrices=False)
        expected = (centred @ vh[0]).view(3, 5)
        if float((expected * rules.hirescam(activations, gradients)[n]).sum()) < 0:
            expected = -expected
        torch.testing.assert_close(found[n], expected, rtol=1e-7, atol=1e-9 * scale)


def test_eigengradcam_turns_with_the_question(seen):
    """The contrast and its negative must not get the same map, as a component without a sign would give."""
    activations, gradients = seen
    torch.testing.assert_close(
        rules.eigengradcam(activations, -gradients), -rules.eigengradcam(activations, gradients)
    )


def test_eigengradcam_of_nothing_is_zero(seen):
    activations, gradients = seen
    assert rules.eigengradcam(activations, gradients * 0).abs().max() == 0


def test_softmax_weighted(seen):
    activations, _ = seen
    scores = torch.tensor([[0.0, 1.0, 2.0, -3.0], [5.0, 5.0, 5.0, 5.0]], dtype=torch.float64)
    total = sum(math.exp(s) for s in scores[0].tolist())
    expected = sum(math.exp(s) / total * activations[0, k] for k, s in enumerate(scores[0].tolist()))
    found = rules.softmax_weighted(activations, scores[..., None, None])
    torch.testing.assert_close(found[0], expected)
    torch.testing.assert_close(found[1], activations[1].mean(0))


@pytest.mark.parametrize("rule", [rules.gradcam, rules.xgradcam, rules.hirescam])
def test_linear_rules_are_linear_in_the_contrast(seen, rule):
    activations, gradients = seen
    other = gradients.flip(0)
    torch.testing.assert_close(
        rule(activations, gradients - 0.6 * other), rule(activations, gradients) - 0.6 * rule(activations, other)
    )


@pytest.mark.parametrize("rule", [rules.layercam, rules.elementwise, rules.gradcam_plusplus])
def test_other_rules_are_not_so_the_contrast_comes_first(seen, rule):
    activations, gradients = seen
    other = gradients.flip(0)
    contrast_last = rule(activations, gradients) - 0.6 * rule(activations, other)
    assert float((rule(activations, gradients - 0.6 * other) - contrast_last).abs().max()) > 0.1


@pytest.mark.parametrize(
    "rule", [getattr(rules, n) for n in rules.__all__ if n not in ("weighted", "softmax_weighted")]
)
def test_each_sample_is_its_own_affair(seen, rule):
    activations, gradients = seen
    alone = torch.cat([rule(activations[n : n + 1], gradients[n : n + 1]) for n in range(2)])
    torch.testing.assert_close(rule(activations, gradients), alone)


def test_xgradcam_does_not_take_its_sign_from_rounding(seen):
    """Activations whose channels sum to nearly zero, as after a LayerNorm: half precision must not turn the map over."""
    generator = torch.Generator().manual_seed(0)
    activations = torch.randn(8, 64, 14, 14, generator=generator)
    activations -= activations.mean(dim=(2, 3), keepdim=True) * 0.999
    gradients = torch.randn(8, 64, 14, 14, generator=generator) + 0.2
    exact = rules.xgradcam(activations, gradients).flatten(1)
    rounded = rules.xgradcam(activations.bfloat16().float(), gradients.bfloat16().float()).flatten(1)
    assert torch.nn.functional.cosine_similarity(exact, rounded).min() > 0.99
