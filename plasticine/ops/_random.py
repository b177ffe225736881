"""Random choices that a seed repeats on every device, with nothing read back."""

from __future__ import annotations

import torch
from torch import Tensor

_32_BITS = 0xFFFFFFFF


def stratified(total: int, fraction: float, seed: int, device: torch.device) -> Tensor:
    """One index of each of so many equal shares of ``range(total)``, in order.

    Args:
        total: of how many.
        fraction: that of them to choose; at least one of one or more.
        seed: another one gives other indices.
        device: where they are wanted.

    Returns:
        int64 indices, ``(round(fraction * total),)``.
    """
    count = max(round(total * fraction), min(total, 1))
    k = torch.arange(count + 1, dtype=torch.int64, device=device)
    edges = k * total // max(count, 1)
    drawn = hashed(k[:-1] ^ hash_of(seed))
    return edges[:-1] + (drawn * edges.diff() >> 32)


def hashed(x: Tensor) -> Tensor:
    """32 random bits of each of int64 numbers: lowbias32.

    Source: C. Wellons, "Prospecting for hash functions" (2018).
    """
    x = x & _32_BITS
    x = (x ^ (x >> 16)) * 0x7FEB352D & _32_BITS
    x = (x ^ (x >> 15)) * 0x846CA68B & _32_BITS
    return x ^ (x >> 16)


def hash_of(seed: int) -> int:
    """A seed's 32 bits, so spread that seeds which follow each other have nothing in common."""
    x = seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
    return x >> 32
