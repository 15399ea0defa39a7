"""What the page is given combines to what Python answers, for every method, weighting and fusion."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from finercam.methods import Method, get
from finercam.report.classes import Apart, with_rivals
from finercam.report.content import BUDGET, page_of
from finercam.report.pack import unpack

EIGHT_BITS = 0.5 / 127 + 1e-4
"""Share of a map's peak that a map of 8 bits may be off."""


def page(answer, rivals=9, methods=None):
    apart = with_rivals(answer, rivals)
    return page_of(answer, Apart.of(apart, rivals), apart, methods)


def entry(data, name):
    return next(method for method in data["methods"] if method["name"] == name)


def combined(method, target, rivals, weights, gamma):
    layer = method["layers"][0]
    maps = unpack(layer["maps"])
    signed = maps[target] - gamma * sum(w * maps[d] for w, d in zip(weights, rivals, strict=True))
    if "rest" in layer:
        taken = sum(w * method["baseline"][d] for w, d in zip(weights, rivals, strict=True))
        signed = signed - gamma * taken * unpack(layer["rest"])[0]
    return signed


def close(found, expected, share=2e-4):
    expected = np.asarray(expected, dtype=np.float64)
    assert np.abs(found - expected).max() <= share * np.abs(expected).max()


@pytest.mark.parametrize("method", ["gradcam", "hirescam", "xgradcam", "scorecam", "ablationcam"])
def test_linear_methods_combine_to_any_question(explain, images, method):
    answer = explain(method=method, keep=10)(images[:1], target=4, against=[7, 2])
    data = page(answer)
    places = [entry_["id"] for entry_ in data["classes"]]
    assert places[:3] == [4, 7, 2] and len(places) == 10 and data["asked"] == [1, 2]
    kept = entry(data, method)
    close(combined(kept, 0, [1, 2], [0.5, 0.5], 0.9), answer.ask(gamma=0.9).signed[0])
    other = answer.ask(target=places[5], against=[places[8], 4], gamma=1.3)
    close(combined(kept, 5, [8, 0], [0.5, 0.5], 1.3), other.signed[0])


def test_released_weights_come_as_a_pair_of_maps(explain, images):
    answer = explain(weights="released")(images[:1], target=4, against=[7, 2])
    data = page(answer)
    assert data["asked"] == "asked"
    plain, change = unpack(entry(data, "gradcam")["layers"][0]["asked"])
    close(plain - 1.4 * change, answer.ask(gamma=1.4).signed[0])


def test_gram_gives_the_orthogonal_weights(explain, images):
    answer = explain(weights="orthogonal", keep=10)(images[:1], target=4, against=[7, 2, 9])
    kept = entry(page(answer), "gradcam")
    gram = np.array(kept["layers"][0]["gram"])
    weights = np.linalg.pinv(gram[1:4, 1:4], hermitian=True, rcond=1e-10) @ gram[1:4, 0]
    close(combined(kept, 0, [1, 2, 3], weights, 0.6), answer.signed[0])


@pytest.mark.parametrize("method", ["layercam", "gradcam++", "eigengradcam"])
def test_other_methods_come_at_steps_of_gamma(explain, images, method):
    answer = explain(method=method, keep=10, gamma=0.75)(images[:1], target=4, against=[7, 2])
    kept = entry(page(answer), method)
    assert kept["kind"] == "grid" and 0.75 in kept["gammas"]
    maps = unpack(kept["maps"])
    at = {(q["target"], str(q["against"])): i for i, q in enumerate(kept["questions"])}
    step = len(kept["gammas"])
    for gamma in (0.0, 0.75, 1.4):
        place = kept["gammas"].index(gamma)
        close(maps[at[0, "asked"] * step + place], answer.ask(gamma=gamma).signed[0], EIGHT_BITS)
        close(maps[at[0, "[2]"] * step + place], answer.ask(against=[2], gamma=gamma).signed[0], EIGHT_BITS)
        close(maps[at[1, "[0]"] * step + place], answer.ask(target=7, against=[4], gamma=gamma).signed[0], EIGHT_BITS)


