"""How far two maps, or two sets of features, agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def soft_dice(a: Tensor, b: Tensor, weight: Tensor | None = None) -> Tensor:
    """Dice overlap of two maps with values in [0, 1], averaged over samples and channels.

    2 sum(w a b) / (sum(w a²) + sum(w b²)) for each sample and channel. With squares below
    the bar two equal maps score 1 even where they are soft, as structure maps are. A
    channel that is zero in both scores 1.

    Source: Milletari, Navab and Ahmadi, "V-Net", 3DV 2016.

    Args:
        a: (N, K, *spatial), floating point.
        b: like a.
        weight: (N, 1, *spatial), bool or floating point, how much each voxel counts; None
            counts all alike. No gradient flows to it.

    Returns:
        A scalar within [0, 1], float64 for float64 maps and float32 otherwise.

    Raises:
        TypeError: a map is not floating point, or the dtypes differ.
        ValueError: shapes do not fit, or the maps are empty.
    """
    if not a.is_floating_point() or a.dtype != b.dtype:
        raise TypeError(f"expected two floating-point maps of one dtype; got {a.dtype}, {b.dtype}")
    if a.shape != b.shape or a.ndim < 3 or a.numel() == 0:
        raise ValueError(
            "expected two maps of one shape (N, K, *spatial), not empty; "
            f"got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if a.dtype != torch.float64:
        a, b = a.float(), b.float()
    weighted_a, weighted_b = a, b
    if weight is not None:
        if weight.shape != (a.shape[0], 1, *a.shape[2:]):
            raise ValueError(
                f"weight must be {(a.shape[0], 1, *a.shape[2:])}; got {tuple(weight.shape)}"
            )
        factor = weight.detach().to(a.dtype)
        weighted_a, weighted_b = a * factor, b * factor
    overlap = 2 * (weighted_a * b).flatten(2).sum(2)
    size = (weighted_a * a).flatten(2).sum(2) + (weighted_b * b).flatten(2).sum(2)
    empty = size == 0
    return torch.where(empty, 1.0, overlap / torch.where(empty, 1.0, size)).mean()


def alignment(h_single: Tensor | Sequence[Tensor], h_pair: Tensor | Sequence[Tensor]) -> Tensor:
    """Mean squared difference of features, pulling ``h_single`` towards ``h_pair`` alone.

    No gradient flows to h_pair: the stem that sees the source alone learns what the stem
    that sees source and target found, and not the other way round.

    Args:
        h_single: features, or a sequence of them (one a scale), each of any shape.
        h_pair: like h_single.

    Returns:
        A scalar: the mean squared difference of each scale, averaged over the scales.

    Raises:
        ValueError: the numbers of scales or their shapes differ.
    """
    singles = [h_single] if isinstance(h_single, Tensor) else list(h_single)
    pairs = [h_pair] if isinstance(h_pair, Tensor) else list(h_pair)
    if not singles or [h.shape for h in singles] != [h.shape for h in pairs]:
        raise ValueError(
            f"features must come in the same shapes; got {[tuple(h.shape) for h in singles]} "
            f"and {[tuple(h.shape) for h in pairs]}"
        )
    differences = [
        (single - pair.detach()).square().mean()
        for single, pair in zip(singles, pairs, strict=True)
    ]
    return torch.stack(differences).mean()
