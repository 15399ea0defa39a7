"""Medical volumes as NIfTI files: read for a model, and maps written beside them on the scan's own grid."""

from __future__ import annotations

import gzip
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from finercam.core.maps import upsample
from finercam.errors import FinerCAMError
from finercam.io import one_line, write_whole

__all__ = ["Scan"]


@dataclass(frozen=True, eq=False)
class Scan:
    """A volume `(1, C, D, H, W)` with the affine of its voxels `(i, j, k)`; slices (D) go along k, rows along j.

    `size` is the scan's own (D, H, W), which maps are brought to when they are written, also after `resized`.
    """

    volume: Tensor
    affine: np.ndarray
    size: tuple[int, ...]

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Scan:
        """Read `.nii` or `.nii.gz`: three axes, or four with the modalities last. Needs nibabel.

        Raises FinerCAMError for a file that is no such volume.
        """
        nibabel = _nibabel()
        try:
            image = nibabel.load(path)
            values = np.asarray(image.get_fdata(dtype=np.float32))
        except (OSError, ValueError, EOFError, nibabel.filebasedimages.ImageFileError) as error:
            raise FinerCAMError(f"{path} cannot be read as a NIfTI volume: {one_line(error)}") from error
        if values.ndim not in (3, 4) or 0 in values.shape:
            raise FinerCAMError(f"{path} has axes {values.shape}: expected (i, j, k), or (i, j, k, modality)")
        volume = torch.from_numpy(np.ascontiguousarray(values.T))
        volume = volume[None, None] if values.ndim == 3 else volume[None]
        return cls(volume, np.array(image.affine), tuple(volume.shape[2:]))

    def resized(self, size: tuple[int, int, int]) -> Scan:
        """The same scan with its volume enlarged or reduced to (D, H, W), linearly, for a model of that size."""
        return replace(self, volume=F.interpolate(self.volume, size=size, mode="trilinear", align_corners=False))

    def write(self, maps: Any, path: str | os.PathLike[str]) -> Path:
        """Write a map as float32 NIfTI on the scan's own grid, with its affine, so that viewers lay one over the other.

        `maps` is an explanation of one volume (its `maps`, in [0, 1]), or a tensor `(D, H, W)` of any resolution.

        Raises FinerCAMError for maps of another rank or of several volumes, and for another ending.
        """
        values = torch.as_tensor(getattr(maps, "maps", maps)).detach().float().cpu()
        values = values[None] if values.ndim == 3 else values
        if values.ndim != 4 or len(values) != 1:
            raise FinerCAMError(f"maps of shape {tuple(values.shape)}: expected those of one volume, (D, H, W)")
        path = Path(path)
        if not path.name.endswith((".nii", ".nii.gz")):
            raise FinerCAMError(f"{path.name}: expected a name that ends in .nii or .nii.gz")
        image = _nibabel().Nifti1Image(np.ascontiguousarray(upsample(values, self.size)[0].numpy().T), self.affine)
        content = image.to_bytes()
        return write_whole(path, gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)


def _nibabel() -> Any:
    try:
        import nibabel
    except ImportError:
        raise FinerCAMError("NIfTI files need nibabel: pip install 'finercam[volumes]'") from None
    return nibabel
