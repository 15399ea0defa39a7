"""Volumes as figures and files: slices with the most evidence, arrays, NIfTI; what is for pictures is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from finercam import Explanation, FinerCAM, FinerCAMError, plot
from finercam.data.nifti import Scan
from finercam.view.slices import brightest, slices


class Scanner(nn.Module):
    """Class k lights the k-th quarter of the slices."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x).mean((3, 4)).unflatten(2, (4, -1)).mean((1, 3))


@pytest.fixture(scope="module")
def scanner(toys) -> nn.Module:
    return toys.seeded(Scanner())


@pytest.fixture(scope="module")
def answer(scanner) -> Explanation:
    volumes = torch.rand(2, 1, 8, 12, 10, generator=torch.Generator().manual_seed(0))
    explain = FinerCAM(scanner, "hirescam", layer="features", gamma=0.6, class_names=["head", "chest", "hip", "knee"])
    return explain(volumes, ["chest", "knee"], [["hip"], ["head"]])


def test_a_row_for_each_of_the_slices_with_most_evidence(answer):
    assert brightest(answer.maps[0], 2) == [2, 3]
    assert brightest(answer.maps[1], 2) == [6, 7]
    figure = slices(answer[0], count=2)
    words = [text.get_text() for text in figure.texts]
    assert "Slice 2 of 8" in words
    assert "Slice 3 of 8" in words
    assert "rather than hip" in " ".join(words)
    assert len([axes for axes in figure.axes if axes.images[0].get_array().shape[:2] == (12, 10)]) == 2 * 4


def test_a_blank_map_says_that_nothing_speaks_for_the_target(scanner):
    blank = FinerCAM(scanner, "hirescam", layer="features", gamma=0.6)(torch.zeros(1, 1, 8, 12, 10) - 9, 0, 1)
    assert ("nothing speaks for" in " ".join(text.get_text() for text in slices(blank, count=1).texts)) == (
        not bool(blank.maps.any())
    )
    empty = replace(blank, signed=-blank.signed.abs())
    assert "nothing speaks for class 0" in " ".join(text.get_text() for text in slices(empty, count=1).texts)


@pytest.mark.slow
def test_plot_and_panel_of_volumes_are_slices(answer):
    words = [text.get_text() for text in answer.plot().texts]
    assert sum(word.startswith("Slice") for word in words) == 8
    given = answer.plot(np.zeros((2, 8, 12, 10)))
    assert len(given.axes) == len(answer.plot().axes)
    with pytest.raises(FinerCAMError, match=r"maps of shape \(2, 8, 12, 10\)"):
        answer.plot(np.zeros((8, 12, 10)))
    with pytest.raises(FinerCAMError, match="leave example= out"):
        plot.panel(answer, example=Image.new("RGB", (4, 4)))


@pytest.mark.slow
def test_a_folder_holds_the_whole_maps(answer, tmp_path):
    index = json.loads(answer.save(tmp_path, names=["a", "b"]).read_text(encoding="utf-8"))
    assert index["explanations"][0]["map_size"] == [8, 12, 10]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as kept:
        assert kept["map"].shape == (8, 12, 10)
        np.testing.assert_allclose(kept["signed"], answer.signed[0].numpy(), rtol=1e-6)
    assert Image.open(tmp_path / "a.png").size[0] > 500


@pytest.mark.parametrize(
    "ask",
    [
        lambda a, out: a.save(out / "x.html"),
        lambda a, out: plot.gamma_strip(a),
        lambda a, out: plot.pair(a[0]),
        lambda a, out: plot.reference_grid(a[0]),
    ],
)
def test_what_shows_pictures_refuses_volumes(ask, answer, tmp_path):
    with pytest.raises(FinerCAMError, match=r"the explanation is of volumes: take answer.plot\(\) for slices"):
        ask(answer, tmp_path)


def test_certificates_and_slices_of_pictures_are_refused(answer, toys, pictures):
    with pytest.raises(FinerCAMError, match="these are volumes"):
        answer.verify()
    with pytest.raises(FinerCAMError, match="these are pictures"):
        slices(FinerCAM(toys.cnn())(pictures(1)))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_a_scan_is_read_and_a_map_lies_over_it(scanner, tmp_path, ending):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).random((10, 12, 8)).astype(np.float32)  # (i, j, k)
    affine = np.diag([0.9, 0.9, 3.0, 1.0])
    affine[:3, 3] = (-10, 4, 7)
    nibabel.Nifti1Image(values, affine).to_filename(tmp_path / f"scan{ending}")
    scan = Scan.read(tmp_path / f"scan{ending}")
    assert scan.volume.shape == (1, 1, 8, 12, 10)
    assert float(scan.volume[0, 0, 5, 3, 2]) == float(values[2, 3, 5])
    answer = FinerCAM(scanner, "hirescam", layer="features", gamma=0.6)(scan.resized((4, 12, 10)).volume, 1, 2)
    back = nibabel.load(scan.write(answer, tmp_path / f"map{ending}"))
    assert back.shape == (10, 12, 8)
    np.testing.assert_array_equal(back.affine, scan.affine)
    np.testing.assert_allclose(back.affine, affine, rtol=1e-6)
    written = Scan.read(tmp_path / f"map{ending}").volume[0, 0]
    assert 0.5 < float(written.max()) <= 1
    np.testing.assert_allclose(back.get_fdata().T, written.numpy())
    own = FinerCAM(scanner, "hirescam", layer="features", gamma=0.6)(scan.volume, 1, 2)
    scan.write(own.signed_maps[0], tmp_path / f"signed{ending}")
    np.testing.assert_allclose(
        Scan.read(tmp_path / f"signed{ending}").volume[0, 0].numpy(), own.signed_maps[0].numpy(), atol=1e-6
    )


def test_modalities_are_channels_and_other_files_are_refused(answer, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    for name, shape in (("four.nii", (3, 4, 5, 2)), ("flat.nii", (3, 4))):
        nibabel.Nifti1Image(np.zeros(shape, np.float32), np.eye(4)).to_filename(tmp_path / name)
    assert Scan.read(tmp_path / "four.nii").volume.shape == (1, 2, 5, 4, 3)
    with pytest.raises(FinerCAMError, match="expected \\(i, j, k\\)"):
        Scan.read(tmp_path / "flat.nii")
    (tmp_path / "text.nii").write_text("no volume")
    for wrong in ("text.nii", "missing.nii"):
        with pytest.raises(FinerCAMError, match="cannot be read as a NIfTI volume"):
            Scan.read(tmp_path / wrong)
    scan = Scan.read(tmp_path / "four.nii")
    with pytest.raises(FinerCAMError, match="expected those of one volume"):
        scan.write(answer, tmp_path / "map.nii")
    with pytest.raises(FinerCAMError, match=r"ends in .nii or .nii.gz"):
        scan.write(answer[0], tmp_path / "map.png")
