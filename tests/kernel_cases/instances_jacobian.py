"""The instances of the Jacobian's Triton kernels that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.ops.jacobian import BACKWARD, FORWARD

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
            FORWARD["triton"](field, scheme, spacing)
            BACKWARD["triton"](field[:, :1], field, scheme, spacing)
