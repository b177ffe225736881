"""The instances of compose's Triton kernels that are compiled for GPUs: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.compose import compose_backward, compose_forward

# Padding, dtype, size, deterministic: every value of each.
INSTANCES = (
    ("border", torch.float32, (8, 16, 32), False),
    ("zeros", torch.bfloat16, (8, 16, 32), True),
    ("reflection", torch.float64, (8, 16, 32), True),
    ("border", torch.float32, (16, 32), False),
    ("reflection", torch.float16, (16, 32), False),
)


def launch() -> None:
    """Calls the operator's functions once for every instance."""
    for padding, dtype, size, is_deterministic in INSTANCES:
        torch.use_deterministic_algorithms(is_deterministic)
        u = torch.zeros(2, len(size), *size, dtype=dtype)
        compose_both_ways(u, padding)
    torch.use_deterministic_algorithms(False)
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    u = buffer.as_strided((1, 2, 4, 4), (0, 4, 2**30, 1))
    compose_both_ways(u, "zeros")


def compose_both_ways(u: torch.Tensor, padding: str) -> None:
    out, grad_u, grad_v = (u.new_empty(u.shape) for _ in range(3))
    compose_forward(u, u, out, padding)
    compose_backward(out, u, u, grad_u, grad_v, padding)
