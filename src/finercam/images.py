"""Reading pictures safely, and turning them (with boxes, masks and keypoints) into what a model takes."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from finercam.annotation import Annotation, clip_box
from finercam.errors import FinerCAMError, suggest
from finercam.io import one_line

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["ENDINGS", "FILTERS", "FORMATS", "MAX_PIXELS", "MODES", "Preprocess", "image_size", "read_image"]

MAX_PIXELS = 89_478_485
"""The most pixels `read_image` decodes: a quarter of a GiB of RGB, where Pillow itself begins to warn."""

MAX_BYTES = 1 << 30
"""The largest file that `read_image` opens: some of Pillow's decoders read all of it before they know its size."""

FORMATS = (
    *("JPEG", "MPO", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "HEIF"),
    *("PPM", "JPEG2000", "AVIF", "TGA", "ICO", "SGI", "PCX"),
)
"""Raster formats that are decoded in this process; EPS, WMF and the like start other programs and are refused."""

ENDINGS = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".avif"),
    *(".heic", ".heif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm", ".tga"),
}
"""Endings, in lower case, by which a file in a folder is taken for a picture."""

MODES = ("crop", "squash", "native")
FILTERS = ("bicubic", "bilinear", "nearest", "lanczos", "box", "hamming")
"""Names of Pillow's resampling filters."""

Source = str | os.PathLike[str] | BinaryIO | bytes

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def read_image(
    source: Source,
    *,
    background: tuple[int, int, int] = (255, 255, 255),
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
) -> Image.Image:
    """Decode one picture to RGB, whatever its format, mode or name.

    Transparency is composited on `background`; 16-bit grey is scaled by its full range (65535 is white); of an
    animation the first frame is taken; with `upright` the EXIF orientation is applied (leave it off where
    annotations were drawn on the pixels as stored). The content decides the format, not the file's ending. HEIC
    needs the package pillow-heif (`pip install 'finercam[heic]'`).

    Raises FinerCAMError, one line naming the file, for anything that does not give a whole picture.

    >>> read_image(b"no picture")
    Traceback (most recent call last):
    ...
    finercam.errors.FinerCAMError: 10 bytes given as a picture: no known picture format (JPEG, PNG, ...)
    """
    with _opened(source, max_pixels) as image:
        image.load()
        return _to_rgb(_upright(image) if upright else image, background)


def image_size(source: Source, *, upright: bool = True) -> tuple[int, int]:
    """`(width, height)` that `read_image` would give, from the header alone. Errors as in `read_image`."""
    from PIL.ExifTags import Base

    with _opened(source, MAX_PIXELS) as image:
        width, height = image.size
        try:
            on_its_side = upright and image.getexif().get(Base.Orientation) in (5, 6, 7, 8)
        except Exception:  # a broken tag does not make the picture unreadable
            on_its_side = False
        return (height, width) if on_its_side else (width, height)


@contextmanager
def _opened(source: Source, max_pixels: int) -> Iterator[Image.Image]:
    """A picture whose header was checked before any pixel is decoded; every failure becomes one line with its name."""
    name, file = _source(source)
    try:
        with _open(file) as image:
            if image.format not in FORMATS:
                raise FinerCAMError(f"{image.format} is not read here; save it as PNG or JPEG")
            if image.width * image.height > max_pixels:
                raise FinerCAMError(
                    f"{image.width}×{image.height} is more than the limit of {max_pixels:,} pixels; shrink it first"
                )
            yield image
    except FinerCAMError as error:
        raise FinerCAMError(f"{name}: {error}") from None
    except Exception as error:  # Pillow's plugins raise almost anything on broken data
        raise FinerCAMError(f"{name}: {_reason(error)}") from error


def _source(source: Source) -> tuple[str, Path | BinaryIO]:
    """A name for error messages, and what Pillow is to open."""
    if isinstance(source, bytes):
        return f"{len(source)} bytes given as a picture", BytesIO(source)
    if not isinstance(source, str | os.PathLike):
        return str(getattr(source, "name", "the given file object")), source
    path = Path(source)
    name = f"{str(path)!r}" if any(letter in str(path) for letter in "\n\r") else str(path)
    try:
        if path.is_dir():
            raise FinerCAMError(f"{name} is a directory; give one picture file")
        # stat, not exists(): it gives the reason for a loop of links or a forbidden folder
        size = path.stat().st_size
    except FileNotFoundError:
        raise FinerCAMError(f"{name} does not exist") from None
    except (OSError, ValueError) as error:
        raise FinerCAMError(f"{name}: {_reason(error)}") from error
    if not path.is_file():
        raise FinerCAMError(f"{name} is not a regular file; give one picture file")
    if size == 0:
        raise FinerCAMError(f"{name} is empty (0 bytes)")
    if size > MAX_BYTES:
        raise FinerCAMError(f"{name} has {size:,} bytes, more than the limit of {MAX_BYTES:,}; shrink it first")
    return name, path


