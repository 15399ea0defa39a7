"""Pictures of every kind and fault, and preprocessing against torchvision and timm."""

import os
import stat
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from finercam.data.sample import Annotation
from finercam.errors import FinerCAMError
from finercam.images import FILTERS, MAX_PIXELS, Preprocess, image_size, read_image


def noise(width, height, seed=0, channels=3):
    values = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(values if channels > 1 else values[..., 0])


def pixel(image, x=0, y=0):
    assert image.mode == "RGB"
    return image.getpixel((x, y))


def refused(source, *words, **options):
    """The error is one line and contains every word."""
    with pytest.raises(FinerCAMError) as caught:
        read_image(source, **options)
    text = str(caught.value)
    assert "\n" not in text
    for word in words:
        assert str(word) in text, text
    return text


# --- read_image: what gives a picture --------------------------------------------------------------


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path, mode):
    grey = np.array([[0, 257, 32768, 65535, 300]])
    image = Image.fromarray(grey.astype(np.uint16)) if mode != "I" else Image.fromarray(grey.astype(np.int32))
    path = tmp_path / ("a.png" if mode == "I;16" else "a.tif")
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (5, 1), grey.astype(">u2").tobytes())
    image.save(path)
    got = np.asarray(read_image(path))
    assert got[0, :, 0].tolist() == [0, 1, 128, 255, 1]
    assert (got[..., 0] == got[..., 1]).all() and (got[..., 0] == got[..., 2]).all()


def test_float_grey(tmp_path):
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "unit.tif")
    Image.fromarray(np.array([[0.0, 99.6, 255.0]], np.float32)).save(tmp_path / "bytes.tif")
    Image.fromarray(np.array([[0.0, np.nan, 1.0]], np.float32)).save(tmp_path / "nan.tif")
    Image.fromarray(np.array([[70000, 2, -3]], np.int32)).save(tmp_path / "wide.tif")
    assert np.asarray(read_image(tmp_path / "unit.tif"))[0, :, 0].tolist() == [0, 128, 255]
    assert np.asarray(read_image(tmp_path / "bytes.tif"))[0, :, 0].tolist() == [0, 100, 255]
    refused(tmp_path / "nan.tif", "nan.tif", "float grey")
    refused(tmp_path / "wide.tif", "wide.tif", "32-bit grey", 70000)


def test_transparency_is_composited_on_the_stated_colour(tmp_path):
    rgba = Image.new("RGBA", (2, 1), (200, 0, 0, 0))
    rgba.putpixel((1, 0), (200, 0, 0, 255))
    rgba.save(tmp_path / "rgba.png")
    assert pixel(read_image(tmp_path / "rgba.png"), 0) == (255, 255, 255)
    assert pixel(read_image(tmp_path / "rgba.png"), 1) == (200, 0, 0)
    assert pixel(read_image(tmp_path / "rgba.png", background=(1, 2, 3)), 0) == (1, 2, 3)
    Image.new("LA", (1, 1), (100, 0)).save(tmp_path / "la.png")
    assert pixel(read_image(tmp_path / "la.png", background=(9, 9, 9))) == (9, 9, 9)
    Image.new("RGBA", (1, 1), (0, 0, 0, 51)).save(tmp_path / "fifth.png")
    assert pixel(read_image(tmp_path / "fifth.png")) == (204, 204, 204)


def test_palette_with_and_without_transparency(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=0)
    assert pixel(read_image(tmp_path / "plain.png"), 0) == (10, 20, 30)
    assert pixel(read_image(tmp_path / "plain.png"), 1) == (40, 50, 60)
    assert pixel(read_image(tmp_path / "clear.png"), 0) == (255, 255, 255)
    assert pixel(read_image(tmp_path / "clear.png"), 1) == (40, 50, 60)


def test_rgb_with_a_transparent_colour(tmp_path):
    Image.new("RGB", (1, 1), (7, 8, 9)).save(tmp_path / "key.png", transparency=(7, 8, 9))
    assert pixel(read_image(tmp_path / "key.png", background=(0, 0, 255))) == (0, 0, 255)


