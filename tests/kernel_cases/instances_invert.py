"""The instances of the inversion's Triton kernels that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.invert import invert_backward, invert_forward

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
            inverse, grad = torch.empty_like(field), torch.empty_like(field)
            residual = torch.empty(2, dtype=torch.promote_types(dtype, torch.float32))
            iterations = torch.empty(2, dtype=torch.int64)
            invert_forward(field, inverse, residual, iterations, 1e-3, 100, padding)
            invert_backward(field, field, inverse, grad, padding)
