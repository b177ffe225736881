"""The instances of the cubic warp's Triton kernels that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.ops._warp_backends import BACKWARD, FORWARD

# Mode, padding, image dtype, displacement dtype, affine, size, deterministic, the gradients needed:
# every value of each. An image's gradient alone is what a splat launches.
INSTANCES = (
    ("cubic", "border", torch.float32, torch.float32, False, (8, 16, 32), False, (True,) * 3),
    ("cubic", "zeros", torch.bfloat16, torch.float32, True, (16, 32), False, (False, True, True)),
    ("bspline", "reflection", torch.float32, torch.float16, True, (8, 16, 32), True, (True,) * 3),
    ("bspline", "zeros", torch.float64, torch.float64, True, (16, 32), False, (True,) * 3),
    (
        "cubic",
        "border",
        torch.float16,
        torch.float16,
        False,
        (8, 16, 32),
        False,
        (True, False, False),
    ),
)


def launch() -> None:
    """Calls the operator's Triton backend once for every instance."""
    for mode, padding, dtype, field_dtype, has_affine, size, is_deterministic, needs in INSTANCES:
        torch.use_deterministic_algorithms(is_deterministic)
        ndim = len(size)
        image = torch.zeros(2, 3, *size, dtype=dtype)
        field = torch.zeros(2, ndim, *size, dtype=field_dtype)
        affine = torch.zeros(2, ndim, ndim + 1, dtype=field_dtype) if has_affine else None
        grad = FORWARD["triton"](image, field, affine, mode, padding)
        BACKWARD["triton"](grad, image, field, affine, mode, padding, needs)
    torch.use_deterministic_algorithms(False)
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    image, field = buffer.as_strided((1, 1, 4, 4), (0, 4, 2**30, 1)), torch.zeros(1, 2, 4, 4)
    grad = FORWARD["triton"](image, field, None, "cubic", "zeros")
    BACKWARD["triton"](grad, image, field, None, "cubic", "zeros", (True, True, False))
