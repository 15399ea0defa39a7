"""The linear head: one weight row per class, wherever a model keeps it."""

from __future__ import annotations

from torch import Tensor, nn

from finercam.core.layers import unwrap

__all__ = ["find_head", "find_heads", "head_rows", "linear_head"]


def linear_head(model: nn.Module, num_classes: int) -> tuple[Tensor, Tensor | None] | None:
    """Weight rows (K, D) and bias (K,) or None of the layer that makes the K logits; None without one.

    A fully connected layer, a 1x1 convolution, any module whose weight is (K, D), or the attribute
    `class_embeddings` (K, D) of a zero-shot classifier. Detached views, not copies.

    >>> weight, bias = linear_head(nn.Sequential(nn.Flatten(), nn.Linear(6, 2)), num_classes=2)
    >>> weight.shape, bias.shape
    (torch.Size([2, 6]), torch.Size([2]))
    """
    head = find_head(model, num_classes)
    return None if head is None else head_rows(head, num_classes)


def find_head(model: nn.Module, num_classes: int) -> nn.Module | None:
    """The module that makes the K logits, or None; its rows are `head_rows(module, num_classes)`."""
    return next(iter(find_heads(model, num_classes)), None)


def find_heads(model: nn.Module, num_classes: int) -> list[nn.Module]:
    """The modules that could make the K logits, the likeliest first."""
    model = unwrap(model)
    if _embeddings(model, num_classes) is not None:
        return [model]
    heads = {name: m for name, m in model.named_modules() if _rows(m, num_classes) is not None}
    # Distilled and auxiliary heads sit beside the classifier proper, and may be defined after it.
    beside = [name for name in heads if "dist" in name.lower() or "aux" in name.lower()]
    ordered = [*(n for n in reversed(heads) if n not in beside), *reversed(beside)]
    declared = _declared_head(model, heads)
    return ([] if declared is None else [declared]) + [heads[n] for n in ordered if heads[n] is not declared]


def head_rows(head: nn.Module, num_classes: int) -> tuple[Tensor, Tensor | None] | None:
    """Weight rows (K, D) and bias (K,) or None of a module that `find_head` found."""
    embeddings = _embeddings(head, num_classes)
    if embeddings is not None:
        return embeddings.detach(), None
    rows, bias = _rows(head, num_classes), getattr(head, "bias", None)
    if rows is None:
        return None
    return rows, bias.detach() if isinstance(bias, Tensor) and bias.shape == (num_classes,) else None


def _embeddings(module: nn.Module, num_classes: int) -> Tensor | None:
    embeddings = getattr(module, "class_embeddings", None)
    fits = isinstance(embeddings, Tensor) and embeddings.ndim == 2 and embeddings.shape[0] == num_classes
    return embeddings if fits else None


def _declared_head(model: nn.Module, heads: dict[str, nn.Module]) -> nn.Module | None:
    getter = getattr(model, "get_classifier", None)  # timm
    declared = getter() if callable(getter) else None
    return next((head for head in heads.values() if head is declared), None)


def _rows(module: nn.Module, num_classes: int) -> Tensor | None:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        return None
    if weight.ndim in (4, 5) and weight[0, 0].numel() == 1 and getattr(module, "groups", 1) == 1:
        weight = weight.flatten(1)
    return weight.detach() if weight.ndim == 2 and weight.shape[0] == num_classes else None
