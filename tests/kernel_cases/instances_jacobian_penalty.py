"""The instances of the Triton kernels of jacobian_penalty that are compiled: compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.jacobian_penalty import (
    jacobian_penalty_backward,
    jacobian_penalty_forward,
)

SIZES = ((8, 16, 32), (16, 32))
INSTANCES = (
    ("hinge", "central", torch.float32),
    ("log", "central", torch.float32),
    ("log", "forward", torch.bfloat16),
    ("hinge", "backward", torch.float16),
    ("log", "central", torch.float64),
)


def launch() -> None:
    """Both kernels in each of the instances."""
    for size in SIZES:
        spacing = (1.0, 1.5, 2.0)[: len(size)]
        for kind, scheme, dtype in INSTANCES:
            field = torch.zeros(2, len(size), *size, dtype=dtype)
            precision = torch.promote_types(dtype, torch.float32)
            out, grad = torch.empty(2, dtype=precision), torch.empty_like(field)
            jacobian_penalty_forward(field, out, 0.05, kind, scheme, spacing)
            jacobian_penalty_backward(out, field, grad, 0.05, kind, scheme, spacing)
