"""Photos as classes: similarities by hand, maps in closed form, and what is refused."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from finercam import FinerCAM
from finercam.errors import FinerCAMError
from finercam.gallery import Gallery


@pytest.fixture(scope="module")
def encoder(toys):
    net = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return toys.seeded(net, 2)


@pytest.fixture(scope="module")
def photos(pictures):
    return {"Ada": pictures(1, seed=1)[0], "Ben": pictures(3, seed=2), "Cy": list(pictures(2, seed=3))}


@pytest.fixture(scope="module")
def gallery(encoder, photos):
    return Gallery(encoder, photos).eval()


def test_scores_are_cosines_with_the_mean_of_each_names_photos(gallery, encoder, photos, pictures):
    images = pictures(4)
    with torch.no_grad():
        own, ben = F.normalize(encoder(images), dim=1), F.normalize(encoder(photos["Ben"]), dim=1).mean(0)
        scores = gallery(images)
    assert torch.allclose(scores[:, 1], own @ F.normalize(ben, dim=0), atol=1e-6)
    assert torch.allclose(gallery(photos["Ada"][None])[0, 0], torch.tensor(1.0))
    assert gallery.class_names == ["Ada", "Ben", "Cy"] and bool((scores.abs() <= 1 + 1e-6).all())


def test_the_map_is_the_gradient_of_the_difference_of_two_cosines(gallery, pictures):
    images = pictures(2)
    explain = FinerCAM(gallery, "hirescam", layer="model.1", gamma=1.0, class_names=gallery.class_names)
    answer = explain(images, target="Ada", against=[["Ben"]] * 2)
    features = gallery.model[1](gallery.model[0](images)).detach().requires_grad_()
    cosines = F.normalize(features.mean(dim=(2, 3)), dim=1) @ gallery.class_embeddings.T
    (gradient,) = torch.autograd.grad((cosines[:, 0] - cosines[:, 1]).sum(), features)
    assert torch.allclose(answer.signed, (gradient * features).sum(1), atol=1e-6)
    assert answer.signed.sum(dim=(1, 2)).abs().max() < 1e-5, "a cosine's evidence is relative and sums to zero"


def test_similarities_are_shown_as_such(gallery, pictures):
    answer = FinerCAM(gallery, class_names=gallery.class_names)(pictures(1))
    assert answer.link == "none" and torch.equal(answer.probabilities, answer.logits.float())
    assert "%" not in repr(answer)
    from finercam.view.questions import question

    assert f"({float(answer.logits.max()):.2f})" in question(answer) and "%" not in question(answer)
    (one,) = answer.beside(gallery.photos)
    assert one.rival.target_names == answer.reference_names[0]


def test_pictures_and_folders(encoder, tmp_path):
    from PIL import Image

    for name, colour in (("Ada", "red"), ("Ben", "blue")):
        (tmp_path / name).mkdir()
        for at in range(2):
            Image.new("RGB", (16, 16), colour).save(tmp_path / name / f"{at}.png")
    Image.new("RGB", (16, 16), "green").save(tmp_path / "Cy.png")

    def to_tensor(image):
        return torch.tensor(image.getpixel((0, 0)))[:, None, None].expand(3, 16, 16) / 255

    by_folder = Gallery(encoder, tmp_path, to_tensor)
    assert by_folder.class_names == ["Ada", "Ben", "Cy"]
    red = to_tensor(Image.new("RGB", (16, 16), "red"))[None]
    assert float(by_folder(red)[0, 0].detach()) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(FinerCAMError, match="needs preprocess="):
        Gallery(encoder, tmp_path)


def test_what_is_no_gallery_is_refused(encoder, pictures):
    for photos, said in (
        ({"one": pictures(1)}, "at least two names"),
        ({"one": pictures(1), "two": []}, "'two' has no photos"),
        ("not/there", "no folder of photos"),
    ):
        with pytest.raises(FinerCAMError, match=said):
            Gallery(encoder, photos)
    with pytest.raises(FinerCAMError, match="expected embeddings"):
        Gallery(nn.Conv2d(3, 2, 1), {"one": pictures(1), "two": pictures(1)})


def test_the_model_is_left_as_it_was(encoder, photos):
    encoder.train()
    Gallery(encoder, photos)
    assert encoder.training and not any(p.grad is not None for p in encoder.parameters())
    encoder.eval()


@pytest.mark.slow
def test_a_timm_model_without_its_classifier():
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=0).eval()
    gallery = Gallery(model, {"a": torch.rand(2, 3, 64, 64), "b": torch.rand(2, 3, 64, 64)}).eval()
    answer = FinerCAM(gallery, class_names=gallery.class_names)(torch.rand(2, 3, 64, 64))
    assert answer.signed.isfinite().all() and answer.link == "none"
