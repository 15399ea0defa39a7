"""Asking again: what the evidence holds is answered as a new run would answer it."""

from __future__ import annotations

import pytest
import torch

from finercam import FinerCAM, FinerCAMError
from finercam.core.evidence import NotKept

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
    assert asked.strategy == "predicted"


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
    with pytest.raises(NotKept, match="'scorecam' reads other evidence than 'gradcam'"):
        answer.ask(method="scorecam")
    scored = FinerCAM(model, "gscorecam", layer="stage1", keep=5, keep_images=False)(images, 0)
    with pytest.raises(NotKept, match=r"for targets \[0, 0\] only, and the question is about targets \[1, 1\]"):
        scored.ask(target=1)


def test_default_keep_on_maps_and_on_tokens(toys, pictures):
    maps = FinerCAM(toys.cnn(), layer="stage1", num_references=3)(pictures(2))
    assert maps.seen[0][1].directions.shape[1] == 4  # the target and three references
    tokens = FinerCAM(toys.vit(), layer="blocks.1.norm1")(pictures(2))
    assert tokens.seen[0][1].directions.shape[1] == 1 and tokens.tail is not None
    alone = FinerCAM(toys.vit(), layer="blocks.1.norm1", keep_images=False)(pictures(2))
    assert alone.seen[0][1].directions.shape[1] == 2 and alone.tail is None
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


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", ["mean", "orthogonal"])
def test_a_sweep_is_each_strength_asked_in_turn(toys, pictures, method, weights):
    explain = FinerCAM(toys.cnn(), method, layer="stage1", weights=weights, keep="references")
    # One reference each: of this small model's target nothing but rounding is left beside two at gamma 1.
    answer, gammas = explain(pictures(3), TARGET, [[1], [4], [0]]), [0.0, 0.3, 0.8, 1.9]
    swept = answer.sweep(gammas)
    for gamma, maps in zip(gammas, swept, strict=True):
        torch.testing.assert_close(maps, answer.ask(gamma=gamma).maps, rtol=1e-3, atol=2e-4)
    assert torch.equal(swept[0], answer.ask(gamma=0).maps)  # to the bit
    assert answer.sweep().shape[0] == 11


def test_a_sweep_over_several_layers_and_views(toys, pictures):
    explain = FinerCAM(toys.cnn(), layer=["stage1", "stage2"], fusion="product", smooth="flip")
    answer = explain(pictures(2))
    torch.testing.assert_close(answer.sweep([0.5])[0], answer.ask(gamma=0.5).maps)
    with pytest.raises(FinerCAMError, match="at least one"):
        answer.sweep([])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("keep", ["contrast", "references", 2])
def test_the_batch_size_changes_nothing_but_the_memory(toys, pictures, method, keep):
    model, images = Watched(toys.cnn()), pictures(3)
    options = {"layer": "inner.stage1", "keep": keep, "weights": "probability"}
    whole = FinerCAM(model, method, **options)(images, TARGET, AGAINST)
    by_two = FinerCAM(model, method, batch_size=2, **options)(images, TARGET, AGAINST)
    same(by_two, whole)
    same(by_two.ask(gamma=0.2), whole.ask(gamma=0.2))
    same(by_two.ask(target=1, against=[3, 0]), whole.ask(target=1, against=[3, 0]))  # with another run
    torch.testing.assert_close(by_two.logits, whole.logits)
    assert torch.equal(by_two.images, images)
    assert [len(evidence.directions) for _, evidence in by_two.seen] == [3]


def test_the_batch_size_says_how_many_images_run_together(toys, pictures):
    sizes, model = [], toys.cnn()
    model.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    explain = FinerCAM(model, batch_size=2, smooth="flip", references="similar", num_references=2)
    answer = explain(pictures(5), gamma=[0.1, 0.2, 0.3, 0.4, 0.5])
    assert set(sizes) == {1, 2} and answer.gamma.tolist() == [0.1, 0.2, 0.3, 0.4, 0.5]
    same(
        answer[3:],
        FinerCAM(model, smooth="flip", references="similar", num_references=2)(pictures(5)[3:], gamma=[0.4, 0.5]),
    )
    sizes.clear()
    FinerCAM(toys.cnn(), layer="stage1")(pictures(20))  # nothing said, on a processor


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "4"])
def test_a_batch_size_is_a_positive_number(toys, size):
    with pytest.raises(FinerCAMError, match="batch_size"):
        FinerCAM(toys.cnn(), batch_size=size)


def test_errors_name_the_sample_of_the_whole_batch(toys, pictures):
    explain = FinerCAM(toys.cnn(), batch_size=2)
    with pytest.raises(FinerCAMError, match="sample 3: target class 2"):
        explain(pictures(5), [0, 0, 0, 2, 0], [[1], [1], [1], [2], [1]])
    broken, images = _NaNWhereBright(toys.cnn()), pictures(5)
    images[3] = 50
    with pytest.raises(FinerCAMError, match=r"samples \[3\]"):
        FinerCAM(broken, batch_size=2, layer="inner.stage1")(images)


class _NaNWhereBright(Watched):
    def forward(self, x):
        bright = x.flatten(1).amax(1, keepdim=True) > 20
        return self.inner(x).masked_fill(bright, torch.nan)
