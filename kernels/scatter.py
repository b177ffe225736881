"""Sums over all the voxels that meet in one place, for the Triton kernels that scatter."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scatter(target, fixed, plane, offset, contribution, mask, scale):
    """Adds to one plane of a gradient; in fixed point where an int64 buffer is given."""
    if fixed is None:
        tl.atomic_add(target + plane + offset, contribution, mask=mask, sem="relaxed")
    else:
        finite = tl.abs(contribution) < float("inf")
        integer = tl.floor(tl.where(finite, contribution, 0).to(tl.float64) * scale + 0.5)
        integer = integer.to(tl.int64)
        tl.atomic_add(fixed + plane + offset, integer, mask=mask & finite, sem="relaxed")
        tl.atomic_add(target + plane + offset, contribution, mask=mask & ~finite, sem="relaxed")
