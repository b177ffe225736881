"""The instances of warp_exponential's Triton kernel that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.warp_exponential import warp_exponential_forward

# Method, mode, padding, the field's padding, image dtype, size: every value of each.
INSTANCES = (
    ("euler", "linear", "border", "border", torch.float32, (8, 16, 32)),
    ("midpoint", "linear", "zeros", "border", torch.bfloat16, (8, 16, 32)),
    ("euler", "nearest", "border", "reflection", torch.float16, (16, 32)),
    ("rk4", "nearest", "reflection", "zeros", torch.float64, (16, 32)),
)


def launch() -> None:
    """Calls the operator's function for every instance: with and without a squaring."""
    for method, mode, padding, field_padding, dtype, size in INSTANCES:
        image = torch.zeros(2, 3, *size, dtype=dtype)
        precise = torch.float64 if dtype == torch.float64 else torch.float32
        velocity = torch.zeros(2, len(size), *size, dtype=precise)
        for steps in (0, 1):
            flow = velocity, 0.5**steps, steps, method, field_padding, 1
            out = torch.empty_like(image)
            warp_exponential_forward(image, flow, out, (None, []), mode, padding)
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    image = torch.empty(2**31 + 16).as_strided((1, 1, 3, 4), (0, 4, 2**30, 1))
    flow = torch.zeros(1, 2, 3, 4), 0.5, 1, "euler", "border", 1
    out = torch.empty(1, 1, 3, 4)
    warp_exponential_forward(image, flow, out, (None, []), "linear", "zeros")