def test_two_layers_with_views_are_answered_for_the_asked_question(explain, images):
    answer = explain(layer=["1", "3"], smooth="flip")(images[:1], target=4, against=[7])
    kept = entry(page(answer), "gradcam")
    assert kept["kind"] == "grid"
    close(unpack(kept["maps"])[kept["gammas"].index(0.6)], answer.signed[0], EIGHT_BITS)


def test_views_of_one_layer_stay_linear(explain, images):
    answer = explain(smooth=("flip", "scale"), keep=10)(images[:1], target=4, against=[7])
    close(combined(entry(page(answer), "gradcam"), 0, [1], [1.0], 0.6), answer.signed[0])


def test_one_more_run_adds_the_rivals(explain, images):
    explainer = explain(keep="contrast")
    answer = explainer(images[:2], target=[4, 5])
    assert len(Apart.of(answer[0], 9).classes) == 1
    apart = with_rivals(answer, 6)
    assert [len(Apart.of(one, 6).classes) for one in apart] == [7, 7]
    assert explainer.keep == "contrast"  # the caller's explainer is a guest too
    close(combined(entry(page(answer[0], 6), "gradcam"), 0, [1, 2, 3], [1 / 3] * 3, 0.6), answer[0].signed[0])


def test_without_images_only_the_asked_question_is_left(explain, images):
    answer = explain(keep="contrast", keep_images=False)(images[:1], target=4)
    data = page(answer)
    assert len(data["classes"]) == 1 and data["asked"] == "asked" and len(data["askedNames"]) == 3
    plain, change = unpack(entry(data, "gradcam")["layers"][0]["asked"])
    close(plain - 0.6 * change, answer.signed[0])


def test_gscorecam_is_marked_as_for_one_target(explain, images):
    answer = explain(method="gscorecam", keep=10)(images[:1], target=4, against=[7])
    kept = entry(page(answer), "gscorecam")
    assert kept["fixed"]
    close(combined(kept, 0, [1], [1.0], 0.6), answer.signed[0])


def test_methods_with_the_same_maps_are_sent_once(explain, images):
    data = page(explain(layer="3")(images[:1]))  # after it the model only pools and weighs
    assert entry(data, "hirescam") == {"name": "hirescam", "label": "HiResCAM", "kind": "same", "as": "gradcam"}


def test_maps_without_channels_offer_no_orthogonal_weights(explain, images):
    """As of a finished run, which keeps each class's map and no channels."""
    answer = explain(keep=4, keep_images=False)(images[:1])
    ((view, evidence),) = answer.seen
    maps = torch.einsum("nmchw,nchw->nmhw", evidence.gradients[0], evidence.activations[0])[:, :, None]
    flat = replace(evidence, activations=(torch.ones_like(maps[:, 0]),), gradients=(maps,))
    stored = replace(answer, seen=((view, flat),), question=answer.question.changed(method="hirescam"))
    kept = entry(page(stored), "hirescam")
    assert kept["kind"] == "linear" and "gram" not in kept["layers"][0]


def test_linearity_is_found_by_trial():
    halved = Method("halved", lambda a, g: (a * g).sum(1) / 2)
    cut = Method("cut", lambda a, g: (a * g).sum(1).relu())
    fussy = Method("fussy", lambda a, g: (a * g * torch.ones(1, 99, 1, 1)).sum(1))
    assert halved.linear and not cut.linear and not fussy.linear
    assert get("ablationcam").linear and not get("gradcam++").linear


def test_budget_holds_for_fine_maps(model, images):
    import json

    from torch import nn

    from finercam import FinerCAM

    fine = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 30)
    ).eval()
    answer = FinerCAM(fine, layer="1", references="similar", num_references=3)(torch.rand(1, 3, 90, 130))
    data = page(answer, rivals=29)
    assert 4 <= len(data["classes"]) < 30
    assert len(json.dumps(data)) < BUDGET + 8_000
    close(combined(entry(data, "gradcam"), 0, [1, 2, 3], [1 / 3] * 3, 0.6), answer.signed[0], share=0.02)
    layercam = replace(answer, question=answer.question.changed(method="layercam"))
    assert len(json.dumps(page(layercam))) < 2 * BUDGET  # the asked question is never left out
