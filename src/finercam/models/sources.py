"""What a model string can be; no library is imported to list it."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["builtin_names", "model_sources"]


def builtin_names() -> list[str]:
    """The built-in classifiers whose trained weights are in the package.

    >>> "fieldguide/cnn" in builtin_names()
    True
    """
    weights = files("finercam") / "models" / "weights"
    names = ("cnn", "resnet", "vit")
    return [f"fieldguide/{name}" for name in names if (weights / f"fieldguide-{name}" / "config.json").is_file()]


def model_sources() -> list[tuple[str, str]]:
    """What `load_model` reads, as (pattern, description).

    >>> model_sources()[0][0]
    'fieldguide/cnn'
    """
    return [
        *((name, "built in, trained on the Fieldguide benchmark; no network") for name in builtin_names()),
        ("FOLDER", "a model folder: model.safetensors + config.json"),
        ("timm/<name>", "timm; options as ?key=value, such as ?pretrained=false&num_classes=10&img_size=224x448"),
        ("torchvision/<name>", "torchvision; ?weights=IMAGENET1K_V1, ?pretrained=false&num_classes=10"),
        ("hf/<org>/<name>", "a transformers image classifier of the hub; ?revision=main"),
        ("hf/<folder>", "the same from a folder: hf/./relative or hf//absolute"),
        ("open_clip/<name>/<pretrained>", "the image tower of a CLIP model; ?pool=avg (patch mean) or tok (CLS)"),
        (
            "open_clip/bioclip",
            "BioCLIP, also bioclip-2; open_clip/hf-hub:<org>/<name> and open_clip/local-dir:<folder>",
        ),
        ("…?native=1000", "any of these at each image's own shape, the longest side at most 1000 pixels"),
    ]
