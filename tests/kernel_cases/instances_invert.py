"""The instances of the inversion's Triton kernels that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.ops._invert_backends import BACKWARD, FORWARD

SIZES = ((8, 16, 32), (16, 32))
# The first for every architecture: LLVM has aborted on it for sm_100.
INSTANCES = (
    ("zeros", torch.bfloat16),
    ("border", torch.float32),
    ("reflection", torch.float64),
)


def launch() -> None:
    """Both kernels in each of the instances."""
    for size in SIZES:
        for padding, dtype in INSTANCES:
            field = torch.zeros(2, len(size), *size, dtype=dtype)
            FORWARD["triton"](field, 1e-3, 100, padding)
            BACKWARD["triton"](field, field, field, padding)
