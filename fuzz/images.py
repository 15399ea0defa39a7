"""Random bytes as a picture: an RGB picture of the size in its header, or a one-line error.

python -m fuzz.images --seconds 60
"""

from __future__ import annotations

from fuzz.rules import one_line

__all__ = ["LIMIT", "check"]

LIMIT = 1 << 18
"""Largest number of pixels, so that wrong headers cost little time."""


def check(data: bytes) -> None:
    """Read the data. Raises an error if the promise is broken."""
    from finercam.errors import FinerCAMError
    from finercam.images import Preprocess, image_size, read_image

    try:
        size = image_size(data)
    except FinerCAMError as error:
        one_line(error)
        size = None
    try:
        picture = read_image(data, max_pixels=LIMIT)
    except FinerCAMError as error:
        one_line(error)
        return
    assert picture.mode == "RGB" and min(picture.size) > 0, picture
    assert picture.width * picture.height <= LIMIT, picture.size
    assert size == picture.size, f"the header said {size}, the picture has {picture.size}"
    try:
        tensor = Preprocess((16, 24))(picture)
    except FinerCAMError as error:
        one_line(error)
        return
    assert tensor.shape == (3, 16, 24) and bool(tensor.isfinite().all())


if __name__ == "__main__":
    from fuzz import seeds
    from fuzz.runner import main

    main("images", check, seeds.pictures, ["PIL", "finercam"])
