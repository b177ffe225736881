"""The instances of warp's Triton kernels that are compiled for GPUs: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.ops._warp_backends import BACKWARD, FORWARD

# Mode, padding, image dtype, displacement dtype, affine, size, deterministic: every value of each.
INSTANCES = (
    ("linear", "zeros", torch.float32, torch.float32, False, (8, 16, 32), False),
    ("linear", "border", torch.bfloat16, torch.float32, True, (8, 16, 32), False),
    ("linear", "reflection", torch.float64, torch.float64, True, (8, 16, 32), True),
    ("linear", "zeros", torch.float32, torch.float32, False, (16, 32), False),
    ("nearest", "border", torch.float16, torch.float16, False, (16, 32), True),
)


def launch() -> None:
    """Calls the operator's Triton backend once for every instance."""
    for mode, padding, dtype, field_dtype, has_affine, size, is_deterministic in INSTANCES:
        torch.use_deterministic_algorithms(is_deterministic)
        ndim = len(size)
        image = torch.zeros(2, 3, *size, dtype=dtype)
        field = torch.zeros(2, ndim, *size, dtype=field_dtype)
        affine = torch.zeros(2, ndim, ndim + 1, dtype=field_dtype) if has_affine else None
        grad = FORWARD["triton"](image, field, affine, mode, padding)
        BACKWARD["triton"](grad, image, field, affine, mode, padding, (True, True, True))
    torch.use_deterministic_algorithms(False)
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    image, field = buffer.as_strided((1, 1, 4, 4), (0, 4, 2**30, 1)), torch.zeros(1, 2, 4, 4)
    grad = FORWARD["triton"](image, field, None, "linear", "zeros")
    BACKWARD["triton"](grad, image, field, None, "linear", "zeros", (True, True, False))
