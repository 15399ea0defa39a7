"""The subjects of the benchmarks: models with random weights, and the same question for finercam and two peers."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from finercam import Explanation, FinerCAM

GAMMAS = tuple(round(0.1 * step, 1) for step in range(11))
MODES = ("plain", "mean of three", "closest class")


@dataclass(frozen=True)
class Subject:
    """A classifier, its target layer by name, and the number of tokens before the patches (None: feature maps)."""

    name: str
    model: nn.Module
    layer: str
    side: int = 224
    prefix: int | None = None

    def images(self, batch: int, seed: int = 0) -> Tensor:
        return torch.randn(batch, 3, self.side, self.side, generator=torch.Generator().manual_seed(seed))

    @property
    def module(self) -> nn.Module:
        return self.model.get_submodule(self.layer)

    def to_maps(self, tokens: Tensor) -> Tensor:
        """Tokens `(N, L, C)` as square feature maps `(N, C, h, w)`, for peers that need a transform."""
        patches = tokens[:, self.prefix or 0 :]
        rows = round(patches.shape[1] ** 0.5)
        return patches.transpose(1, 2).unflatten(2, (rows, rows))

    @property
    def transform(self) -> Callable[[Tensor], Tensor] | None:
        return None if self.prefix is None else self.to_maps


def build(name: str) -> Subject:
    """A subject by name: resnet50, vit_b_16, dinov2_vitb14 or mobilenet_v2; random weights, 224 px."""
    import timm
    import torchvision.models as zoo

    torch.manual_seed(0)
    if name == "resnet50":
        return Subject(name, zoo.resnet50().eval(), "layer4")
    if name == "vit_b_16":
        return Subject(name, _spread(zoo.vit_b_16().eval()), "encoder.layers.encoder_layer_11.ln_1", prefix=1)
    if name == "dinov2_vitb14":
        model = timm.create_model("vit_base_patch14_dinov2", img_size=224, num_classes=1000)
        return Subject(name, model.eval(), "blocks.11.norm1", prefix=1)
    if name == "mobilenet_v2":
        return Subject(name, zoo.mobilenet_v2().eval(), "features.18")
    raise ValueError(f"subject {name!r}: expected resnet50, vit_b_16, dinov2_vitb14 or mobilenet_v2")


def _spread(model: nn.Module) -> nn.Module:
    """Give torchvision's zero-initialised heads some weights, so that classes differ."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.02)
    return model


def forward(subject: Subject, images: Tensor) -> Callable[[], Tensor]:
    def work() -> Tensor:
        with torch.no_grad():
            return subject.model(images)

    return work


def ours(subject: Subject, images: Tensor, **options: Any) -> Callable[[], Explanation]:
    """One contrast, by default the paper's with three references, with maps at the picture's resolution."""
    explain = FinerCAM(subject.model, layer=subject.layer, **{"preset": "paper", **options})

    def work() -> Explanation:
        answer = explain(images)
        assert answer.maps.shape[1:] == images.shape[2:]
        return answer

    return work


def our_sweep(
    subject: Subject, images: Tensor, gammas: Sequence[float] = GAMMAS, **options: Any
) -> Callable[[], list[Tensor]]:
    """Three modes times eleven strengths from one run of the model, with maps at the picture's resolution.

    It needs three stored directions: target, closest class and mean of three.
    """
    explain = FinerCAM(subject.model, layer=subject.layer, **{"preset": "paper", "keep": "closest", **options})

    def work() -> list[Tensor]:
        answer = explain(images)
        pair = answer.ask(against=[[row[0]] for row in answer.references.tolist()])
        found = [answer.sweep([0.0] * len(gammas)), answer.sweep(gammas), pair.sweep(gammas)]
        assert all(each.shape == (len(gammas), len(images), *images.shape[2:]) for each in found)
        return found

    return work


def torch_cam(subject: Subject, images: Tensor, gamma: float = 0.6, references: int = 3) -> Callable[[], Tensor]:
    """torch-cam's FinerCAM: maps of the predictions against the nearest logits, upsampled to the picture."""
    from torchcam.methods import FinerCAM as Peer

    options = {} if subject.prefix is None else {"reshape_transform": subject.to_maps}
    model = copy.deepcopy(subject.model)  # its hooks stay on the model, where they would slow the other works down
    peer = Peer(model, subject.layer, gamma=gamma, num_references=references, **options)

    def work() -> Tensor:
        peer.enable_hooks()
        logits = model(images)
        (maps,) = peer(logits.argmax(dim=1).tolist(), logits)
        peer.disable_hooks()
        return F.interpolate(maps[:, None], images.shape[2:], mode="bilinear", align_corners=False)[:, 0]

    return work


