"""Which targets are nearest to a source in structure."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from plasticine.nn.finite import check_finite

_POOL = {2: functional.adaptive_avg_pool2d, 3: functional.adaptive_avg_pool3d}


@torch.no_grad()
def structure_descriptor(
    image: Tensor,
    structure: Callable[..., Tensor],
    cells: int = 16,
    batch: int = 16,
    *,
    labels: Tensor | None = None,
) -> Tensor:
    """A coarse description of where an image has which structure.

    The structure map, averaged over a grid of cells. Images of different sizes have
    descriptors of one length, so they can be compared across domains.

    Args:
        image: (N, 1, *spatial) within [-1, 1].
        structure: the structure map S, such as one of ``plasticine.structure``.
        cells: cells along each axis.
        batch: images whose structure is computed at a time.
        labels: (N, 1, *spatial), the label maps of a structure map that needs them, given to
            it as its argument ``labels``; None without them.

    Returns:
        (N, channels x cells^d), of the structure map's dtype.

    Raises:
        ValueError: the image does not have 2 or 3 spatial axes, or has none of its kind.
    """
    ndim = image.ndim - 2
    if ndim not in _POOL or len(image) == 0:
        raise ValueError(
            f"expected images (N, 1, *spatial) with 2 or 3 axes; got {tuple(image.shape)}"
        )
    pool = _POOL[ndim]
    parts = image.split(batch)
    if labels is None:
        return torch.cat([pool(structure(part), cells).flatten(1) for part in parts])
    pairs = zip(parts, labels.split(batch), strict=True)
    return torch.cat([pool(structure(x, labels=of_x), cells).flatten(1) for x, of_x in pairs])


@torch.no_grad()
def nearest_targets(
    source: Tensor, target: Tensor, count: int, *, allowed: Tensor | None = None
) -> Tensor:
    """The ``count`` targets nearest to each source, by Euclidean distance of descriptors.

    Args:
        source: (sources, features), from ``structure_descriptor``.
        target: (targets, features).
        count: how many to find for each source.
        allowed: (sources, targets) bool, False where a pair must not be made (for example
            because it is the same patient); None allows all.

    Returns:
        (sources, count) int64 indices into target, nearest first; equal distances in the
        order of the targets.

    Raises:
        ValueError: shapes do not fit, descriptors are NaN or infinite, or a source has fewer
            allowed targets than ``count``.
    """
    if source.ndim != 2 or target.ndim != 2 or source.shape[1] != target.shape[1]:
        raise ValueError(
            "descriptors must be (images, features) with the same features; "
            f"got {tuple(source.shape)} and {tuple(target.shape)}"
        )
    check_finite(source, "source")
    check_finite(target, "target")
    distance = torch.cdist(source, target)
    available = len(target)
    if allowed is not None:
        if allowed.shape != distance.shape or allowed.dtype != torch.bool:
            raise ValueError(
                f"allowed must be bool {tuple(distance.shape)}; "
                f"got {allowed.dtype} {tuple(allowed.shape)}"
            )
        distance = distance.masked_fill(~allowed, torch.inf)
        available = int(allowed.sum(1).min()) if len(source) else available
    if not 1 <= count <= available:
        raise ValueError(f"a source has {available} targets to choose from; got count={count}")
    return distance.sort(stable=True, dim=1).indices[:, :count]
