"""What the model adds to the rows of a batch: predictions, the classes of the question, and the maps that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from finercam.core.contrast import Contrast
from finercam.core.evidence import Evidence, directions
from finercam.core.fuse import signed_map
from finercam.core.references import NONE
from finercam.explainer import FinerCAM
from finercam.methods import Method
from finercam.names import label
from finercam.run.settings import Settings

__all__ = ["explained_columns"]


def explained_columns(
    explain: FinerCAM, settings: Settings, images: Tensor, labels: Sequence[int | None]
) -> list[dict[str, Any]]:
    """The columns of each image `(3, H, W)` that follow from the model; `labels` are their class ids.

    An image whose question has no answer gets the status and the reason instead.
    """
    method = explain.question.method
    with torch.autocast(images.device.type, getattr(torch, settings.precision), settings.precision != "float32"):
        source = explain.capture(images)
        logits = source.logits.cpu().double()
        target = _targets(settings, logits, labels)
        rivals = [[rival for rival in settings.against if rival != own] for own in target.tolist()]
        # without a rival the row says that there is no answer, and any class serves to ask about its batch
        against = [own or [(int(c) + 1) % logits.shape[1]] for own, c in zip(rivals, target, strict=True)]
        question = explain.question.changed(target=target, against=against if settings.against else None)
        bound = question.bind(len(images), logits.shape[1], settings.class_names)
        contrast, picked = bound.resolve(logits, explain.head_rows(logits.shape[1]))
        kept = directions(logits, contrast, (settings.keep or "references") if settings.linear else "contrast")
        evidence = method.gather(source, contrast, kept)
    ids = kept.argmax(2).masked_fill(~kept.any(2), NONE) if settings.linear else target[:, None]
    maps = (
        _class_maps(method, evidence, ids) if settings.linear else [_strengths(method, settings, evidence, contrast)]
    )
    columns = _columns(settings, logits, contrast, picked.similarity, ids, maps)
    size = {"input_height": images.shape[2], "input_width": images.shape[3]}
    for own, name, row in zip(rivals, target.tolist(), columns, strict=True):
        if settings.against and not own:
            why = f"its target, {label(name, settings.class_names)}, is its only rival class"
        elif not bool(torch.from_numpy(row["evidence"]).isfinite().all()):
            why = "its map is not finite"
        else:
            continue
        row.clear()
        row |= {"status": "unexplained", "error": why}
    return [row | size for row in columns]


def _targets(settings: Settings, logits: Tensor, labels: Sequence[int | None]) -> Tensor:
    if settings.target == "label":
        return torch.tensor(labels, dtype=torch.long)
    if settings.target_id is not None:
        return torch.full((len(logits),), settings.target_id)
    return logits.argmax(dim=1)


def _class_maps(method: Method, evidence: Evidence, ids: Tensor) -> list[Tensor]:
    """A linear method's map of each kept class, `(N, M, h, w)` for each layer."""
    found = []
    with torch.autocast(evidence.activations[0].device.type, enabled=False):
        for activation, gradients in zip(evidence.activations, evidence.gradients, strict=True):
            same = gradients.stride()[-2:] == (0, 0) and method.broadcasts  # at all places
            gradients = (gradients[..., :1, :1] if same else gradients).float()
            if (
                evidence.baseline is not None
            ):  # Score-CAM subtracts the score of the empty input from the target's alone
                own = evidence.baseline.gather(1, ids[:, :1].to(evidence.baseline.device)).float()
                gradients = torch.cat([gradients[:, :1] - own[:, :, None, None, None], gradients[:, 1:]], 1)
            if same:  # then every linear rule is this sum over the channels
                found.append(torch.einsum("nmc,nchw->nmhw", gradients[..., 0, 0], activation.float()))
            else:
                found.append(torch.stack([method.rule(activation.float(), one) for one in gradients.unbind(1)], 1))
    return found


def _strengths(method: Method, settings: Settings, evidence: Evidence, contrast: Contrast) -> Tensor:
    """Another method's map of the question at each kept strength, `(N, G, h, w)`, layers fused."""
    one = torch.ones_like(contrast.gamma)
    contrasts = [Contrast(contrast.target, contrast.references, g * one, contrast.weights) for g in settings.gammas]
    return torch.stack(
        [signed_map(evidence, question, method.rule, method.fused_by(settings.fusion)) for question in contrasts], 1
    )


def _columns(
    settings: Settings, logits: Tensor, contrast: Contrast, similarity: Tensor, ids: Tensor, maps: list[Tensor]
) -> list[dict[str, Any]]:
    top = logits.sort(dim=1, descending=True, stable=True).indices[:, : settings.top]
    probabilities = logits.softmax(1).gather(1, top).tolist()
    totals = logits.logsumexp(1).tolist()
    halves, scales = zip(*(_as_halves(of_layer) for of_layer in maps), strict=True)
    grid = [side for of_layer in maps for side in of_layer.shape[2:]]

    def named(classes: list[int]) -> list[str]:
        return [label(k, settings.class_names) for k in classes]

    rows = []
    for at, (target, references, best, kept) in enumerate(
        zip(contrast.target.tolist(), contrast.references.tolist(), top.tolist(), ids.tolist(), strict=True)
    ):
        used = [place for place, k in enumerate(kept) if k != NONE]
        chosen = [place for place, d in enumerate(references) if d != NONE]
        slots = used if settings.linear else list(range(len(settings.gammas)))
        rows.append(
            {
                "target": named([target])[0],
                "target_id": target,
                "references": named([references[place] for place in chosen]),
                "reference_ids": [references[place] for place in chosen],
                "similarity": similarity[at, chosen].tolist(),
                "method": settings.method,
                "gamma": settings.gamma,
                "top": named(best),
                "top_ids": best,
                "top_probabilities": probabilities[at],
                "kept_ids": [kept[place] for place in used],
                "kept_logits": [float(logits[at, kept[place]]) for place in used],
                "log_total": totals[at],
                "grid": grid,
                "scale": [float(scale[at]) for scale in scales],
                "evidence": torch.cat([of_layer[at, slots].flatten() for of_layer in halves]).numpy(),
            }
        )
    return rows


def _as_halves(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maps `(N, M, h, w)` as float16 in [-1, 1] and a power of two for each image, so that scaling rounds nothing."""
    wide = maps.detach().double().cpu()
    peak = wide.abs().amax(dim=(1, 2, 3)).nan_to_num(0.0, posinf=0.0)
    scale = torch.ldexp(torch.ones_like(peak), torch.frexp(peak).exponent)
    return (wide / scale[:, None, None, None]).half(), scale
