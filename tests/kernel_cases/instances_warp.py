"""The instances of warp's Triton kernels that are compiled for GPUs: see compile_triton.py."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.kernels.warp import warp_backward, warp_forward

HALF, SINGLE, DOUBLE = torch.float16, torch.float32, torch.float64
BFLOAT = torch.bfloat16
VOLUME, PLANE = (8, 16, 32), (16, 32)
ALL = (True, True, True)
# Mode, padding, image dtype, displacement dtype, affine, size, deterministic, the gradients needed:
# every value of each. An image's gradient alone is what a splat launches.
INSTANCES = (
    ("linear", "zeros", SINGLE, SINGLE, False, VOLUME, False, ALL),
    ("linear", "border", BFLOAT, SINGLE, True, VOLUME, False, ALL),
    ("linear", "reflection", DOUBLE, DOUBLE, True, VOLUME, True, ALL),
    ("linear", "zeros", SINGLE, SINGLE, False, PLANE, False, ALL),
    ("nearest", "border", HALF, HALF, False, PLANE, True, ALL),
    ("cubic", "border", SINGLE, SINGLE, False, VOLUME, False, ALL),
    ("cubic", "zeros", BFLOAT, SINGLE, True, PLANE, False, (False, True, True)),
    ("bspline", "reflection", SINGLE, HALF, True, VOLUME, True, ALL),
    ("bspline", "zeros", DOUBLE, DOUBLE, True, PLANE, False, ALL),
    ("cubic", "border", HALF, HALF, False, VOLUME, False, (True, False, False)),
)


def launch() -> None:
    """Calls the operator's functions once for every instance."""
    for mode, padding, dtype, field_dtype, has_affine, size, is_deterministic, needs in INSTANCES:
        torch.use_deterministic_algorithms(is_deterministic)
        ndim = len(size)
        image = torch.zeros(2, 3, *size, dtype=dtype)
        field = torch.zeros(2, ndim, *size, dtype=field_dtype)
        affine = torch.zeros(2, ndim, ndim + 1, dtype=field_dtype) if has_affine else None
        warp_both_ways(image, field, affine, mode, padding, needs)
    torch.use_deterministic_algorithms(False)
    # 64-bit offsets: rows that lie 2**30 elements apart, in memory that is never touched.
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    image, field = buffer.as_strided((1, 1, 4, 4), (0, 4, 2**30, 1)), torch.zeros(1, 2, 4, 4)
    for mode in ("linear", "cubic"):
        warp_both_ways(image, field, None, mode, "zeros", ALL)


def warp_both_ways(
    image: Tensor,
    field: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    needs: tuple[bool, bool, bool],
) -> None:
    inputs = image, field, affine
    out = image.new_empty(image.shape)
    gradients = (
        x.new_empty(x.shape) if x is not None and needed else None
        for x, needed in zip(inputs, needs, strict=True)
    )
    warp_forward(*inputs, out, mode, padding)
    warp_backward(out, *inputs, *gradients, mode, padding)
