"""FinerCAM end to end, on models whose answer is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from finercam import FinerCAM, FinerCAMError, methods
from finercam.core.evidence import Evidence
from finercam.core.grid import Layout

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


def test_the_map_of_a_linear_head_is_its_closed_form(toys, pictures):
    model, images = toys.gap(), pictures(3)
    target, against, gamma = [0, 3, 2], [[1, 2], [4], [0, 1, 4]], [0.6, 0.0, 1.2]
    answer = FinerCAM(model, layer="features")(images, target, against, gamma=gamma)
    w, maps = model.head.weight.detach(), model.features(images).detach()
    rows = torch.stack([w[c] - g * w[ds].mean(0) for c, ds, g in zip(target, against, gamma, strict=True)])
    expected = torch.einsum("nc,nchw->nhw", rows, maps) / 64
    torch.testing.assert_close(answer.signed, expected)
    assert answer.references.tolist() == [[1, 2, -1], [4, -1, -1], [0, 1, 4]]
    large = torch.nn.functional.interpolate(expected[:, None], size=(16, 16), mode="bilinear")[:, 0].relu()
    torch.testing.assert_close(answer.maps, large / large.amax(dim=(1, 2), keepdim=True))
    torch.testing.assert_close(answer.logits, model(images).detach())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weights", ["mean", "probability", "orthogonal"])
def test_gamma_zero_is_the_plain_method_to_the_bit(toys, pictures, method, weights):
    """Whatever the references, their weights and what was kept beside the target."""
    model, images = toys.cnn(), pictures(2)
    plain = FinerCAM(model, method, gamma=0.0, layer="stage1", keep="contrast", references="predicted")
    expected = plain(images, [0, 3]).signed
    for keep in ("contrast", "references", 5):
        explain = FinerCAM(model, method, gamma=0.0, layer="stage1", keep=keep, weights=weights)
        assert torch.equal(explain(images, [0, 3], against=[[4, 2], [1]]).signed, expected)
        asked = explain(images, [0, 3], against=[[4, 2], [1]], gamma=0.7)
        assert not torch.equal(asked.signed, expected)
        assert torch.equal(asked.plain.signed, expected)
        assert torch.equal(asked.ask(gamma=0.0).signed, expected)


def test_the_plain_map_is_the_gradient_of_the_target_alone(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    a = model.stage1(images).detach().requires_grad_()
    logits = model.head(model.stage2(a.relu()).mean(dim=(2, 3)))
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), a)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * a.detach()).sum(1)
    answer = FinerCAM(model, gamma=0, layer="stage1")(images, 1)
    torch.testing.assert_close(answer.signed, expected)


@pytest.mark.parametrize("kind", ["cnn", "vit"])
@pytest.mark.parametrize("method", ["gradcam", "layercam", "eigengradcam", "gscorecam", "ablationcam"])
@settings(max_examples=4, deadline=None)
@given(order=st.permutations(range(4)))
def test_permuting_the_batch_permutes_the_answer(toys, pictures, kind, method, order):
    model, images = getattr(toys, kind)(), pictures(4)
    target, against = [0, 3, 2, 1], [[1], [0, 4], [3, 1, 0], [4, 2]]
    gamma = torch.tensor([0.2, 0.6, 1.0, 0.0])
    explain = FinerCAM(model, method, layer={"cnn": "stage2", "vit": "blocks.1.norm1"}[kind])
    straight = explain(images, target, against, gamma=gamma)
    turned = explain(images[order], [target[i] for i in order], [against[i] for i in order], gamma=gamma[order])
    size = float(straight.signed.abs().max())
    torch.testing.assert_close(turned.signed, straight.signed[order], atol=1e-5 * size, rtol=1e-4)
    assert turned.references[:, 0].tolist() == straight.references[order, 0].tolist()


@settings(max_examples=15, deadline=None)
@given(
    rows=st.lists(st.sampled_from([0.0, 1.0, -1.0]), min_size=8, max_size=8),
    strategy=st.sampled_from(["similar", "predicted", "nearest", "all"]),
    count=st.integers(1, 5),
)
def test_the_target_is_never_its_own_reference_with_tied_logits(toys, pictures, rows, strategy, count):
    model = toys.gap(classes=4, channels=2)
    model.head.weight.data = torch.tensor(rows).view(4, 2)
    model.head.bias.data.zero_()
    answer = FinerCAM(model, references=strategy, num_references=count, layer="features")(pictures(3))
    for own, row in zip(answer.target.tolist(), answer.references.tolist(), strict=True):
        assert own not in row
        assert len(row) == (3 if strategy == "all" else min(count, 3))
        assert len(set(row)) == len(row)


@pytest.mark.parametrize("strategy", ["similar", "predicted", "nearest", "all"])
def test_two_classes_have_one_reference(toys, pictures, strategy):
    answer = FinerCAM(toys.gap(classes=2), references=strategy, layer="features")(pictures(3))
    assert answer.references.tolist() == [[1 - c] for c in answer.target.tolist()]


def test_the_usual_question_is_the_strongest_rival_and_the_papers_is_a_preset(toys, pictures):
    model, images = toys.gap(), pictures(3)
    usual = FinerCAM(model, layer="features")(images)
    order = usual.logits.argsort(dim=1, descending=True)
    assert usual.target.tolist() == order[:, 0].tolist() and usual.references.tolist() == order[:, 1:2].tolist()
    paper = FinerCAM(model, layer="features", preset="paper")(images)
    named = FinerCAM(model, gamma=0.6, references="similar", num_references=3, weights="mean", layer="features")(
        images
    )
    assert torch.equal(paper.signed, named.signed) and paper.references.shape == (3, 3)
    assert FinerCAM(model, preset="paper", num_references=2).question.num_references == 2
    with pytest.raises(FinerCAMError, match="Did you mean 'paper'"):
        FinerCAM(model, preset="papers")


def test_three_classes_have_two(toys, pictures):
    answer = FinerCAM(toys.gap(classes=3), layer="features", num_references=3)(pictures(3))
    assert answer.references.shape == (3, 2)


def test_without_a_target_each_image_is_asked_about_its_prediction(toys, pictures):
    model, images = toys.gap(), pictures(8)
    model.head.bias.data -= model(images).mean(0).detach()  # so that not all are of one class
    answer = FinerCAM(model, layer="features")(images)
    assert answer.target.tolist() == model(images).argmax(1).tolist()
    assert len(set(answer.target.tolist())) > 1


def test_references_and_their_similarity_are_reported(toys, pictures):
    model = toys.gap()
    rows = torch.nn.functional.normalize(model.head.weight.detach(), dim=1)
    cosine = rows @ rows.T
    answer = FinerCAM(model, layer="features", class_names=list("abcde"), preset="paper")(pictures(2), ["a", "c"])
    for n, c in enumerate([0, 2]):
        expected = [d for d in cosine[c].argsort(descending=True).tolist() if d != c][:3]
        assert answer.references[n].tolist() == expected
        torch.testing.assert_close(answer.similarity[n], cosine[c, expected])
        assert answer.reference_names[n] == ["abcde"[d] for d in expected]
    assert answer.strategy == "similar"
    named = FinerCAM(model, layer="features", class_names=list("abcde"))(pictures(2), "a", [["b"], ["c", "e"]])
    assert named.strategy == "explicit"
    assert named.similarity[0, 1].isnan()
    torch.testing.assert_close(named.similarity[1], cosine[0, [2, 4]])


def test_confused_takes_its_references_from_the_matrix(toys, pictures):
    matrix = torch.zeros(5, 5)
    matrix[0, 3] = 4
    matrix[2, 0] = 5
    explain = FinerCAM(
        toys.gap(), references="confused", confusion=matrix.tolist(), num_references=2, layer="features"
    )
    assert explain(pictures(1), 0).references.tolist() == [[2, 3]]


def test_all_by_probability_at_gamma_one_is_the_map_of_the_log_odds(toys, pictures):
    model, images = toys.cnn(), pictures(2)
    a = model.stage1(images).detach().requires_grad_()
    p = model.head(model.stage2(a.relu()).mean(dim=(2, 3))).softmax(1)[:, 1]
    (gradient,) = torch.autograd.grad((p / (1 - p)).log().sum(), a)
    expected = (gradient.mean(dim=(2, 3), keepdim=True) * a.detach()).sum(1)
    answer = FinerCAM(model, gamma=1, references="all", weights="probability", layer="stage1")(images, 1)
    torch.testing.assert_close(answer.signed, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("fusion", ["mean", "product"])
def test_several_layers_are_fused(toys, pictures, fusion):
    model, images = toys.cnn(), pictures(2)
    question = {"target": [0, 1], "against": [[2], [3, 4]]}
    both = FinerCAM(model, layer=["stage2", "stage1"], fusion=fusion)(images, **question)
    alone = [FinerCAM(model, layer=name)(images, **question).signed for name in ("stage2", "stage1")]
    a, b = (s / s.abs().amax(dim=(1, 2), keepdim=True) for s in alone)
    expected = (a + b) / 2 if fusion == "mean" else a.relu() * b.relu() - (-a).relu() * (-b).relu()
    torch.testing.assert_close(both.signed, expected, rtol=1e-4, atol=1e-5)
    assert both.layers == ("stage2", "stage1")
    other = {"mean": "product", "product": "mean"}[fusion]
    expected = FinerCAM(model, layer=["stage2", "stage1"], fusion=other)(images, **question).signed
    assert torch.equal(both.ask(fusion=other).signed, expected)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_takes_several_layers_and_views(toys, pictures, method):
    model, images = toys.cnn(), pictures(2)
    explain = FinerCAM(model, method, layer=["stage1", "stage2"], smooth="flip", preset="paper")
    together = explain(images, [0, 1])
    alone = torch.cat([explain(images[n : n + 1], n).signed for n in range(2)])
    torch.testing.assert_close(together.signed, alone, rtol=1e-3, atol=1e-4)
    assert float(together.maps.max()) == 1


def test_a_layer_may_be_a_module_a_name_or_be_found(toys, pictures):
    model, images = toys.gap(), pictures(1)
    found = FinerCAM(model, preset="measured")  # what naming a layer means
    assert found.layers is None
    answer = found(images)
    assert found.layers == answer.layers == ("features",)
    for layer in ("features", model.features, [model.features]):
        assert torch.equal(FinerCAM(model, layer=layer)(images).signed, answer.signed)


def test_tokens_lie_on_the_grid_and_prefix_tokens_are_left_out(toys, pictures):
    model, images = toys.vit(), pictures(2, size=(16, 24))
    answer = FinerCAM(model, layer="blocks.1.norm1")(images, 1, 2)
    assert answer.signed.shape == (2, 4, 6)
    seen = []
    handle = model.blocks[1].norm1.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.enable_grad():
        logits = model(images)
    handle.remove()
    (gradient,) = torch.autograd.grad((logits[:, 1] - 0.6 * logits[:, 2]).sum(), seen[0])
    tokens, gradient = seen[0].detach()[:, 1:], gradient[:, 1:]
    expected = (tokens * gradient.mean(dim=1, keepdim=True)).sum(dim=2).view(2, 4, 6)
    torch.testing.assert_close(answer.signed, expected)
    forced = FinerCAM(model, layer="blocks.1.norm1", layout=Layout("tokens", (4, 6), 1))(images, 1, 2)
    assert torch.equal(forced.signed, answer.signed)


def test_channels_last_feature_maps(pictures, toys):
    class Last(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = (
                torch.nn.Conv2d(3, 12, 3),
                torch.nn.LayerNorm(12),
                torch.nn.Linear(12, 4),
            )

        def forward(self, x):
            return self.head(self.norm(self.conv(x).permute(0, 2, 3, 1)).relu().mean(dim=(1, 2)))

    model, images = toys.seeded(Last()), pictures(2, size=(10, 14))
    normed = FinerCAM(model, layer="norm")(images, 0, 1)
    a = model.norm(model.conv(images).permute(0, 2, 3, 1)).detach().requires_grad_()
    y = model.head(a.relu().mean(dim=(1, 2)))
    (gradient,) = torch.autograd.grad((y[:, 0] - 0.6 * y[:, 1]).sum(), a)
    torch.testing.assert_close(normed.signed, (gradient.mean(dim=(1, 2), keepdim=True) * a.detach()).sum(3))
    ablated = FinerCAM(model, "ablationcam", layer="norm")(images, 0, 1)
    assert ablated.signed.shape == (2, 8, 12)


def test_the_callers_buffer_may_be_refilled(toys, pictures):
    """A loader that writes the next batch into the same tensor must not change later answers."""
    model, buffer = toys.gap(), pictures(2)
    answer = FinerCAM(model, layer="features", keep="contrast")(buffer, 0, [1, 2])
    expected = FinerCAM(model, layer="features")(pictures(2), 0, 3)
    buffer.zero_()
    assert torch.equal(answer.ask(against=3).signed, expected.signed)


def test_an_answer_does_not_depend_on_the_ones_before(toys, pictures):
    explain = FinerCAM(toys.cnn(), layer="stage1")
    first = explain(pictures(2), 0, 1)
    explain(pictures(3, seed=5), 2, gamma=0.1, weights="orthogonal", method="layercam")
    assert torch.equal(explain(pictures(2), 0, 1).signed, first.signed)


def test_one_look_serves_a_method_of_its_own_gathering(toys, pictures):
    """A gather function is a user's to write; the contrast reaches it and its evidence."""
    seen = {}

    def gather(source, contrast, directions):
        seen["target"] = contrast.target.tolist()
        flat = torch.ones_like(source.activations[0])[:, None].expand(-1, directions.shape[1], -1, -1, -1)
        return Evidence(source.logits.cpu().double(), directions, source.activations, (flat,))

    own = methods.Method("ones", lambda a, g: (a * g).sum(1), gather)
    model, images = toys.gap(), pictures(2)
    answer = FinerCAM(model, own, layer="features")(images, [1, 2], 0)
    assert seen["target"] == [1, 2]
    torch.testing.assert_close(answer.signed, 0.4 * model.features(images).detach().sum(1))


def test_it_reads_as_a_context_manager_and_swallows_nothing(toys, pictures):
    with pytest.raises(IndexError), FinerCAM(toys.gap()) as explain:
        explain(pictures(1))
        raise IndexError("peers print this and go on")
    with pytest.raises(FinerCAMError), FinerCAM(toys.gap()) as explain:
        explain(pictures(1), 99)
