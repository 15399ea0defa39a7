"""Map rules: how activations and the gradients of a contrast become a signed map.

Every rule takes `activations (N, C, h, w)` and `gradients (N, C, h, w)`, or `(N, C, 1, 1)` for channel scores,
and gives the map before the final ReLU, `(N, h, w)`. The contrast is in the gradients already. Volumes have a third
axis of places, `(N, C, d, h, w)`, and every rule takes them too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from finercam.core.maps import aligned, places

__all__ = [
    "eigengradcam",
    "elementwise",
    "gradcam",
    "gradcam_plusplus",
    "hirescam",
    "layercam",
    "softmax_weighted",
    "weighted",
    "xgradcam",
]


def weighted(activations: Tensor, alpha: Tensor) -> Tensor:
    """`sum_k alpha_k A_k` with channel weights `(N, C)`: `(N, h, w)`.

    >>> weighted(torch.ones(1, 2, 3, 3), torch.tensor([[2.0, -0.5]])).unique()
    tensor([1.5000])
    """
    return torch.einsum("nc,nc...->n...", alpha, activations)


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channels weighted by their mean gradient (Selvaraju et al., ICCV 2017, Eq. 1-2; linear in the contrast)."""
    return weighted(activations, gradcam_weights(activations, gradients))


def gradcam_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM's channel weights `(N, C)`."""
    return gradients.mean(dim=places(gradients, 2))


CANCELLED = 1 / 32
"""A channel's sum below this share of its absolute sum is mostly rounding error in half precision."""


def xgradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Gradients averaged by each channel's own activation (Fu et al., BMVC 2020, Eq. 8; linear in the contrast).

    The average is `mean(g) + sum((g - mean(g)) A) / sum(A)`. Where positive and negative activations of a channel cancel
    (after a LayerNorm, for example), the quotient is huge and its sign is rounding error, so the second term fades to
    zero with `sum(A) / sum(|A|)` below 1/32; such a channel gets its Grad-CAM weight. Other channels are unchanged.
    """
    return weighted(activations, xgradcam_weights(activations, gradients))


def xgradcam_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """XGrad-CAM's channel weights `(N, C)`."""
    mean, axes = gradients.mean(dim=places(gradients, 2)), places(activations, 2)
    size = activations.abs().sum(dim=axes)
    size = torch.where(size == 0, torch.inf, size)
    balance = activations.sum(dim=axes) / size  # in [-1, 1]; 1 for activations after a ReLU
    spread = ((gradients - aligned(mean, gradients)) * activations).sum(dim=axes) / size
    return mean + spread * balance / balance.square().clamp(min=CANCELLED**2)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Gradient times activation, place by place (Draelos & Carin, 2020; linear in the contrast)."""
    return (gradients * activations).sum(dim=1)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive gradients weight each place (Jiang et al., TIP 2021, Eq. 5); the contrast comes before this ReLU."""
    return (gradients.relu() * activations).sum(dim=1)


def elementwise(activations: Tensor, gradients: Tensor) -> Tensor:
    """Only what is positive in gradient times activation, place by place ("GradCAMElementWise")."""
    return (gradients * activations).relu().sum(dim=1)


def gradcam_plusplus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Positive gradients weighted by their share (Chattopadhay et al., WACV 2018, Eq. 10 and 19).

    Eq. 19, `g^2 / (2 g^2 + mass g^3)`, is taken as `1 / (2 + mass g)`: the powers of a small gradient vanish beside
    any constant that would keep the quotient finite, and the map would depend on the scale of the logits.
    """
    return weighted(activations, gradcam_plusplus_weights(activations, gradients))


def gradcam_plusplus_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Grad-CAM++'s channel weights `(N, C)`."""
    axes = places(activations, 2)
    below = 2 + activations.sum(dim=axes, keepdim=True) * gradients
    share = torch.where(below == 0, 0.0, 1 / below)
    return (gradients.relu() * share).expand_as(activations).sum(dim=axes)


def eigengradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """First principal component of gradient times activation, signed to agree with their sum.

    Muhammad & Yeasin (IJCNN 2020) project the activations; without gradients the class, and so any contrast,
    would make no difference. The sign of a component is arbitrary, so the sign that agrees with `hirescam` is used.
    """
    product = gradients * activations
    component = principal(product)
    return oriented(component, product)


def principal(features: Tensor) -> Tensor:
    """Each place's score on the first principal component over the channels: `(N, C, h, w)` to `(N, h, w)`.

    Its sign is arbitrary.
    """
    flat = features.flatten(2).mT  # (N, hw, C)
    centred = flat - flat.mean(dim=1, keepdim=True)
    size = centred.abs().amax(dim=(1, 2), keepdim=True)
    centred = centred / torch.where(size == 0, 1.0, size)  # squares of small gradients would vanish
    # Of the two Gram matrices, of places and of channels, the smaller is the cheaper way to the component.
    if centred.shape[1] <= centred.shape[2]:
        values, vectors = torch.linalg.eigh(centred @ centred.mT)
        component = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
    else:
        _, vectors = torch.linalg.eigh(centred.mT @ centred)
        component = (centred @ vectors[..., -1:]).squeeze(2)
    return (component * size.squeeze(2)).unflatten(1, features.shape[2:])


def oriented(component: Tensor, features: Tensor) -> Tensor:
    """A component `(N, h, w)` with the sign that agrees with the sum of its features `(N, C, h, w)`, from its mean.

    Before a normalisation the features of gradient times activation cancel, and the sum is rounding error. The sum of the
    positive features decides there, which is the same in every precision.
    """
    features = features.flatten(2)
    total, size = features.sum(dim=1), features.abs().sum(dim=(1, 2))
    cancelled = total.abs().sum(dim=1) < CANCELLED * size
    total = torch.where(cancelled[:, None], features.relu().sum(dim=1), total)
    total = total - total.mean(dim=1, keepdim=True)
    disagrees = (component.flatten(1) * total).sum(dim=1) < 0
    return torch.where(disagrees.view(-1, *[1] * (component.ndim - 1)), -component, component)


def softmax_weighted(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channel scores through a softmax over the channels (Score-CAM, Wang et al., CVPRW 2020, Algorithm 1).

    All weights are then positive, so the map has no negative evidence; Finer-CAM's Eq. 9 leaves the softmax out.
    """
    return weighted(activations, softmax_weights(activations, gradients))


def softmax_weights(activations: Tensor, gradients: Tensor) -> Tensor:
    """Channel weights `(N, C)` that are positive and add up to 1."""
    return gradients.mean(dim=places(gradients, 2)).softmax(dim=1)
