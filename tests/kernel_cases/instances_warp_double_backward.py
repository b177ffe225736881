"""The instances of the second derivatives in Triton that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.ops._warp_double_backward_backends import DOUBLE_BACKWARD

# Padding, image dtype, field dtype, affine, add, size, deterministic: every value of each.
INSTANCES = (
    ("border", torch.float32, torch.float32, False, True, (8, 16, 32), False),
    ("zeros", torch.bfloat16, torch.float32, True, False, (8, 16, 32), False),
    ("reflection", torch.float64, torch.float64, True, False, (8, 16, 32), True),
    ("border", torch.float16, torch.float16, True, False, (16, 32), True),
    ("zeros", torch.float32, torch.float32, False, True, (16, 32), False),
)


def launch() -> None:
    """Calls the operator's Triton backend: all directions and results, once some."""
    serve = DOUBLE_BACKWARD["triton"]
    for padding, dtype, field_dtype, has_affine, add, size, is_deterministic in INSTANCES:
        torch.use_deterministic_algorithms(is_deterministic)
        ndim = len(size)
        image = torch.zeros(2, ndim, *size, dtype=dtype)
        field = torch.zeros(2, ndim, *size, dtype=field_dtype)
        affine = torch.zeros(2, ndim, ndim + 1, dtype=field_dtype) if has_affine else None
        inputs = (image, image, field, affine)
        options = ("linear", padding, add)
        serve((image, field, affine), *inputs, *options, (True, True, True, True))
    serve((image, None, None), *inputs, *options, (True, False, True, False))
    torch.use_deterministic_algorithms(False)
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    image = buffer.as_strided((1, 2, 4, 4), (0, 4, 2**30, 1))
    field = torch.zeros(1, 2, 4, 4)
    inputs = (image, image, field, None)
    serve((image, field, None), *inputs, "linear", "zeros", True, (True, True, True, False))
