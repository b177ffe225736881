"""The instances of folding's Triton kernel that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.folding import folding

SIZES = ((8, 16, 32), (16, 32))
INSTANCES = (
    ("central", torch.float32, False),
    ("forward", torch.bfloat16, True),
    ("backward", torch.float64, False),
)


def launch() -> None:
    """The kernel in each of the instances."""
    for size in SIZES:
        for scheme, dtype, interior in INSTANCES:
            field = torch.zeros(2, len(size), *size, dtype=dtype)
            statistics = torch.empty(2, 6, dtype=torch.float64)
            folding(field, statistics, scheme, interior, (1.0, 1.5, 2.0)[: len(size)])
