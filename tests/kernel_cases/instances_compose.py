"""The instances of compose's Triton kernels that are compiled for GPUs: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.ops._compose_backends import BACKWARD, FORWARD

# Padding, dtype, size, deterministic: every value of each.
INSTANCES = (
    ("border", torch.float32, (8, 16, 32), False),
    ("zeros", torch.bfloat16, (8, 16, 32), True),
    ("reflection", torch.float64, (8, 16, 32), True),
    ("border", torch.float32, (16, 32), False),
    ("reflection", torch.float16, (16, 32), False),
)


def launch() -> None:
    """Calls the operator's Triton backend once for every instance."""
    for padding, dtype, size, is_deterministic in INSTANCES:
        torch.use_deterministic_algorithms(is_deterministic)
        u = torch.zeros(2, len(size), *size, dtype=dtype)
        grad = FORWARD["triton"](u, u, padding)
        BACKWARD["triton"](grad, u, u, padding, (True, True))
    torch.use_deterministic_algorithms(False)
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    u = buffer.as_strided((1, 2, 4, 4), (0, 4, 2**30, 1))
    grad = FORWARD["triton"](u, u, "zeros")
    BACKWARD["triton"](grad, u, u, "zeros", (True, True))
