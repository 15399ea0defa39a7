"""Example command lines, shown at the end of every `--help` and on the documentation page of the command line.

The tests run them in a folder with `photos/` (a few pictures) and `birds/` (class folders). Lines that download a
model, need other data or do not return match `NOT_RUN`.
"""

from __future__ import annotations

__all__ = ["EXAMPLES", "NOT_RUN", "epilog"]

EXAMPLES: dict[str, tuple[str, ...]] = {
    "explain": (
        "finercam explain photos --model fieldguide/cnn --out out/explain",
        'finercam explain "photos/*.png" --model fieldguide/resnet \\\n'
        '    --target "Red-crested Pippin" --against "Plain Pippin" \\\n'
        "    --out out/red --html out/red.html",
        "finercam explain photos --model fieldguide/cnn --examples birds \\\n"
        '    --target "Red-crested Pippin|Plain Pippin" --against "Royal Pippin" --out out/group',
        "finercam explain bird.jpg --model timm/resnet50.a1_in1k --out out/bird",
    ),
    "evaluate": (
        "finercam evaluate fieldguide:40 --model fieldguide/cnn \\\n    --metrics contrastive --out out/evaluate",
        "finercam evaluate birds --model fieldguide/cnn \\\n"
        "    --methods gradcam,layercam --contrasts pair --out out/methods",
        "finercam evaluate cub:CUB_200_2011 --model out/cub --out out/cub-measured",
    ),
    "concept": (
        'finercam concept photos --text "red crest" --text "orange legs" --out out/concept',
        'finercam concept --audit "Red-crested Pippin" "Plain Pippin" --out out/audit',
    ),
    "probe": (
        "finercam probe birds --backbone fieldguide/vit --out out/probe",
        "finercam probe cub:CUB_200_2011 --backbone timm/vit_small_patch14_dinov2.lvd142m \\\n"
        "    --native --out out/cub",
    ),
    "run": (
        "finercam run birds --model fieldguide/cnn --out out/run",
        "finercam run photos --model fieldguide/cnn --keep 5 --precision bfloat16 \\\n    --out out/run-bf16",
        "finercam run birds --model fieldguide/cnn --ray local --workers 2 --out out/ray",
    ),
    "report": (
        "finercam report out/run --html out/run.html",
        "finercam report out/run --html out/strong.html --gamma 1 --limit 20",
    ),
    "export": (
        "finercam export --model fieldguide/cnn --out out/cnn.onnx",
        "finercam export --model timm/resnet50.a1_in1k --preset fast --out out/resnet50.onnx",
    ),
    "traits": (
        "finercam traits fieldguide:400 --model fieldguide/cnn --photos 6 --removed 3 \\\n"
        '    --classes "Red-crested Pippin" "Plain Pippin" --out out/traits',
        "finercam traits out/run --model fieldguide/cnn --against-nearest --out out/traits-of-run",
    ),
    "guide": (
        "finercam guide birds --model fieldguide/cnn --photos 4 --removed 2 --out out/guide",
        "finercam guide birds --model fieldguide/cnn --ray local --workers 2 --out out/guide-ray",
    ),
    "page": ("finercam page --model fieldguide/cnn --preset fast --runtime package/dist --out out/site",),
    "app": (
        "finercam app",
        "finercam app --model fieldguide/resnet --model out/probe --port 7861",
    ),
    "demo": ("finercam demo --count 2 --evaluated 8 --out out/demo",),
    "models": ("finercam models",),
    "methods": ("finercam methods",),
}
"""The example lines of each command."""

NOT_RUN = ("timm/", "cub:", "out/cub", "finercam app", "--ray", "--runtime")
"""The tests parse command lines that contain one of these, but do not run them."""


def epilog(command: str) -> str:
    """The examples of a command as the end of its help text."""
    lines = [line for example in EXAMPLES[command] for line in example.splitlines()]
    # \b keeps click from joining the lines.
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
