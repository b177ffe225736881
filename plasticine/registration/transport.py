"""Which source belongs to which target, where two populations differ in shape."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plasticine.nn.finite import check_finite
from plasticine.ops.warp import warp

_ITERATIONS = 100
"""At each weight of the entropy."""


def centroid(labels: Tensor) -> Tensor:
    """The mean place of what is labelled.

    Args:
        labels: (N, K, *spatial), the channels of a label map; their sum weighs each voxel.

    Returns:
        (N, d) float32, in voxels.

    Raises:
        ValueError: nothing is labelled in one of the images.
    """
    weight = labels.float().sum(1)
    total = weight.flatten(1).sum(1, keepdim=True)
    if not (total > 0).all():
        raise ValueError(
            f"nothing is labelled in {int((total <= 0).sum())} of {len(labels)} images"
        )
    places = []
    for axis in range(weight.ndim - 1):
        others = [1 + other for other in range(weight.ndim - 1) if other != axis]
        along = weight.sum(others) if others else weight
        voxel = torch.arange(along.shape[1], dtype=along.dtype, device=along.device)
        places.append((along * voxel).sum(1, keepdim=True) / total)
    return torch.cat(places, 1)


def moved_by(image: Tensor, offset: Tensor) -> Tensor:
    """``image`` at p + offset, its edge repeated outside.

    Args:
        image: (N, C, *spatial), floating point.
        offset: (N, d), voxels.
    """
    count, ndim = offset.shape
    field = offset.to(image.dtype).view(count, ndim, *([1] * ndim))
    return warp(image, field.expand(count, ndim, *image.shape[2:]), padding="border")


def whole(offset: Tensor) -> Tensor:
    """The nearest whole voxels, a half upwards: moved by so much, labels stay 0 and 1."""
    return (offset + 0.5).floor()


def shape_distance(source: Tensor, target: Tensor) -> Tensor:
    """How many voxels are labelled otherwise, each pair's centroids laid over one another.

    Args:
        source: (n, K, *spatial), channels of 0 and 1, at most one of them 1 in a voxel.
        target: (m, K, *spatial), likewise.

    Returns:
        (n, m) float32, voxels; of shapes that hold one another, the difference of their volumes.

    Raises:
        ValueError: shapes do not fit, or nothing is labelled in an image.
    """
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(
            "expected labels of the same channels and size; "
            f"got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    middle = torch.tensor(
        [(n - 1) / 2 for n in source.shape[2:]], dtype=torch.float32, device=source.device
    )
    a, b = (
        moved_by(labels.float(), whole(centroid(labels) - middle)).flatten(1)
        for labels in (source, target)
    )
    return a.sum(1, keepdim=True) + b.sum(1) - 2 * (a @ b.T)


def transport_plan(distance: Tensor, entropy: float, *, allowed: Tensor | None = None) -> Tensor:
    """Which targets each source is to become so that, together, all targets are met alike.

    The nearest target of a source is the one that differs least: where one population is larger
    than the other, nearest neighbours give the large to the largest and leave the small out, and
    the difference of the populations is not learned. The optimal transport between the two gives
    every target the same share; with the squared distance the order is kept: the largest source
    meets the largest target, and the smallest the smallest.

    Source: Cuturi, "Sinkhorn distances", NIPS 2013; in logarithms and float64, the
    entropy annealed.

    Args:
        distance: (n, m), not negative.
        entropy: weight of the plan's entropy, as a share of the median squared distance: more
            spreads a source over more targets.
        allowed: (n, m) bool, false where a pair must not be made; None allows all.

    Returns:
        (n, m) float32, the share of each target for each source: rows sum up to 1 and
        columns, as far as the iterations have converged, to n / m.

    Raises:
        ValueError: the entropy is not positive, shapes do not fit, a distance is NaN or infinite,
            or an image has no partner.
    """
    if not entropy > 0:
        raise ValueError(f"entropy must be positive; got {entropy}")
    if distance.ndim != 2 or distance.numel() == 0:
        raise ValueError(f"expected distances (n, m), not empty; got {tuple(distance.shape)}")
    check_finite(distance, "distance")
    cost = distance.double().square()
    scale = cost.median().clamp_min(torch.finfo(cost.dtype).tiny)
    if allowed is not None:
        if allowed.shape != distance.shape or allowed.dtype != torch.bool:
            raise ValueError(
                f"allowed must be bool {tuple(distance.shape)}; "
                f"got {allowed.dtype} {tuple(allowed.shape)}"
            )
        if not (allowed.any(0).all() and allowed.any(1).all()):
            raise ValueError("an image may be paired with none of the other domain")
        cost = cost.masked_fill(~allowed, torch.inf)
    columns = torch.zeros_like(cost[0])
    share = math.log(len(cost) / cost.shape[1])
    for weight in _annealed(entropy):
        unit = weight * scale
        for _ in range(_ITERATIONS):
            rows = -unit * torch.logsumexp((columns - cost) / unit, 1)
            columns = unit * (share - torch.logsumexp((rows[:, None] - cost) / unit, 0))
    return torch.softmax((columns - cost) / unit, 1).float()


def _annealed(entropy: float) -> list[float]:
    """Weights that fall by halves to the one asked for; a small one alone converges slowly."""
    halvings = max(0, math.ceil(-math.log2(entropy)))
    return [entropy * 2**step for step in range(halvings, -1, -1)]
