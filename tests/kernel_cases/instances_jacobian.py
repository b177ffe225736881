"""The instances of the Jacobian's Triton kernels that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.jacobian import jacobian_backward, jacobian_forward

SIZES = ((8, 16, 32), (16, 32))
INSTANCES = (
    ("central", torch.float32),
    ("forward", torch.bfloat16),
    ("backward", torch.float16),
    ("central", torch.float64),
)


def launch() -> None:
    """Both kernels in each of the instances."""
    for size in SIZES:
        spacing = (1.0, 1.5, 2.0)[: len(size)]
        for scheme, dtype in INSTANCES:
            field = torch.zeros(2, len(size), *size, dtype=dtype)
            out, grad = torch.empty(2, 1, *size, dtype=dtype), torch.empty_like(field)
            jacobian_forward(field, out, scheme, spacing)
            jacobian_backward(field[:, :1], field, grad, scheme, spacing)
