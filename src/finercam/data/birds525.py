"""Birds-525: 525 species at 224×224 pixels, by class folders, without boxes."""

from __future__ import annotations

import os

from finercam.data.files import pick
from finercam.data.folder import ImageFolder

__all__ = ["Birds525"]


class Birds525(ImageFolder):
    """`{train,valid,test}/<UPPERCASE NAME>/`: 84,635, 2,625 and 2,625 pictures; `val` is another word for `valid`.

    Class names are as published, save that runs of blanks become one ("PARAKETT  AUKLET" is spelt with one blank
    in one split and two in another); the folder names of `train` give the order.
    """

    def __init__(self, root: str | os.PathLike[str], split: str = "test") -> None:
        super().__init__(root, pick("split", split, ("train", "valid", "val", "test")))
        self.name = f"Birds-525 {split}"
