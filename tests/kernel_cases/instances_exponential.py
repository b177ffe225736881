"""The instances of exponential's Triton kernels that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.exponential import exponential_backward, exponential_forward

# Method, padding, dtype, size: every value of each.
INSTANCES = (
    ("euler", "border", torch.float32, (8, 16, 32)),
    ("midpoint", "zeros", torch.float32, (16, 32)),
    ("rk4", "reflection", torch.float64, (8, 16, 32)),
)
NO_STAGES: tuple[None, list[int]] = (None, [])


def launch() -> None:
    """Calls the operator's functions once for every instance; both directions, and one."""
    for method, padding, dtype, size in INSTANCES:
        velocity = torch.zeros(2, len(size), *size, dtype=dtype)
        out, inverse = torch.empty_like(velocity), torch.empty_like(velocity)
        exponential_forward((velocity, 1.0, 0, method, padding, 1), out, None, NO_STAGES)
        flow = velocity, 0.5, 1, method, padding, 1
        exponential_forward(flow, out, inverse, NO_STAGES)
        exponential_backward(flow, out, NO_STAGES, inverse)
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    velocity = torch.empty(2**31 + 16).as_strided((1, 2, 3, 4), (0, 4, 2**30, 1))
    out, grad = torch.empty(1, 2, 3, 4), torch.empty(1, 2, 3, 4)
    exponential_forward((velocity, 0.5, 1, "euler", "zeros", 1), out, None, NO_STAGES)
    exponential_backward((velocity, 0.5, 1, "rk4", "zeros", 1), out, NO_STAGES, grad)