def _open(file: Path | BinaryIO) -> Image.Image:
    """The picture by Pillow, or HEIC by pillow-heif, without registering a plugin for the whole process."""
    from PIL import Image, UnidentifiedImageError

    try:
        return Image.open(file)
    except UnidentifiedImageError:
        if not _is_heic(file):
            raise
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise FinerCAMError("is a HEIC picture, which needs pillow-heif: pip install 'finercam[heic]'") from None
    return HeifImageFile(file)


def _is_heic(file: Path | BinaryIO) -> bool:
    """Whether the first bytes are the file type box of a HEIF container that is not AVIF."""
    if isinstance(file, Path):
        with file.open("rb") as opened:
            start = opened.read(12)
    else:
        file.seek(0)
        start = file.read(12)
        file.seek(0)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS


def _reason(error: Exception) -> str:
    from PIL import Image, UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):
        return "no known picture format (JPEG, PNG, ...)"
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return f"more pixels than the limit of {MAX_PIXELS:,}; shrink it first"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    text = one_line(error)
    return f"broken picture: {text}"


def _upright(image: Image.Image) -> Image.Image:
    """The picture turned by its EXIF orientation; a tag that cannot be read does not make it unreadable."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        return image


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_eight_bits(image)).convert("RGB")
    if image.mode in ("LA", "PA", "La", "RGBA", "RGBa") or "transparency" in image.info:
        above = image.convert("RGBA")
        below = Image.new("RGBA", above.size, (*background, 255))
        return Image.alpha_composite(below, above).convert("RGB")
    # a fresh object in any case: the lazy file behind `image` is closed on return
    return image.convert("RGB") if image.mode != "RGB" else image.copy()


def _to_eight_bits(image: Image.Image) -> np.ndarray:
    """Grey in 16 bits, 32-bit integers or floats `(H, W)` to uint8 without clipping."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        if not (math.isfinite(low) and math.isfinite(high)) or low < 0 or high > 255:
            raise FinerCAMError(f"float grey from {low:g} to {high:g}; scale it to [0, 1] or [0, 255] first")
        scale = 255.0 if high <= 1 else 1.0
    else:
        if low < 0 or high > 65535:
            raise FinerCAMError(f"32-bit grey from {low:g} to {high:g}; scale it to 16 or 8 bits first")
        scale = 1 / 257  # 65535 / 255
    return np.rint(values.astype(np.float64) * scale).astype(np.uint8)


