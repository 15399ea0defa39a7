"""What the photos of one class show of the questions that separate it from its rivals: lit regions and their numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from finercam.errors import FinerCAMError
from finercam.io import one_line, write_whole

__all__ = ["ClassSights", "Sights", "read_sights", "sights_fingerprint"]

_COLUMNS = ("photo", "place", "sign", "share", "features", "drop", "control", "named")


@dataclass(frozen=True)
class Sights:
    """The R lit regions in the photos of a class, for one rival.

    `photo (R,)` is the index of each region's photo, `place (R, 2)` its peak as x and y in shares of the model's input,
    and `sign (R,)` is 1 where it speaks for the class and -1 where it speaks for the rival. `share (R,)` is its part of
    all evidence of the photo, in (0, 1], `features (R, D)` its unit features. `drop (R,)` says how far the margin
    falls without its pixels, `control (R,)` the same without as many pixels elsewhere; both are NaN where this was not
    measured. `named (R, P)` says how well each of the P names fits, 0 where nothing is known.
    """

    photo: Tensor
    place: Tensor
    sign: Tensor
    share: Tensor
    features: Tensor
    drop: Tensor
    control: Tensor
    named: Tensor

    def __len__(self) -> int:
        return len(self.share)


@dataclass(frozen=True)
class ClassSights:
    """What the N photos of a class show: `of[rival]`, the logits' `margin[rival] (N,)`, and the photos themselves.

    `grids (S, D, g, g)` are the features of the first S photos on a coarse grid. `names` are those of the columns of
    `Sights.named`, and `named_by` says where they are from. `problems` are the photos that were left out, with the
    reason.
    """

    target: int
    positions: list[int]
    paths: list[str]
    grids: Tensor
    margin: Mapping[int, Tensor]
    of: Mapping[int, Sights]
    names: list[str] = field(default_factory=list)
    named_by: str = ""
    problems: list[tuple[str, str]] = field(default_factory=list)
    layers: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    def to_bytes(self, fingerprint: str) -> bytes:
        """A safetensors file; half precision for features."""
        tensors = {"grids": self.grids.half().contiguous()}
        for rival, sights in self.of.items():
            tensors[f"{rival}.margin"] = self.margin[rival]
            for name in _COLUMNS:
                value = getattr(sights, name)
                tensors[f"{rival}.{name}"] = (value.half() if name == "features" else value).contiguous()
        plain = ("target", "positions", "paths", "names", "named_by", "problems", "layers")
        about: dict[str, Any] = {name: getattr(self, name) for name in plain}
        about |= {"fingerprint": fingerprint, "rivals": list(self.of)}
        return save(tensors, {"finercam": json.dumps(about)})

    def write(self, file: Path, fingerprint: str) -> None:
        write_whole(file, self.to_bytes(fingerprint), sync=True)


def read_sights(file: Path) -> ClassSights:
    """What `ClassSights.write` wrote. Raises FinerCAMError for a file that is not one."""
    try:
        with safe_open(file, "pt") as opened:
            about = json.loads((opened.metadata() or {})["finercam"])
            found = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        of = {
            rival: Sights(**{name: _wide(found[f"{rival}.{name}"]) for name in _COLUMNS}) for rival in about["rivals"]
        }
        return ClassSights(
            about["target"],
            about["positions"],
            about["paths"],
            found["grids"].float(),
            {rival: found[f"{rival}.margin"] for rival in about["rivals"]},
            of,
            about["names"],
            about["named_by"],
            [(path, why) for path, why in about["problems"]],
            about["layers"],
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise FinerCAMError(f"{file} cannot be read: {one_line(error)}") from error


def sights_fingerprint(file: Path) -> str | None:
    """What a file was made of; None where there is none, or where it is damaged."""
    try:
        with safe_open(file, "pt") as opened:
            return str(json.loads((opened.metadata() or {})["finercam"])["fingerprint"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.float16 else values
