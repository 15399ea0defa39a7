"""The certificate: margins without the lit pixels, on a model whose logits are sums of pixels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from finercam import FinerCAM, FinerCAMError


class Corners(nn.Module):
    """Class 0 adds up the top left corner, class 1 the bottom right one, class 2 the whole picture."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()
        weight = torch.zeros(3, 1, 16, 16)
        weight[0, 0, :4, :4], weight[1, 0, 12:, 12:], weight[2] = 1, 1, 0.1
        self.weight = nn.Parameter(weight)
        self.keep = nn.Conv2d(1, 1, 1, bias=False)
        self.keep.weight.data.fill_(1.0)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("nchw,kchw->nk", self.keep(x[:, :1]), self.weight)


@pytest.fixture
def answer():
    images = torch.zeros(2, 3, 16, 16)
    images[:, :, :4, :4], images[:, :, 12:, 12:] = 1.0, 0.5
    return FinerCAM(Corners(), "hirescam", layer="keep", gamma=1.0)(images, 0, against=1)


def test_the_margin_falls_by_what_the_lit_pixels_gave(answer):
    certificate = answer.verify(share=16 / 256)
    assert certificate.before.tolist() == [8.0, 8.0]  # 16 - 16 / 2
    assert certificate.fills == ("blur", "road")
    # The lit pixels are the corner: a blur leaves most of its light, ROAD fills it from the dark around it.
    blur, road = certificate.lit.T
    assert bool((blur < 6).all()) and bool((road < 0).all())
    assert bool((certificate.random > certificate.lit + 1).all())
    torch.testing.assert_close(certificate.plain, certificate.lit)  # the plain map lights the same corner here
    assert "without the lit 6% the margin falls from 8.0 to" in str(certificate)


def test_the_reverse_question_has_the_reverse_margin(answer):
    assert answer.reverse().verify().before.tolist() == [-8.0, -8.0]


def test_what_cannot_be_verified(answer):
    with pytest.raises(FinerCAMError, match="share=0: expected a share"):
        answer.verify(share=0)
    unkept = FinerCAM(Corners(), "hirescam", layer="keep", keep_images=False)(answer.images)
    with pytest.raises(FinerCAMError, match="kept no images"):
        unkept.verify()


def test_the_panel_says_it_on_request(answer):
    def words(**options: bool) -> str:
        return " ".join(" ".join(text.get_text().split()) for text in answer.plot(**options).texts)

    assert "the margin falls from 8.0" in words(verify=True)
    assert "the margin falls" not in words()
