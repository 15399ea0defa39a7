"""Asking again: what the evidence holds is answered as a new run would answer it."""

from __future__ import annotations

import pytest
import torch

from finercam import FinerCAM, FinerCAMError
from finercam.evidence import NotKept

METHODS = [
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
TARGET, AGAINST = [0, 3, 2], [[1, 2], [4], [0, 1, 4]]


class Watched(torch.nn.Module):
    """Counts its runs."""

    def __init__(self, inner) -> None:
        super().__init__()
        self.inner, self.runs = inner, 0

    def forward(self, x):
        self.runs += 1
        return self.inner(x)


def same(found, expected) -> None:
    size = float(expected.signed.abs().max())
    torch.testing.assert_close(found.signed, expected.signed, rtol=1e-4, atol=2e-6 * size)
    torch.testing.assert_close(found.maps, expected.maps, rtol=1e-3, atol=1e-4)
    assert torch.equal(found.target, expected.target)
    assert torch.equal(found.references, expected.references)
    assert torch.equal(found.gamma, expected.gamma)
    torch.testing.assert_close(found.similarity, expected.similarity, equal_nan=True)
    assert repr(found) == repr(expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", ["mean", "probability", "orthogonal", "released"])
def test_a_question_asked_again_is_a_fresh_question(toys, pictures, method, weights):
    """Another gamma, weighting and subset of the kept references, for every method, without a run of the model."""
    model, images = Watched(toys.cnn()), pictures(3)
    explain = FinerCAM(model, method, layer="inner.stage1", keep="references")
    answer = explain(images, TARGET, AGAINST, weights="released" if weights == "released" else "mean")
    runs = model.runs
    gamma = [0.9, 0.1, 1.5]
    asked = answer.ask(gamma=gamma, weights=weights)
    fewer = answer.ask(against=[[2], [4], [4, 0]], gamma=0.4, weights="mean")
    plain = answer.plain
    assert model.runs == runs
    same(asked, explain(images, TARGET, AGAINST, gamma=gamma, weights=weights))
    same(fewer, explain(images, TARGET, [[2], [4], [4, 0]], gamma=0.4))
    same(plain, explain(images, TARGET, AGAINST, gamma=0.0))


@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "ablationcam"])
def test_classes_kept_by_number_and_by_id_answer_any_question_about_them(toys, pictures, method):
    model, images = Watched(toys.cnn()), pictures(3)
    fresh = FinerCAM(model, method, layer="inner.stage1")
    for keep in (5, [0, 1, 2, 3, 4], torch.arange(5)):
        answer = FinerCAM(model, method, layer="inner.stage1", keep=keep)(images)
        runs = model.runs
        asked = answer.ask(target=[4, 4, 1], against=[[0], [1, 2], [3]], gamma=0.3, weights="probability")
        assert model.runs == runs
        same(asked, fresh(images, [4, 4, 1], [[0], [1, 2], [3]], gamma=0.3, weights="probability"))


def test_a_new_target_without_references_has_them_picked_anew(toys, pictures):
    explain = FinerCAM(toys.cnn(), layer="stage1", references="predicted", num_references=2, keep=5)
    asked = explain(pictures(3)).ask(target=1)
    same(asked, explain(pictures(3), 1))
    assert asked.setting.strategy == "predicted"


@pytest.mark.parametrize("method", METHODS)
def test_another_method_on_the_same_evidence(toys, pictures, method):
    model, images = toys.cnn(), pictures(2)
    same(
        FinerCAM(model, layer="stage1")(images, 0).ask(method=method),
        FinerCAM(model, method, layer="stage1")(images, 0),
    )


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "gscorecam"])
def test_the_reverse_question(toys, pictures, method):
    model, images = toys.cnn(), pictures(3)
    explain = FinerCAM(model, method, layer="stage1")
    answer = explain(images, TARGET, AGAINST)
    turned = answer.reverse()
    same(turned, explain(images, [1, 4, 0], [[0], [3], [2]]))
    assert turned.target.tolist() == answer.references[:, 0].tolist()
    once = explain(images, 0, 1, gamma=1.0)
    if method == "gradcam":  # linear, so at gamma 1 the two sides of a pair are each other's negative
        torch.testing.assert_close(once.reverse().signed, -once.signed)
    same(once.reverse().reverse(), once)


def test_the_reverse_of_a_pair_needs_no_model_even_from_the_cheapest_keep(toys, pictures):
    model = Watched(toys.cnn())
    answer = FinerCAM(model, layer="inner.stage1", keep="contrast", keep_images=False)(pictures(2), 0, 1)
    runs = model.runs
    answer.reverse()
    assert model.runs == runs


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam"])
def test_what_was_not_kept_costs_a_run_or_says_so(toys, pictures, method):
    model, images = Watched(toys.cnn()), pictures(3)
    with_images = FinerCAM(model, method, layer="inner.stage1", keep="contrast")
    answer = with_images(images, TARGET, AGAINST)
    runs = model.runs
    same(answer.ask(gamma=0.2), with_images(images, TARGET, AGAINST, gamma=0.2))
    before = model.runs
    asked = answer.ask(against=[[4], [1], [3, 4]])
    assert model.runs > before > runs - 1
    same(asked, with_images(images, TARGET, [[4], [1], [3, 4]]))

    without = FinerCAM(model, method, layer="inner.stage1", keep="contrast", keep_images=False)
    answer = without(images, TARGET, AGAINST)
    assert answer.images is None
    with pytest.raises(NotKept) as caught:
        answer.ask(against=[[4], [1], [3, 4]])
    assert isinstance(caught.value, FinerCAMError)
    assert "keep" in str(caught.value)
    assert "\n" not in str(caught.value)
    same(answer.ask(gamma=0.2), with_images(images, TARGET, AGAINST, gamma=0.2))  # still usable


