"""Groups of classes: their logits, directions and maps are those of the log-sum-exp, and they work in every question."""

import pytest
import torch

from finercam import FinerCAM
from finercam.core.groups import Groups
from finercam.errors import FinerCAMError
from finercam.grouping import checked_groups

NAMES = ["wren", "robin", "finch", "crow", "rook"]
GENERA = {"songbird": ["wren", "robin", "finch"], "corvid": ["crow", "rook"]}


@pytest.fixture(scope="module")
def model(toys):
    return toys.cnn(seed=3)


@pytest.fixture(scope="module")
def images(pictures):
    return pictures(3)


def explainer(model, **options):
    return FinerCAM(model, "hirescam", layer="stage1", class_names=NAMES, gamma=1.0, **options)


def test_the_direction_is_the_gradient_of_the_log_sum_exp():
    logits = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    groups = Groups(((0, 2, 5), (1, 3)), ("a", "b"))
    extended = groups.logits(logits)
    assert torch.allclose(extended[:, 6], logits[:, [0, 2, 5]].exp().sum(1).log())
    (gradient,) = torch.autograd.grad(extended[:, 7].sum(), logits)
    assert torch.allclose(groups.direction(torch.tensor([7, 7, 7, 7]), logits.detach()), gradient)
    assert torch.equal(groups.direction(torch.tensor([0, 5, -1, 2]), logits.detach())[2], torch.zeros(6).double())


def test_the_map_of_groups_is_activation_times_gradient_of_the_difference_of_log_sum_exps(model, images):
    answer = explainer(model)(images, target={"wren", "robin"}, against={"crow", "rook"})
    features = model.stage1(images).detach().requires_grad_()
    logits = model.head(model.stage2(model.relu(features.clone())).mean(dim=(2, 3)))
    margin = logits[:, [0, 1]].logsumexp(1) - logits[:, [3, 4]].logsumexp(1)
    (gradient,) = torch.autograd.grad(margin.sum(), features)
    assert torch.allclose(answer.signed, (gradient * features).sum(1), atol=1e-5)
    assert answer.target_names == ["wren or robin"] * 3 and answer.reference_names == [["crow or rook"]] * 3


def test_a_group_of_one_class_is_the_class(model, images):
    explain = explainer(model)
    one, other = explain(images, target={"wren"}, against={"crow"}), explain(images, target="wren", against="crow")
    assert torch.equal(one.signed, other.signed) and one.target.tolist() == [0, 0, 0]


def test_its_probability_is_the_sum_of_its_classes(model, images):
    answer = explainer(model)(images, target={"wren", "robin"}, against=["crow"])
    softmax = model(images).detach().softmax(1)
    assert [answer.probability(5, n) for n in range(3)] == pytest.approx(softmax[:, :2].sum(1).tolist(), abs=1e-6)
    assert f"wren or robin ({answer.probability(5):.0%}) rather than crow" in repr(answer)
    several = explainer(model, link="sigmoid")(images, target={"wren", "robin"}, against=["crow"])
    p = model(images)[0, :2].detach().sigmoid()
    assert several.probability(5) == pytest.approx(float(1 - (1 - p).prod()), abs=1e-6)
    raw = explainer(model, link="none")(images, target={"wren", "robin"}, against=["crow"])
    assert raw.probability(5) == pytest.approx(float(model(images)[0, :2].detach().logsumexp(0)), abs=1e-5)


def test_named_groups_stand_wherever_a_class_does(model, images, tmp_path):
    table = tmp_path / "genera.csv"
    table.write_text("class,genus\n" + "".join(f"{name},{genus}\n" for genus, of in GENERA.items() for name in of))
    turned = {name: genus for genus, of in GENERA.items() for name in of}
    answers = [explainer(model, groups=given)(images, target="Songbird") for given in (GENERA, turned, table)]
    for answer in answers:
        assert answer.target_names == ["songbird"] * 3
        assert answer.reference_names == [["corvid"]] * 3, "the likeliest other genus is the rival"
        assert torch.equal(answer.signed, answers[0].signed)
    by_sets = explainer(model)(images, target=set(GENERA["songbird"]), against=set(GENERA["corvid"]))
    assert torch.equal(by_sets.signed, answers[0].signed)


def test_the_rival_of_a_set_without_a_name_is_the_likeliest_class_outside(model, images):
    answer = explainer(model, num_references=9)(images, target={0, 1})
    order = model(images)[:, 2:].argsort(dim=1, descending=True) + 2
    assert torch.equal(answer.references, order)


def test_a_rival_group_with_the_target_in_it_means_the_others(model, images):
    explain = explainer(model, groups=GENERA)
    inside = explain(images, target="robin", against="songbird")
    assert inside.reference_names == [["other songbird"]] * 3
    assert torch.equal(inside.signed, explain(images, target="robin", against={"wren", "finch"}).signed)
    predicted = explain(images, against={*NAMES[:4]})  # the target is known after the run only
    for sample, c in enumerate(model(images).argmax(1).tolist()):
        members = {0, 1, 2, 3} - {c}
        assert set(predicted.contrast.groups.of(int(predicted.references[sample, 0]), 5)) == members


