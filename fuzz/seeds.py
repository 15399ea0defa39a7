"""Small valid files to start from: pictures of every supported format, and every kind of annotation file."""

from __future__ import annotations

import json
from io import BytesIO

import numpy as np
from PIL import Image, features

__all__ = ["files", "pictures"]


def pictures() -> dict[str, bytes]:
    """Files of a few hundred bytes by name, in every format and mode that `read_image` treats separately."""
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8))
    grey16 = Image.fromarray(np.arange(63, dtype=np.uint16).reshape(7, 9) * 1000)
    exif = Image.Exif()
    exif[0x0112] = 6
    plans = {
        "jpeg": (colours, {"format": "JPEG", "exif": exif}),
        "jpeg-progressive": (colours.convert("CMYK"), {"format": "JPEG", "progressive": True}),
        "mpo": (colours, {"format": "MPO", "save_all": True, "append_images": [colours]}),
        "png": (colours, {"format": "PNG", "exif": exif}),
        "png-alpha": (colours.convert("RGBA"), {"format": "PNG"}),
        "png-16": (grey16, {"format": "PNG"}),
        "png-palette": (colours.quantize(16), {"format": "PNG", "transparency": 3}),
        "png-animated": (colours, {"format": "PNG", "save_all": True, "append_images": [colours.rotate(90)]}),
        "gif": (colours, {"format": "GIF", "save_all": True, "append_images": [colours.rotate(90)]}),
        "bmp": (colours, {"format": "BMP"}),
        "dib": (colours, {"format": "DIB"}),
        "tiff": (colours, {"format": "TIFF"}),
        "tiff-lzw": (colours, {"format": "TIFF", "compression": "tiff_lzw"}),
        "tiff-float": (Image.fromarray(np.linspace(0, 1, 63, dtype=np.float32).reshape(7, 9)), {"format": "TIFF"}),
        "webp": (colours, {"format": "WEBP", "exif": exif}),
        "ppm": (colours, {"format": "PPM"}),
        "pgm": (colours.convert("L"), {"format": "PPM"}),
        "jp2": (colours, {"format": "JPEG2000"}),
        "avif": (colours, {"format": "AVIF"}),
        "tga": (colours, {"format": "TGA", "compression": "tga_rle"}),
        "ico": (colours.resize((16, 16)), {"format": "ICO"}),
        "sgi": (colours, {"format": "SGI"}),
        "pcx": (colours, {"format": "PCX"}),
    }
    absent = {"avif": not features.check("avif"), "jp2": not features.check("jpg_2000")}
    absent |= {"webp": not features.check("webp")}
    found = {}
    for name, (image, options) in plans.items():
        if not absent.get(name, False):
            stream = BytesIO()
            image.save(stream, **options)
            found[name] = stream.getvalue()
    return found


def files() -> dict[str, bytes]:
    """Valid annotation and model files by the name of their reader in `fuzz.files.DOORS`."""
    cnn = {"library": "builtin", "name": "cnn", "kwargs": {"num_classes": 2, "widths": [4, 4, 4, 8]}}
    config = {"format": "finercam-model", "version": 1, "architecture": cnn, "classes": ["wren", "robin"]}
    config |= {"preprocess": {"size": [8, 8], "mode": "crop", "mean": [0.5] * 3, "std": [1, 1, 1]}}
    accuracy = {"test": {"top1": 0.5, "top5": 1.0, "count": 8}}
    provenance = {
        "backbone": "x",
        "pool": "avg",
        "dataset": "d",
        "accuracy": accuracy,
        "weight_decay": 0.1,
        "seed": 0,
    }
    processor = {"size": {"shortest_edge": 8}, "do_center_crop": True, "crop_size": 8, "image_mean": [0.5] * 3}
    return {
        "config": json.dumps(config).encode(),
        "probe": json.dumps(config | {"provenance": provenance}).encode(),
        "preprocess": json.dumps(config["preprocess"]).encode(),
        "processor": json.dumps(processor | {"image_std": [1, 1, 1], "rescale_factor": 0.1, "resample": 3}).encode(),
        "settings": b'{"seed": 0, "dataset": "d"}',
        "list": b"path,label,x0,y0,x1,y1\na.png,wren,0,0,4,4\n# more\nb.png,,1,1,2,2\n",
        "tsv": b"a.png\t0\nb.png\t1\n",
        "boxes": b"path,x0,y0,x1,y1\nwren/a.png,0,0,4,4\n",
        "cub": b"1 001.Wren/a.png\n2 ../x.png\n",
        "cub-boxes": b"1 1.0 1.0 4.0 4.0\n",
        "cub-parts": b"1 1 3.0 3.0 1\n1 2 0.0 0.0 0\n",
        "funnybirds": b'[{"class_idx": 0, "parts": {"beak": 1}}, {"class_idx": 1, "parts": {"beak": 2}}]',
        "funnybirds-list": b'[{"class_idx": 0}, {"class_idx": 1}]',
        "fishvista": b"filename,standardized_species,barbel\na.png,Esox lucius,1\nb.png,Esox niger,-1\n",
        "fishvista-traits": b'{"0": "Background", "1": "Head"}',
        "pets": b"wren_1 1 1 1\nred_robin_2 2 1 1\n",
        "aircraft-boxes": b"0056978 5 4 9 9\n",
        "aircraft": b"0056978 F/A-18\n",
        "options": b"timm/x?a=1&b=true&c=224x448&d=[1,2]",
        "dataset": b"cub:/nowhere?split=test",
        "contrast": b"similar:3:0.6:mean",
        "safetensors": _safetensors(),
        "torch": _torch(),
        "mat": _matlab(),
    }


def _safetensors() -> bytes:
    import torch
    from safetensors.torch import save

    return save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)})


def _torch() -> bytes:
    import torch

    stream = BytesIO()
    torch.save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, stream)
    return stream.getvalue()


def _matlab() -> bytes:
    from scipy.io import savemat

    stream = BytesIO()
    savemat(stream, {"class_names": np.array(["wren", "robin"], dtype=object)[None]})
    return stream.getvalue()
