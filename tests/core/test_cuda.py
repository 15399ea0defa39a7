"""On a GPU: the same answers as on the CPU, by hooks, by recorded tails and compiled."""

from __future__ import annotations

import pytest
import torch

from finercam import FinerCAM

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine"),
]


@pytest.mark.parametrize("kind", ["cnn", "gap", "vit"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_gives_the_answers_of_the_cpu(toys, pictures, kind, compiled):
    model, images = getattr(toys, kind)(), pictures(3)
    expected = FinerCAM(model, "hirescam", compile=False)(images, [0, 1, 2], [[1], [2], [3]])
    own = FinerCAM(model.cuda(), "hirescam", compile=compiled)
    answer = own(images.cuda(), [0, 1, 2], [[1], [2], [3]])
    assert answer.signed.is_cuda
    size = float(expected.signed.abs().max())
    torch.testing.assert_close(answer.signed.cpu(), expected.signed, rtol=1e-3, atol=1e-3 * size)
    asked, other = answer.ask(gamma=0.2), expected.ask(gamma=0.2)
    torch.testing.assert_close(asked.signed.cpu(), other.signed, rtol=1e-3, atol=1e-3 * size)


def test_half_precision_on_a_gpu(toys, pictures):
    model, images = toys.vit().cuda(), pictures(2).cuda()
    expected = FinerCAM(model, "hirescam")(images, 0, 1).signed
    half = FinerCAM(model.bfloat16(), "hirescam")(images.bfloat16(), 0, 1).signed
    assert float((half - expected).abs().max()) < 0.1 * float(expected.abs().max())
