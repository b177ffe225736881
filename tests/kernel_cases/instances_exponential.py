"""The instances of exponential's Triton kernels that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.ops._exponential_backends import BACKWARD, FORWARD

# Method, padding, dtype, size: every value of each.
INSTANCES = (
    ("euler", "border", torch.float32, (8, 16, 32)),
    ("midpoint", "zeros", torch.float32, (16, 32)),
    ("rk4", "reflection", torch.float64, (8, 16, 32)),
)


def launch() -> None:
    """Calls the operator's Triton backend once for every instance; both directions, and one."""
    for method, padding, dtype, size in INSTANCES:
        velocity = torch.zeros(2, len(size), *size, dtype=dtype)
        FORWARD["triton"](velocity, 0, method, padding, False, [])
        FORWARD["triton"](velocity, 1, method, padding, True, [])
        BACKWARD["triton"](velocity, velocity, None, 0.5, 1, method, padding, [])
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    velocity = torch.empty(2**31 + 16).as_strided((1, 2, 3, 4), (0, 4, 2**30, 1))
    FORWARD["triton"](velocity, 1, "euler", "zeros", False, [])
    BACKWARD["triton"](velocity, velocity, None, 0.5, 1, "rk4", "zeros", [])
