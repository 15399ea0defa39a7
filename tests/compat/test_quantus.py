"""`quantus_explain` within the real Quantus."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from finercam import FinerCAM, FinerCAMError
from finercam.compat.quantus import quantus_explain

SETTINGS = {"method": "gradcam", "layer": "stage2", "gamma": 0.6}


def test_maps_are_the_signed_ones(toys, pictures):
    images, model = pictures(2), toys.cnn()
    found = quantus_explain(model, images.numpy(), np.array([0, 3]), against=[[1], [4]], **SETTINGS)
    answer = FinerCAM(model, "gradcam", layer="stage2")(images, [0, 3], [[1], [4]])
    np.testing.assert_allclose(found[:, 0], answer.signed_maps.numpy(), atol=1e-6)
    rectified = quantus_explain(model, images.numpy(), np.array([0, 3]), rectified=True, **SETTINGS)
    assert rectified.min() == 0
    with pytest.raises(FinerCAMError, match="expected a PyTorch model"):
        quantus_explain(lambda x: x, images.numpy(), np.array([0, 3]))


@pytest.mark.peers
def test_metrics_of_quantus_run(toys, pictures):
    quantus = pytest.importorskip("quantus")
    model, images = toys.cnn(), pictures(3).numpy()
    with torch.no_grad():
        labels = model(torch.as_tensor(images)).argmax(1).numpy()
    shared = {"disable_warnings": True, "display_progressbar": False}
    given = {"explain_func": quantus_explain, "explain_func_kwargs": SETTINGS, "device": "cpu"}
    flipping = quantus.PixelFlipping(features_in_step=64, perturb_baseline="black", **shared)
    assert np.isfinite(flipping(model, images, labels, **given)).all()
    steady = quantus.MaxSensitivity(nr_samples=2, **shared)
    assert np.isfinite(steady(model, images, labels, **given)).all()