def test_evidence_of_another_kind_costs_a_run_or_says_so(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    answer = FinerCAM(model, layer="stage1", keep_images=False)(images)
    with pytest.raises(NotKept, match="'scorecam' gathers other evidence than 'gradcam'"):
        answer.ask(method="scorecam")
    scored = FinerCAM(model, "gscorecam", layer="stage1", keep=5, keep_images=False)(images, 0)
    with pytest.raises(NotKept, match=r"targets \[0, 0\] was asked about \[1, 1\]"):
        scored.ask(target=1)


def test_default_keep_on_maps_and_on_tokens(toys, pictures):
    maps = FinerCAM(toys.cnn(), layer="stage1", num_references=3)(pictures(2))
    assert maps.seen[0][1].directions.shape[1] == 4  # the target and three references
    tokens = FinerCAM(toys.vit(), layer="blocks.1.norm1")(pictures(2))
    assert tokens.seen[0][1].directions.shape[1] == 2
    many = FinerCAM(toys.cnn(classes=12), layer="stage1", references="all")(pictures(2))
    assert many.seen[0][1].directions.shape[1] == 2


def test_slices_and_iteration_are_answers_of_their_own(toys, pictures):
    explain = FinerCAM(toys.cnn(), layer="stage1")
    answer = explain(pictures(3), TARGET, AGAINST, gamma=[0.2, 0.6, 1.0])
    parts = list(answer)
    assert len(parts) == len(answer) == 3
    for n, part in enumerate(parts):
        assert torch.equal(part.signed, answer.signed[n : n + 1])
        assert torch.equal(part.maps, answer.maps[n : n + 1])
        assert part.reference_names == [answer.reference_names[n]]
        asked = part.ask(gamma=0.8, weights="probability")
        expected = answer.ask(gamma=0.8, weights="probability")
        torch.testing.assert_close(asked.signed[0], expected.signed[n])
        rerun = part.ask(method="scorecam")
        torch.testing.assert_close(rerun.signed[0], answer.ask(method="scorecam").signed[n], rtol=1e-3, atol=1e-4)
    assert torch.equal(answer[-1].signed, answer[2].signed)
    assert torch.equal(answer[1:].signed, answer.signed[1:])
    assert answer[1:].target.tolist() == TARGET[1:]
    assert torch.equal(answer[::2].ask(gamma=0.1).signed, answer.ask(gamma=0.1).signed[::2])
    with pytest.raises(IndexError):
        answer[3]


def test_asking_leaves_the_answer_as_it_was(toys, pictures):
    answer = FinerCAM(toys.cnn(), layer="stage1")(pictures(2))
    before = answer.signed.clone(), answer.maps.clone(), repr(answer)
    answer.ask(gamma=2.0, weights="orthogonal", method="layercam")
    answer.reverse()
    with pytest.raises(FinerCAMError):
        answer.ask(gamma=-1)
    assert torch.equal(answer.signed, before[0])
    assert torch.equal(answer.maps, before[1])
    assert repr(answer) == before[2]


def test_maps_are_scaled_one_by_one_and_signed_maps_keep_their_sign(toys, pictures):
    answer = FinerCAM(toys.gap(), layer="features")(pictures(4))
    assert answer.maps.shape == answer.signed_maps.shape == (4, 16, 16)
    for n in range(4):
        large = torch.nn.functional.interpolate(answer.signed[n][None, None], size=(16, 16), mode="bilinear")[0, 0]
        torch.testing.assert_close(answer.signed_maps[n], large / large.abs().max())
        if float(large.max()) > 0:
            torch.testing.assert_close(answer.maps[n], large.relu() / large.max())


def test_nothing_for_the_target_is_a_map_of_zeros(toys, pictures):
    model = toys.gap()
    model.head.weight.data = -model.head.weight.data.abs()
    answer = FinerCAM(model, layer="features", gamma=0)(pictures(2), 0)
    assert answer.maps.abs().max() == 0
    assert not answer.maps.isnan().any()
    assert float(answer.signed_maps.min()) == -1


def test_names_probabilities_and_what_it_prints(toys, pictures):
    model, images = toys.gap(), pictures(2)
    answer = FinerCAM(model, layer="features", class_names={k: f"bird {k}" for k in range(5)})(
        images, 1, [[0, 2], [3]]
    )
    assert answer.target_names == ["bird 1", "bird 1"]
    assert answer.reference_names == [["bird 0", "bird 2"], ["bird 3"]]
    torch.testing.assert_close(answer.probabilities, model(images).detach().softmax(1))
    assert "rather than bird 0 / bird 2" in repr(answer)
    assert "gradcam at features" in repr(answer)
    unnamed = FinerCAM(model, layer="features")(images, 1)
    assert unnamed.target_names == ["class 1", "class 1"]


def test_one_class_has_no_reverse(toys, pictures):
    answer = FinerCAM(toys.gap(classes=1), layer="features", gamma=0)(pictures(1))
    with pytest.raises(FinerCAMError, match="no reference"):
        answer.reverse()
