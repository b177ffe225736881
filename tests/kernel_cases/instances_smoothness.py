"""The instances of the Triton kernels of smoothness that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.smoothness import smoothness_backward, smoothness_forward

SIZES = ((8, 16, 32), (16, 32))
INSTANCES = (
    (1, "forward", torch.float32),
    (2, "forward", torch.float16),
    (1, "central", torch.bfloat16),
    (2, "central", torch.float32),
    (2, "central", torch.float64),
)


def launch() -> None:
    """Both kernels in each of the instances."""
    for size in SIZES:
        spacing = (1.0, 1.5, 2.0)[: len(size)]
        for order, scheme, dtype in INSTANCES:
            field = torch.zeros(2, len(size), *size, dtype=dtype)
            precision = torch.promote_types(dtype, torch.float32)
            out, grad = torch.empty(2, dtype=precision), torch.empty_like(field)
            smoothness_forward(field, out, order, scheme, spacing)
            smoothness_backward(out, field, grad, order, scheme, spacing)
