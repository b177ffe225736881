"""Label maps as a few channels whose squared difference says where labels differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from plasticine.ops._checks import is_tensor
from plasticine.registration.similarity import Similarity, similarities_of

# A label more than these, and labels share channels.
_CHANNELS = 8
# Tries of a code for each label, of which the one is taken that is least like those before it.
_TRIES = 64


def label_channels(
    moving: Tensor, fixed: Tensor, moving_labels: Tensor | None, fixed_labels: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Two label maps as images, in which every label has a unit vector of its own.

    Of up to eight labels that is one channel for each, 1 inside. Of more the vectors are spread in
    eight dimensions, nearly at right angles: the squared difference of two codes is 2 for labels
    that differ, more or less, and its gradient that of a channel for every label, more or less,
    in the memory of eight. What is not labelled, 0, and what only one of the maps has is 0.

    Args:
        moving: (1, C, *spatial), the image whose dtype and device the channels have.
        fixed: (1, C, *its own spatial).
        moving_labels: (1, 1, *spatial of moving), an integer dtype.
        fixed_labels: (1, 1, *spatial of fixed), likewise.

    Returns:
        (1, K, *spatial) of each. The vectors are drawn from a fixed seed: the same every time.

    Raises:
        TypeError: a map is no tensor of integers.
        ValueError: there is only one, it is of another shape, or they share no label but 0.
    """
    if moving_labels is None or fixed_labels is None:
        raise ValueError("labels drive a registration in pairs: of the moving and the fixed image")
    for name, labels, image in (
        ("moving_labels", moving_labels, moving),
        ("fixed_labels", fixed_labels, fixed),
    ):
        is_tensor(labels, name)
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"{name} must be of an integer dtype; got {labels.dtype}")
        if labels.shape != (1, 1, *image.shape[2:]):
            raise ValueError(
                f"{name} must be (1, 1, *spatial) of their image, {tuple(image.shape)}; "
                f"got {tuple(labels.shape)}"
            )
    own, other = (
        labels.unique().long().to(moving.device) for labels in (moving_labels, fixed_labels)
    )
    common = own[torch.isin(own, other) & (own != 0)]
    if not len(common):
        raise ValueError(
            "the label maps must share a label that is not 0; of the moving image there are "
            f"{own.tolist()[:10]}, of the fixed one {other.tolist()[:10]}"
        )
    codes = _codes(len(common)).to(moving)
    codes = torch.cat([codes.new_zeros(1, codes.shape[1]), codes])

    def coded(labels: Tensor) -> Tensor:
        labels = labels[0, 0].long().to(moving.device)
        rank = torch.searchsorted(common, labels).clamp_max_(len(common) - 1)
        rank = torch.where(common[rank] == labels, rank + 1, 0)
        return torch.stack([code[rank] for code in codes.T])[None]

    return coded(moving_labels), coded(fixed_labels)


def with_labels(
    similarity: Similarity | Sequence[Similarity],
    images: tuple[Tensor, Tensor],
    labels: tuple[Tensor | None, Tensor | None],
    weight: float,
) -> tuple[tuple[Similarity, ...], tuple[Tensor, Tensor]]:
    """What images are compared by, and the images, with labels that drive the registration.

    Args:
        similarity: of the images.
        images: (1, C, *spatial), the moving one and the fixed one.
        labels: (1, 1, *spatial) of each.
        weight: of the labels, beside 1 of all similarities together.

    Returns:
        The similarities and one of the labels; the images with the labels' channels after theirs.
    """
    coded = label_channels(*images, *labels)
    own, more = images[0].shape[1], coded[0].shape[1]
    found = [
        replace(one, channels=one.channels or range(own)) for one in similarities_of(similarity)
    ]
    total = sum(one.weight for one in found)
    channels = range(own, own + more)
    found.append(Similarity("sum_of_squares", weight=weight * total, channels=channels))
    both = torch.cat([images[0], coded[0]], 1), torch.cat([images[1], coded[1]], 1)
    return tuple(found), both


def _codes(count: int) -> Tensor:
    """Unit vectors (count, K), float64."""
    if count <= _CHANNELS:
        return torch.eye(count, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = torch.eye(_CHANNELS, dtype=torch.float64)
    for _ in range(count - _CHANNELS):
        tries = torch.randn(_TRIES, _CHANNELS, generator=generator, dtype=torch.float64)
        tries = tries / tries.norm(dim=1, keepdim=True)
        likeness = (tries @ found.T).amax(1)
        found = torch.cat([found, tries[likeness.argmin()][None]])
    return found