def test_one_bit_grey_and_cmyk(tmp_path):
    Image.new("1", (1, 1), 1).save(tmp_path / "one.png")
    Image.new("L", (1, 1), 77).save(tmp_path / "grey.png")
    Image.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "cmyk.jpg", quality=100)
    assert pixel(read_image(tmp_path / "one.png")) == (255, 255, 255)
    assert pixel(read_image(tmp_path / "grey.png")) == (77, 77, 77)
    red, green, blue = pixel(read_image(tmp_path / "cmyk.jpg"), 8, 8)
    assert red < 20 and green > 235 and blue > 235  # full cyan ink


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = noise(3, 2)
    image.save(tmp_path / "o.png", exif=exif)
    turned = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 3),
        7: lambda a: np.rot90(a.transpose(1, 0, 2), 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation](np.asarray(image))
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "o.png")), turned)
    for upright in (True, False):
        size = read_image(tmp_path / "o.png", upright=upright).size
        assert image_size(tmp_path / "o.png", upright=upright) == size
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "o.png", upright=False)), np.asarray(image))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\xff\xff", b"Exif\0\0"])
def test_broken_exif_does_not_make_a_picture_unreadable(tmp_path, exif):
    noise(6, 4).save(tmp_path / "a.jpg", exif=exif)
    assert read_image(tmp_path / "a.jpg").size == image_size(tmp_path / "a.jpg") == (6, 4)


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in [(250, 0, 0), (0, 250, 0)]]
    for name in ("a.gif", "a.webp", "a.png", "a.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert pixel(read_image(tmp_path / name)) == (250, 0, 0), name


def test_the_content_decides_not_the_name(tmp_path):
    noise(5, 4).save(tmp_path / "is_png.jpg", format="PNG")
    np.testing.assert_array_equal(np.asarray(read_image(tmp_path / "is_png.jpg")), np.asarray(noise(5, 4)))
    assert image_size(tmp_path / "is_png.jpg") == (5, 4)


def test_bytes_and_file_objects(tmp_path):
    noise(5, 4).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    with (tmp_path / "a.png").open("rb") as stream:
        assert read_image(stream).tobytes() == read_image(data).tobytes() == noise(5, 4).tobytes()


# --- read_image: what does not ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.gif", "a.bmp", "a.webp", "a.tif"])
def test_truncated_files(tmp_path, name):
    noise(64, 64).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    for share in (0.02, 0.5, 0.9):
        (tmp_path / name).write_bytes(data[: int(len(data) * share)])
        refused(tmp_path / name, tmp_path / name)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_corrupt_bytes_give_a_picture_or_one_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "corrupt"
    noise(16, 16).save(path, format=data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP"])))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert read_image(path).mode == "RGB"
    except FinerCAMError as error:
        assert "\n" not in str(error) and str(path) in str(error)


def test_not_a_picture(tmp_path):
    (tmp_path / "zero.jpg").touch()
    (tmp_path / "text.jpg").write_text("hello\n" * 30)
    refused(tmp_path / "zero.jpg", "zero.jpg", "empty")
    refused(tmp_path / "text.jpg", "text.jpg", "no known picture format")
    refused(tmp_path, tmp_path, "directory")
    refused(tmp_path / "none.jpg", "none.jpg", "does not exist")
    refused(tmp_path / "text.jpg" / "under.jpg", "under.jpg")
    refused("nul\0byte.jpg", "nul")
    refused(b"")


def test_unreadable_links_and_pipes(tmp_path):
    noise(4, 4).save(tmp_path / "mine.png")
    (tmp_path / "mine.png").chmod(0)
    if os.geteuid() != 0:  # root reads everything
        refused(tmp_path / "mine.png", "mine.png", "ermission")
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    refused(tmp_path / "a", tmp_path / "a", "links")
    os.mkfifo(tmp_path / "pipe.png")
    assert stat.S_ISFIFO((tmp_path / "pipe.png").stat().st_mode)
    refused(tmp_path / "pipe.png", "not a regular file")  # and does not wait for a writer


def test_permission_error_is_one_line(tmp_path, monkeypatch):
    noise(4, 4).save(tmp_path / "mine.png")

    def forbidden(*_args, **_options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", forbidden)
    refused(tmp_path / "mine.png", "mine.png", "Permission denied")


def _png_header_only(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 10))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_470, 12_000, 60_000])  # over our limit, Pillow's warning, Pillow's error
def test_decompression_bomb(tmp_path, side):
    (tmp_path / "bomb.png").write_bytes(_png_header_only(side, side))
    assert side**2 > MAX_PIXELS
    refused(tmp_path / "bomb.png", "bomb.png", "limit", f"{MAX_PIXELS:,}")
    with pytest.raises(FinerCAMError, match="limit"):
        image_size(tmp_path / "bomb.png")