def torch_cam_sweep(
    subject: Subject, images: Tensor, gammas: Sequence[float] = GAMMAS, retain: bool = False
) -> Callable[[], list[Tensor]]:
    """Three modes times eleven strengths, with a run of the model for each, or with `retain` one run whose graph is kept."""
    from torchcam.methods import FinerCAM as Peer

    options = {} if subject.prefix is None else {"reshape_transform": subject.to_maps}
    model = copy.deepcopy(subject.model)
    peer = Peer(model, subject.layer, **options)
    size = images.shape[2:]

    def work() -> list[Tensor]:
        peer.enable_hooks()
        logits = model(images)
        found = []
        for count in (0, 3, 1):
            for gamma in gammas:
                if not retain and found:
                    logits = model(images)
                peer.gamma, peer.num_references = (gamma if count else 0.0), max(count, 1)
                (maps,) = peer(logits.argmax(dim=1).tolist(), logits, retain_graph=retain)
                found.append(F.interpolate(maps[:, None], size, mode="bilinear", align_corners=False)[:, 0])
        peer.disable_hooks()
        return found

    return work


def fine(subject: Subject, images: Tensor) -> Callable[[], Explanation]:
    """The default preset: three stages of feature maps, or the last block's tokens."""
    explain = FinerCAM(subject.model, preset="fine", compile=False)

    def work() -> Explanation:
        answer = explain(images)
        assert answer.maps.shape[1:] == images.shape[2:]
        return answer

    return work


def captum(subject: Subject, images: Tensor) -> Callable[[], Tensor]:
    """Captum's LayerGradCam of the predictions (no contrast), upsampled to the picture."""
    from captum.attr import LayerAttribution, LayerGradCam

    peer = LayerGradCam(subject.model, subject.module)

    def work() -> Tensor:
        with torch.no_grad():
            target = subject.model(images).argmax(dim=1)
        # Of tokens it averages the gradients of the wrong axis, but the time is that of its question.
        maps = peer.attribute(images, target=target)
        maps = maps if subject.prefix is None else maps[:, :, None]
        return LayerAttribution.interpolate(maps, images.shape[2:], "bilinear")

    return work


def grad_cam(subject: Subject, images: Tensor, gamma: float = 1.0, count: int = 3) -> Callable[[], Any]:
    """pytorch-grad-cam's FinerCAM: maps of the predictions against the nearest logits, softmax-weighted."""
    from pytorch_grad_cam import FinerCAM as Peer

    ranks = list(range(1, count + 1))

    def work() -> Any:
        with Peer(subject.model, [subject.module], reshape_transform=subject.transform) as peer:
            return peer(images, alpha=gamma, comparison_categories=ranks)

    return work


def grad_cam_sweep(subject: Subject, images: Tensor, gammas: Sequence[float] = GAMMAS) -> Callable[[], list]:
    """Three modes times eleven strengths, with a forward and a backward pass for each."""
    from pytorch_grad_cam import FinerCAM as Peer

    def work() -> list[Any]:
        with Peer(subject.model, [subject.module], reshape_transform=subject.transform) as peer:
            return [
                peer(images, alpha=gamma if count else 0.0, comparison_categories=list(range(1, max(count, 1) + 1)))
                for count in (0, 3, 1)
                for gamma in gammas
            ]

    return work


def our_score_cam(subject: Subject, images: Tensor) -> Callable[[], Tensor]:
    """Plain Score-CAM with a softmax over channels, as in the peer."""
    explain = FinerCAM(subject.model, "scorecam-softmax", gamma=0.0, references="predicted", layer=subject.layer)
    return lambda: explain(images).maps


def peer_score_cam(subject: Subject, images: Tensor, centred: bool = False) -> Callable[[], Tensor]:
    """pytorch-grad-cam's ScoreCAM; `centred` gives it masks upsampled with pixel centres aligned, as ours are."""
    from pytorch_grad_cam import ScoreCAM as Peer

    def work() -> Tensor:
        with torch.no_grad():
            targets = [_Logit(c) for c in subject.model(images).argmax(dim=1).tolist()]
        own = nn.UpsamplingBilinear2d
        try:
            if centred:
                nn.UpsamplingBilinear2d = lambda size: nn.Upsample(size=size, mode="bilinear")  # type: ignore[misc]
            with (
                contextlib.redirect_stderr(io.StringIO()),  # its progress bar
                Peer(subject.model, [subject.module], reshape_transform=subject.transform) as peer,
            ):
                return torch.from_numpy(peer(images, targets))
        finally:
            nn.UpsamplingBilinear2d = own  # type: ignore[misc]

    return work


class _Logit:
    def __init__(self, index: int) -> None:
        self.index = index

    def __call__(self, logits: Tensor) -> Tensor:
        return logits[self.index]


def on_unit_scale(maps: Tensor) -> Tensor:
    """Maps `(N, H, W)` scaled from 0 to 1 by minimum and maximum, as both peers do."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=torch.finfo(maps.dtype).tiny)