@dataclass(frozen=True)
class Preprocess:
    """From a PIL picture to a normalised tensor `(3, H, W)`, and the same geometry for its annotation.

    - `"crop"`: the picture is resized so that its short side is `size / crop_ratio`, and the centre is cut
      out (torchvision's Resize + CenterCrop, timm's evaluation transform; a ratio above 1 pads with black);
    - `"squash"`: both sides are resized to `size / crop_ratio` whatever the shape, and the centre is cut out;
    - `"native"`: the whole picture at its own shape, the longest side at most `max_side`, both sides then
      rounded *up* to a multiple of the patch size `multiple` (Finer-CAM's set-up); `size` must be None.

    `size` is `(H, W)` as for tensors; `image_size` arguments are `(width, height)` as PIL's `image.size`.
    Pixels are `(x / 255 − mean) / std` per channel. Resizing is Pillow's, with antialiasing.

    >>> from PIL import Image
    >>> prepare = Preprocess((224, 224), crop_ratio=0.875)
    >>> prepare(Image.new("RGB", (640, 480))).shape
    torch.Size([3, 224, 224])
    >>> prepare.crop_box((640, 480))  # what the tensor shows of the picture
    (108.85630498533725, 30.0, 529.266862170088, 450.0)
    >>> Preprocess(mode="native", multiple=14).tensor_size((3000, 2000))  # (H, W)
    (672, 1008)
    """

    size: tuple[int, int] | None = None
    mode: str = "crop"
    crop_ratio: float = 1.0
    interpolation: str = "bicubic"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    max_side: int = 1000
    multiple: int = 16

    def __post_init__(self) -> None:
        for name, kind in (("size", int), ("mean", float), ("std", float)):
            value = getattr(self, name)
            if value is not None:  # lists, as JSON gives them, become tuples so that equal settings are equal
                try:
                    object.__setattr__(self, name, tuple(kind(entry) for entry in value))
                except (TypeError, ValueError, OverflowError):
                    raise FinerCAMError(f"Preprocess: {name}={value!r:.200} is not numbers") from None
        self._validate()

    def _validate(self) -> None:
        def refuse(what: str) -> None:
            raise FinerCAMError(f"Preprocess: {what}")

        if self.mode not in MODES:
            refuse(f"mode={self.mode!r:.80} is not one of {', '.join(MODES)}.{suggest(str(self.mode), MODES)}")
        if self.mode == "native" and self.size is not None:
            refuse(f"mode='native' keeps each picture's shape; size={self.size!r:.200} must be None")
        if self.mode != "native" and (self.size is None or len(self.size) != 2 or min(self.size) < 1):
            refuse(f"mode={self.mode!r} needs size=(H, W) in pixels, not {self.size!r:.200}")
        if self.size is not None and self.size[0] * self.size[1] > MAX_PIXELS:
            refuse(f"size={self.size} is more than the limit of {MAX_PIXELS:,} pixels")
        if self.interpolation not in FILTERS:
            refuse(f"interpolation={self.interpolation!r:.80} is not one of {', '.join(FILTERS)}")
        if not 0.1 <= self.crop_ratio <= 2:
            refuse(f"crop_ratio={self.crop_ratio!r} is outside [0.1, 2]")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(0 < s < math.inf for s in self.std):
            refuse(f"mean={self.mean!r:.100} and std={self.std!r:.100} must be three numbers each, std above 0")
        if not all(map(math.isfinite, self.mean)):
            refuse(f"mean={self.mean} is not finite")
        for name in ("max_side", "multiple"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                refuse(f"{name}={value!r:.80} is not a whole number of pixels; it must be at least 1")

    def __call__(self, image: Image.Image) -> Tensor:
        """`(3, H, W)` float32, normalised. Raises FinerCAMError for a picture too narrow to be resized."""
        pixels = torch.from_numpy(np.array(self._transform(image.convert("RGB")))).movedim(-1, 0)
        unit = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
        return unit.sub_(self._column(self.mean)).div_(self._column(self.std))

    def inverse(self, tensor: Tensor) -> np.ndarray:
        """Undo the normalisation for display: `(..., 3, H, W)` to uint8 `(..., H, W, 3)`."""
        if tensor.ndim < 3 or tensor.shape[-3] != 3:
            raise FinerCAMError(f"inverse takes (..., 3, H, W), not {tuple(tensor.shape)}")
        unit = tensor.detach().float().cpu() * self._column(self.std) + self._column(self.mean)
        return unit.mul(255).round_().clamp_(0, 255).to(torch.uint8).movedim(-3, -1).numpy()

    def tensor_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """`(H, W)` of the tensor that a picture of `image_size` (width, height) becomes."""
        if self.size is not None:
            return self.size
        width, height = self._resized(image_size)
        return height, width

    def crop_box(self, image_size: tuple[int, int]) -> tuple[float, float, float, float]:
        """The part `(x0, y0, x1, y1)` of the picture that the tensor shows, in the picture's pixels.

        It reaches outside the picture where `crop_ratio` above 1 pads.
        """
        _, (left, top) = self._affine(image_size)
        height, width = self.tensor_size(image_size)
        # exact fractions: a side that is shown whole ends exactly at the picture's edge
        (wide, high), (resized_w, resized_h) = image_size, self._resized(image_size)
        return (
            left * wide / resized_w,
            top * high / resized_h,
            (left + width) * wide / resized_w,
            (top + height) * high / resized_h,
        )

    def annotation(self, annotation: Annotation, image_size: tuple[int, int]) -> Annotation:
        """The annotation in pixels of the tensor, with the same geometry as the picture.

        A box is clipped to the tensor and a keypoint outside it is dropped; a mask is resized like the picture
        and cut at one half, but a part too small for that keeps the pixels that it covers most. A part that the
        tensor does not show has no entry (`box` None).
        """
        (scale_x, scale_y), (left, top) = self._affine(image_size)
        height, width = self.tensor_size(image_size)
        box = None
        if annotation.box is not None:
            x0, y0, x1, y1 = annotation.box
            placed = (x0 * scale_x - left, y0 * scale_y - top, x1 * scale_x - left, y1 * scale_y - top)
            box = clip_box(placed, (width, height))
        masks = {part: self.mask(mask, image_size) for part, mask in annotation.masks.items()}
        points = annotation.keypoints.items()
        points = {part: (x * scale_x - left, y * scale_y - top) for part, (x, y) in points}
        return Annotation(
            box=box,
            masks={part: mask for part, mask in masks.items() if mask.any()},
            keypoints={part: (x, y) for part, (x, y) in points.items() if 0 <= x < width and 0 <= y < height},
        )

    def mask(self, mask: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
        """One boolean mask `(h, w)` of the picture as a boolean mask `(H, W)` of the tensor."""
        from PIL import Image

        if mask.shape != (image_size[1], image_size[0]):
            raise FinerCAMError(f"a mask (H, W) = {mask.shape} does not fit a picture (W, H) = {image_size}")
        covered = np.asarray(self._transform(Image.fromarray(mask.astype(np.uint8) * 255)))
        result = covered >= 128
        x0, y0, x1, y1 = (max(0, value) for value in self.crop_box(image_size))
        if not result.any() and mask[math.floor(y0) : math.ceil(y1), math.floor(x0) : math.ceil(x1)].any():
            result = (covered == covered.max()) & (covered > 0)
        return result

    def to_json(self) -> dict[str, Any]:
        """A plain dict for a model's `config.json`; `from_json` gives the same settings back."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, settings: Mapping[str, Any]) -> Preprocess:
        """Settings as `to_json` wrote them. Raises FinerCAMError for a key that is not known, or a bad value.

        >>> Preprocess.from_json({"size": [448, 448], "mode": "squash"}).size
        (448, 448)
        """
        known = [field.name for field in fields(cls)]
        for key in settings:
            if key not in known:
                raise FinerCAMError(
                    f"preprocessing has no setting {key!r:.80} (it has {', '.join(known)}).{suggest(key, known)}"
                )
        try:
            return cls(**settings)
        except TypeError as error:
            raise FinerCAMError(f"preprocessing settings {dict(settings)!r:.500}: {error}") from None

    # Geometry: a picture is resized to `_resized`, then `(left, top)` of that becomes the tensor's origin.

    def _resized(self, image_size: tuple[int, int]) -> tuple[int, int]:
        width, height = image_size
        if self.size is None:
            shrink = min(1.0, self.max_side / max(width, height))
            return self._patches(width * shrink), self._patches(height * shrink)
        target_h, target_w = (_whole(side / self.crop_ratio) for side in self.size)
        if self.mode == "squash":
            return target_w, target_h
        if target_h == target_w:  # torchvision's rule: the long side is rounded down
            short, long = min(image_size), max(image_size)
            other = int(target_h * long / short)
            return (target_h, other) if width <= height else (other, target_h)
        ratio = min(height / target_h, width / target_w)  # timm's rule for oblong targets: to the nearest
        return round(width / ratio), round(height / ratio)

    def _patches(self, side: float) -> int:
        # rounded first: 1000.0000000001 is not one patch more than 1000
        return math.ceil(round(side, 6) / self.multiple) * self.multiple

    def _affine(self, image_size: tuple[int, int]) -> tuple[tuple[float, float], tuple[int, int]]:
        """`(scale_x, scale_y)` and `(left, top)` with `x_tensor = x · scale_x − left`."""
        width, height = self._resized(image_size)
        scale = (width / image_size[0], height / image_size[1])
        if self.size is None:
            return scale, (0, 0)
        return scale, (_centred(width, self.size[1]), _centred(height, self.size[0]))

    def _transform(self, image: Image.Image) -> Image.Image:
        """Resize and cut one picture, or the picture of a mask."""
        from PIL import Image

        resized = self._resized(image.size)
        if resized[0] * resized[1] > MAX_PIXELS:
            raise FinerCAMError(
                f"a picture of {image.width}×{image.height} would become {resized[0]}×{resized[1]} before the"
                " crop; trim it, or use mode 'squash' or 'native'"
            )
        if resized != image.size:
            image = image.resize(resized, Image.Resampling[self.interpolation.upper()])
        height, width = self.size or (resized[1], resized[0])
        left, top = _centred(resized[0], width), _centred(resized[1], height)
        return image.crop((left, top, left + width, top + height))

    @staticmethod
    def _column(values: tuple[float, ...]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32)[:, None, None]


def _whole(length: float) -> int:
    # a ratio kept as a quotient must give its dividend back: 10 / (10 / 29) is 28.999999999999996
    return math.floor(length * (1 + 1e-9))


def _centred(length: int, window: int) -> int:
    """Where a window centred on `length` begins, below 0 where it is longer; torchvision's rounding."""
    return -((window - length) // 2) if window > length else round((length - window) / 2)
