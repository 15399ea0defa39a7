"""The small image–text model that ships with the package, for Fieldguide birds and short descriptions of them.

The image tower is a bag of local features that ends in one linear map, so that the score of a description is a sum
over the places of the picture. The text tower reads each word with its neighbours and averages the results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from finercam.errors import FinerCAMError, suggest
from finercam.images import Preprocess
from finercam.io import one_line

__all__ = ["ImageTower", "TextTower", "TwoTower", "TwoTowerMeta", "load_twotower", "save_twotower"]

PADDING = 0
"""Token that stands for no word."""


class Square(nn.Module):
    """Squares features, so that a mark that fills a hundredth of a picture stands out in the mean over places."""

    def forward(self, x: Tensor) -> Tensor:
        return x * x


class ImageTower(nn.Module):
    """`(N, 3, H, W)` to embeddings `(N, D)`: local features on a grid of stride 4, their mean, and a linear map.

    `features` gives `(N, C, H/4, W/4)`; each place sees 23x23 pixels. `norm` adds the normalisation layers that
    training needs, and `folded` removes them.
    """

    def __init__(self, width: int, channels: tuple[int, ...] = (24, 48, 72, 72, 160), norm: bool = False) -> None:
        super().__init__()
        kernels, strides = (3, 3, 3, 3, 1), (2, 2, 1, 1, 1)
        layers: list[nn.Module] = []
        before = 3
        for after, kernel, stride in zip(channels, kernels, strides, strict=True):
            layers.append(nn.Conv2d(before, after, kernel, stride, kernel // 2))
            layers += [nn.BatchNorm2d(after), nn.ReLU()] if norm else [nn.ReLU()]
            before = after
        self.channels = tuple(channels)
        self.features = nn.Sequential(*layers, Square())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.projection = nn.Linear(before, width, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(self.pool(self.features(images)).flatten(1))

    def folded(self) -> ImageTower:
        """The same function without the normalisation layers, in eval mode."""
        layers: list[Any] = list(self.features.eval())
        with torch.random.fork_rng(devices=[]):  # initialisation must not change the random state
            plain = ImageTower(self.projection.out_features, self.channels)
        for place, conv, norm in zip(plain.features[:-1:2], layers[:-1:3], layers[1::3], strict=True):
            place.load_state_dict(torch.nn.utils.fusion.fuse_conv_bn_eval(conv, norm).state_dict())
        plain.projection.load_state_dict(self.projection.state_dict())
        return plain.eval()


class TextTower(nn.Module):
    """Tokens `(N, L)` to embeddings `(N, D)`: the mean over words, each read with `reach` neighbours on either side.

    Therefore "red" belongs to the "crest" that follows it and not to the wing bars named later, and a phrase has the
    same meaning alone and in a long description.
    """

    def __init__(self, words: int, width: int, hidden: int = 128, reach: int = 2) -> None:
        super().__init__()
        self.words = nn.Embedding(words + 1, hidden, padding_idx=PADDING)
        self.near = nn.Conv1d(hidden, 2 * hidden, 2 * reach + 1, padding=reach)
        self.mix = nn.Linear(2 * hidden, hidden)
        self.projection = nn.Linear(hidden, width, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        there = (tokens != PADDING)[..., None].to(self.words.weight)
        near = F.gelu(self.near(self.words(tokens).transpose(1, 2))).transpose(1, 2)
        mean = (F.gelu(self.mix(near)) * there).sum(1) / there.sum(1).clamp(min=1)
        return self.projection(mean)


class TwoTower(nn.Module):
    """Pictures and texts in one space, compared by their cosine: `forward` gives logits `(N, T)`.

    `encode_image` and `encode_text` give embeddings `(N, D)`, not normalised; `tokenize` turns texts into tokens.
    """

    def __init__(self, words: Sequence[str], width: int = 96, norm: bool = False) -> None:
        super().__init__()
        self.vocabulary = {word: place for place, word in enumerate(words, 1)}
        self.visual = ImageTower(width, norm=norm)
        self.text = TextTower(len(self.vocabulary), width)
        self.logit_scale = nn.Parameter(torch.tensor(14.0).log())

    def tokenize(self, texts: str | Sequence[str]) -> Tensor:
        """Tokens `(N, L)`, filled with 0; capitals, hyphens and punctuation do not matter.

        Raises FinerCAMError for a word that the model does not know, and suggests the closest one.

        >>> TwoTower(["red", "crest", "bird"]).tokenize(["bird", "Red-crest!"])
        tensor([[3, 0],
                [1, 2]])
        """
        rows = [self._read(text) for text in ([texts] if isinstance(texts, str) else texts)]
        longest = max((len(row) for row in rows), default=0)
        return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows], dtype=torch.long)

    def _read(self, text: str) -> list[int]:
        words = re.findall(r"[^\W_]+", text.lower())
        if not words:
            raise FinerCAMError(f"text {text!r} has no word")
        for word in words:
            if word not in self.vocabulary:
                known = suggest(word, self.vocabulary)
                raise FinerCAMError(
                    f"text {text!r}: the word {word!r} is not among the {len(self.vocabulary)} that the two-tower "
                    f"model knows.{known}"
                )
        return [self.vocabulary[word] for word in words]

    def encode_image(self, images: Tensor) -> Tensor:
        return self.visual(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text(tokens)

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        image = F.normalize(self.encode_image(images), dim=-1)
        text = F.normalize(self.encode_text(tokens), dim=-1)
        return self.logit_scale.exp() * image @ text.T


@dataclass(frozen=True)
class TwoTowerMeta:
    """The words and the preprocessing of the shipped model, and how it was trained and measured."""

    words: list[str]
    width: int
    preprocess: Preprocess
    training: dict[str, Any] = field(default_factory=dict)


def save_twotower(model: TwoTower, meta: TwoTowerMeta, out: str | Path) -> Path:
    """Write `model.safetensors` (float16) and `config.json` into a folder."""
    from safetensors.torch import save_file

    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.half().contiguous() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    config = {
        "format": "finercam-twotower",
        "words": meta.words,
        "width": meta.width,
        "preprocess": meta.preprocess.to_json(),
        "training": meta.training,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    return folder


def load_twotower(folder: str | Path | None = None) -> tuple[TwoTower, TwoTowerMeta]:
    """The shipped model, or the one that `save_twotower` wrote to a folder, in eval mode and float32 on the CPU.

    >>> model, meta = load_twotower()
    >>> model(torch.zeros(1, 3, *meta.preprocess.size), model.tokenize(["a red crest", "bird"])).shape
    torch.Size([1, 2])
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    source = files("finercam.models") / "weights" / "twotower" if folder is None else Path(folder)
    try:
        config = json.loads((source / "config.json").read_text())
        weights = (source / "model.safetensors").read_bytes()
    except (OSError, ValueError, RecursionError) as error:
        raise FinerCAMError(f"{source}: expected a folder with config.json and model.safetensors") from error
    if not isinstance(config, dict) or config.get("format") != "finercam-twotower":
        raise FinerCAMError(f"{source}: this is no two-tower model; `save_twotower` writes one")
    meta = _meta(config, source)
    try:
        with torch.device("meta"):  # skips the initialisation, which loading would overwrite
            model = TwoTower(meta.words, meta.width)
        model.load_state_dict({key: value.float() for key, value in load(weights).items()}, assign=True)
    except (SafetensorError, RuntimeError) as error:
        raise FinerCAMError(
            f"{source}: model.safetensors does not hold what config.json says: {one_line(error)}"
        ) from error
    return model.requires_grad_(True).eval(), meta


def _meta(config: dict[str, Any], source: Any) -> TwoTowerMeta:
    words, width = config.get("words"), config.get("width")
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words) or not words:
        raise FinerCAMError(f"{source}: config.json has words={words!r:.60}; expected a list of words")
    if type(width) is not int or not 1 <= width <= 4096:
        raise FinerCAMError(f"{source}: config.json has width={width!r:.60}; expected a number from 1 to 4096")
    training = config.get("training")
    preprocess = Preprocess.from_json(config.get("preprocess") or {})
    return TwoTowerMeta(words, width, preprocess, training if isinstance(training, dict) else {})