def test_further_questions_and_batches_of_different_groups(model, images):
    explain = explainer(model, batch_size=1)
    answer = explain(
        images, target=[{0, 1}, "finch", {"finch", "crow"}], against=[["crow"], [{0, 1}, "rook"], ["wren"]]
    )
    alone = explain(images[2:], target={"finch", "crow"}, against=["wren"])
    assert torch.equal(answer[2].signed, alone.signed) and answer[2].target_names == ["finch or crow"]
    back = answer.reverse().reverse()
    assert back.target_names == answer.target_names
    assert torch.allclose(answer[0].reverse().signed, -answer[0].signed, atol=1e-6)
    assert torch.equal(
        answer.plain.signed, explain(images, target=[{0, 1}, 2, {2, 3}], against=[["rook"]] * 3).plain.signed
    )
    assert answer.ask(against={"rook"})[1].reference_names == [["rook"]]
    later = answer[0].ask(target={"crow", "rook"}, against={"finch", "robin"})
    new = explain(images[:1], target={"crow", "rook"}, against={"finch", "robin"})
    assert torch.allclose(later.signed, new.signed, atol=1e-6) and later.target_names == ["crow or rook"]


@pytest.mark.parametrize("weights", ["mean", "probability", "orthogonal"])
def test_groups_count_like_classes_among_several_rivals(model, images, weights):
    answer = explainer(model, weights=weights)(images, target="wren", against=[["finch", {"crow", "rook"}]] * 3)
    assert answer.signed.isfinite().all() and answer.references.tolist() == [[2, 5]] * 3
    if weights == "mean":
        terms = [
            explainer(model)(images, target="wren", against=[[d]] * 3).signed for d in ("finch", {"crow", "rook"})
        ]
        assert torch.allclose(answer.signed, sum(terms) / 2, atol=1e-5)


def test_pictures_files_and_certificates_of_groups(model, images, tmp_path):
    answer = explainer(model)(images[:1].sigmoid(), target={"wren", "robin"}, against={"crow", "rook"})
    logits = model(images[:1].sigmoid())[0].detach()
    margin = float(logits[:2].logsumexp(0) - logits[3:].logsumexp(0))
    assert float(answer.verify().before) == pytest.approx(margin, abs=1e-5)
    from finercam.export.folder import describe

    entry = describe(answer)
    assert entry["target"] == {
        "id": None,
        "name": "wren or robin",
        "probability": answer.probability(5),
        "classes": [0, 1],
    }
    photos = {"crow": images[1], 4: images[2]}
    (one,) = answer.beside(photos)
    assert one.rival.target_names == ["crow or rook"] and one.rival.reference_names == [["wren or robin"]]
    with pytest.raises(FinerCAMError, match="group of them"):
        answer.save(tmp_path / "page.html")


def test_what_is_no_group_is_refused(model, images):
    explain = explainer(model)
    for target, against, said in (
        (set(), "wren", "an empty set"),
        ({"wren", "owl"}, "crow", "owl"),
        (set(NAMES), "wren", "nothing is left"),
        ({"wren", "robin"}, {"robin", "crow"}, "share robin"),
        ({"wren", "robin"}, "robin", "share robin"),
        ({"wren", "robin"}, {"wren", "robin"}, "its own references"),
    ):
        with pytest.raises(FinerCAMError, match=said):
            explain(images, target=target, against=[[against]] * 3)
    with pytest.raises(FinerCAMError, match="knows no groups"):
        explain(images, target={0, 1}, weights="released", against="crow")
    with pytest.raises(FinerCAMError, match="picks rivals of single classes"):
        explainer(model, references="similar")(images, target={0, 1})
    with pytest.raises(FinerCAMError, match="gscorecam explains single classes"):
        explain(images, target={0, 1}, method="gscorecam")
    for wrong in ({}, {"a": []}, {1: [2]}, ["a"]):
        with pytest.raises(FinerCAMError, match="groups"):
            checked_groups(wrong)
    with pytest.raises(FinerCAMError, match="CSV"):
        checked_groups("not/there.csv")


@pytest.mark.parametrize("kind", ["gap", "cnn", "vit"])
def test_a_later_question_about_a_group_is_what_a_new_call_gives(toys, pictures, kind):
    model, images = getattr(toys, kind)(seed=1), pictures(2)
    explain = FinerCAM(model)
    answer = explain(images, target=0, against=[1])
    for target, against in (({0, 2}, [1]), (3, {1, 4}), ({1, 3}, {0, 2}), ({0, 2}, {1, 4})):
        later, new = answer.ask(target=target, against=against), explain(images, target=target, against=against)
        assert torch.allclose(later.signed, new.signed, atol=1e-5 * float(new.signed.abs().max()))
        assert later.target_names == new.target_names and later.reference_names == new.reference_names