def test_pixel_limit_can_be_lowered(tmp_path):
    noise(10, 11).save(tmp_path / "a.png")
    refused(tmp_path / "a.png", "10×11", "109", max_pixels=109)
    assert read_image(tmp_path / "a.png", max_pixels=110).size == (10, 11)


def test_formats_that_start_other_programs_are_refused(tmp_path):
    noise(4, 4).save(tmp_path / "a.eps")
    refused(tmp_path / "a.eps", "EPS")


# --- Preprocess: the same numbers as the peers -----------------------------------------------------

SIZES = [(640, 480), (333, 500), (224, 224), (100, 57), (1, 30)]
MEAN, STD = (0.48, 0.46, 0.41), (0.27, 0.26, 0.28)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("name", FILTERS)
@pytest.mark.parametrize("resize, crop", [(256, 224), (232, 224), (224, 224), (29, 10)])
def test_crop_equals_torchvision(image_size, name, resize, crop):
    from torchvision import transforms as T

    mode = T.InterpolationMode(name)
    image = noise(*image_size)
    peer = T.Compose([T.Resize(resize, mode), T.CenterCrop(crop), T.ToTensor(), T.Normalize(MEAN, STD)])
    ours = Preprocess((crop, crop), crop_ratio=crop / resize, interpolation=name, mean=MEAN, std=STD)
    torch.testing.assert_close(ours(image), peer(image), atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("image_size", SIZES)
@pytest.mark.parametrize("size", [(224, 224), (160, 256), (37, 30)])
@pytest.mark.parametrize("crop_mode", ["center", "squash"])
@pytest.mark.parametrize("ratio", [0.875, 1.0, 1.15])
def test_equals_timm(image_size, size, crop_mode, ratio):
    if crop_mode == "center" and max(image_size) / min(image_size) > 20 and size[0] != size[1]:
        pytest.skip("timm itself rounds a side to 0 px here")
    from timm.data.transforms_factory import transforms_imagenet_eval

    image = noise(*image_size)
    peer = transforms_imagenet_eval(size, ratio, crop_mode, interpolation="bicubic", mean=MEAN, std=STD)
    mode = "crop" if crop_mode == "center" else "squash"
    ours = Preprocess(size, mode, crop_ratio=ratio, mean=MEAN, std=STD)
    torch.testing.assert_close(ours(image), peer(image), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_equals_create_transform_of_a_timm_configuration():
    import timm.data

    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.get_pretrained_cfg("convnext_tiny").to_dict())
    image = noise(300, 411)
    ours = Preprocess(
        tuple(config["input_size"][1:]),
        crop_ratio=config["crop_pct"],
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )
    torch.testing.assert_close(ours(image), timm.data.create_transform(**config)(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "image_size, multiple, expected",  # (width, height) -> (H, W)
    [
        ((3000, 2000), 14, (672, 1008)),  # 1000 × 666.67, rounded up
        ((2000, 3000), 16, (1008, 672)),
        ((1000, 500), 16, (512, 1008)),
        ((640, 480), 16, (480, 640)),
        ((641, 479), 16, (480, 656)),
        ((14, 14), 14, (14, 14)),
        ((1, 5000), 14, (1008, 14)),
    ],
)
def test_native_size(image_size, multiple, expected):
    prepare = Preprocess(mode="native", multiple=multiple, max_side=1000)
    assert prepare.tensor_size(image_size) == expected
    assert prepare(Image.new("RGB", image_size)).shape == (3, *expected)
    assert prepare.crop_box(image_size) == (0, 0, *image_size)


def test_a_narrow_picture_does_not_fill_the_memory():
    with pytest.raises(FinerCAMError, match="30000×1 would become"):
        Preprocess((224, 224))(Image.new("RGB", (30_000, 1)))


@pytest.mark.parametrize("prepare", [Preprocess((8, 8)), Preprocess(mode="native", multiple=4)])
def test_inverse_gives_the_picture_back(prepare):
    image = noise(8, 8)
    np.testing.assert_array_equal(prepare.inverse(prepare(image)), np.asarray(image))
    batch = torch.stack([prepare(image)] * 2)
    assert prepare.inverse(batch).shape == (2, 8, 8, 3)
    with pytest.raises(FinerCAMError, match=r"\(4, 8, 8\)"):
        prepare.inverse(torch.zeros(4, 8, 8))


def test_json_round_trip():
    prepare = Preprocess((224, 160), "squash", 0.9, "bilinear", MEAN, STD)
    import json

    assert Preprocess.from_json(json.loads(json.dumps(prepare.to_json()))) == prepare
    native = Preprocess(mode="native", multiple=14)
    assert Preprocess.from_json(native.to_json()) == native


@pytest.mark.parametrize(
    "settings_, words",
    [
        ({"size": [224, 224], "crop_ration": 1}, "crop_ratio"),
        ({"size": [224, 224], "mode": "crip"}, "Did you mean 'crop'"),
        ({"size": None, "mode": "crop"}, "size"),
        ({"size": [224], "mode": "crop"}, "size"),
        ({"size": "big"}, "size"),
        ({"size": [224, 224], "mode": "native"}, "native"),
        ({"size": [224, 224], "std": [0, 1, 1]}, "std"),
        ({"size": [224, 224], "mean": [0.5]}, "mean"),
        ({"size": [224, 224], "interpolation": "cubic"}, "lanczos"),
        ({"size": [224, 224], "crop_ratio": 0}, "crop_ratio"),
        ({"size": [224, 224], "crop_ratio": "x"}, "crop_ratio"),
    ],
)
def test_bad_settings(settings_, words):
    with pytest.raises(FinerCAMError, match=words) as caught:
        Preprocess.from_json(settings_)
    assert "\n" not in str(caught.value)


# --- Preprocess: annotations follow the picture ----------------------------------------------------

preprocesses = st.one_of(
    st.builds(
        Preprocess,
        st.tuples(st.integers(8, 40), st.integers(8, 40)),
        st.sampled_from(["crop", "squash"]),
        st.sampled_from([0.875, 1.0, 0.7, 1.15]),
        st.sampled_from(["bicubic", "bilinear"]),
    ),
    st.builds(Preprocess, mode=st.just("native"), max_side=st.integers(10, 60), multiple=st.sampled_from([4, 7])),
)


@st.composite
def scenes(draw):
    """A picture size and a rectangle in it, as a box with whole-number corners."""
    width, height = draw(st.integers(12, 90)), draw(st.integers(12, 90))
    x0, y0 = draw(st.integers(0, width - 4)), draw(st.integers(0, height - 4))
    x1, y1 = draw(st.integers(x0 + 3, width)), draw(st.integers(y0 + 3, height))
    return (width, height), (x0, y0, x1, y1)


def drawn(size, box):
    mask = np.zeros((size[1], size[0]), bool)
    mask[box[1] : box[3], box[0] : box[2]] = True
    return mask


@settings(max_examples=60, deadline=None)
@given(preprocesses, scenes())
def test_a_mask_undergoes_what_the_picture_undergoes(prepare, scene):
    size, box = scene
    mask = drawn(size, box)
    picture = Image.fromarray(np.repeat(mask[..., None] * np.uint8(255), 3, axis=2))
    shown = prepare.inverse(prepare(picture))[..., 0]
    found = prepare.annotation(Annotation(masks={"bill": mask}), size).masks
    if (shown >= 128).any():
        np.testing.assert_array_equal(found["bill"], shown >= 128)
    elif "bill" in found:  # kept although small: only where it is covered most
        assert (shown[found["bill"]] == shown.max()).all() and shown.max() > 0


@settings(max_examples=60, deadline=None)
@given(preprocesses, scenes())
def test_boxes_and_keypoints_stay_on_their_object(prepare, scene):
    size, box = scene
    x0, y0, x1, y1 = box
    centre = ((x0 + x1) / 2, (y0 + y1) / 2)
    found = prepare.annotation(Annotation(tuple(map(float, box)), {"wing": drawn(size, box)}, {"wing": centre}), size)
    height, width = prepare.tensor_size(size)
    if found.box is None:
        assert not found.keypoints
        return
    left, top, right, bottom = found.box
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    if "wing" in found.keypoints:
        x, y = found.keypoints["wing"]
        assert left <= x <= right and top <= y <= bottom
        whole = left > 0 and right < width and top > 0 and bottom < height
        if whole and min(right - left, bottom - top) >= 3:
            assert found.masks["wing"][int(y), int(x)]
    if "wing" in found.masks:  # it lies in the box, up to the half pixel that thresholding moves its edge
        rows, columns = np.nonzero(found.masks["wing"])
        assert columns.min() >= left - 1 and columns.max() < right + 1
        assert rows.min() >= top - 1 and rows.max() < bottom + 1


@settings(max_examples=40, deadline=None)
@given(preprocesses, st.tuples(st.integers(12, 90), st.integers(12, 90)))
def test_crop_box_is_what_is_shown(prepare, size):
    """A keypoint at a corner of the crop box lies at that corner of the tensor; the box itself fills it."""
    x0, y0, x1, y1 = prepare.crop_box(size)
    height, width = prepare.tensor_size(size)
    filled = prepare.annotation(Annotation(box=(x0, y0, x1, y1)), size).box
    np.testing.assert_allclose(filled, (0, 0, width, height), atol=1e-6)
    inside = prepare.annotation(Annotation(keypoints={"a": (x0 + 1e-6, y0 + 1e-6), "b": (x1 + 1, y1 + 1)}), size)
    assert set(inside.keypoints) == {"a"}


def test_a_part_too_small_for_the_threshold_does_not_vanish():
    mask = np.zeros((1000, 1000), bool)
    mask[500:502, 500:502] = True  # 4 of the 25×25 px that one pixel covers
    found = Preprocess((40, 40)).mask(mask, (1000, 1000))
    assert found[20, 20] and found.sum() <= 4
    outside = np.zeros((100, 200), bool)
    outside[:, :3] = True  # cut off by the crop
    assert "eye" not in Preprocess((40, 40)).annotation(Annotation(masks={"eye": outside}), (200, 100)).masks


def test_mask_of_another_size():
    with pytest.raises(FinerCAMError, match=r"\(5, 6\)"):
        Preprocess((8, 8)).mask(np.zeros((5, 6), bool), (5, 6))


@pytest.mark.slow
def test_import_is_light():
    import subprocess
    import sys

    heavy = "{'torchvision', 'timm', 'scipy', 'matplotlib', 'pyarrow', 'PIL.Image'}"
    code = f"import sys, finercam.images, finercam.data; print({heavy} & set(sys.modules)); "
    code += (
        "import torch; from finercam import FinerCAM; nn = torch.nn; pooled = nn.AdaptiveAvgPool2d(1), nn.Flatten(); "
    )
    code += "FinerCAM(nn.Sequential(nn.Conv2d(3, 4, 3), *pooled, nn.Linear(4, 2)))(torch.rand(1, 3, 8, 8)); "
    code += "print('torch._dynamo' in sys.modules)"  # the compiler takes seconds to import
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["set()", "False"]


# --- HEIC, as phones write it ----------------------------------------------------------------------


@pytest.fixture
def heic(tmp_path):
    """A HEIC file of 30×20 pixels, red on the left, that a phone turned by a quarter (EXIF orientation 6)."""
    pillow_heif = pytest.importorskip("pillow_heif", reason="pillow-heif (the extra 'heic') is not installed")
    values = np.full((20, 30, 3), 40, np.uint8)
    values[:, :15] = (220, 30, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    pillow_heif.from_pillow(Image.fromarray(values)).save(tmp_path / "photo.heic", exif=exif.tobytes(), quality=95)
    return tmp_path / "photo.heic"


def test_heic_is_read_upright_and_listed(heic):
    from finercam.data import open_dataset

    image = read_image(heic)
    assert image.size == image_size(heic) == (20, 30)
    red, green, _ = pixel(image, 10, 5)
    assert red > 190 and green < 70 and pixel(image, 10, 25)[0] < 70
    assert read_image(heic.read_bytes()).size == (20, 30)
    with heic.open("rb") as file:
        assert read_image(file).size == (20, 30)
    assert "HEIF" not in Image.OPEN  # no plugin was registered for the caller's own code
    heic.rename(heic.with_name("PHOTO.HEIC"))
    assert [sample.id for sample in open_dataset(heic.parent)] == ["PHOTO.HEIC"]
    heic.with_name("cut.heic").write_bytes(heic.with_name("PHOTO.HEIC").read_bytes()[:200])
    refused(heic.with_name("cut.heic"), "cut.heic")
    refused(heic.with_name("PHOTO.HEIC"), "limit of 9", max_pixels=9)


def test_heic_without_its_package_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic")
    refused(tmp_path / "photo.heic", "photo.heic", "HEIC", "pip install 'finercam[heic]'")
