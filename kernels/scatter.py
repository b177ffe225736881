"""Sums over all the voxels that meet in one place, for the Triton kernels that scatter."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fixed_point import fixed_point_scale, from_fixed_point
from .launch import accumulator


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


class ScatteredSums:
    """What a kernel adds a result up in: the result itself where it is of the accumulator's dtype.

    Args:
        result: ``(N, C, *spatial)``, contiguous; None where it is not wanted.
        grad: ``(N, C, *other)``, what is scattered; in fixed point under
            ``torch.use_deterministic_algorithms``.
        mode: the mode of ``warp`` that gives each value its weights.

    Attributes:
        sums: floating-point sums, 0 to begin with; None where there is no result.
        fixed: int64 sums of what is finite, or None.
        scale: what turns a share into an integer, or None.
    """

    def __init__(self, result: Tensor | None, grad: Tensor, mode: str = "linear") -> None:
        self.result = result
        self.sums = self.fixed = self.scale = None
        if result is None:
            return
        dtype = accumulator(result)
        self.sums = result if result.dtype == dtype else torch.empty_like(result, dtype=dtype)
        self.sums.zero_()
        if grad.numel() and torch.are_deterministic_algorithms_enabled():
            self.fixed = torch.zeros_like(result, dtype=torch.int64)
            self.scale = fixed_point_scale(grad, grad.shape[2:].numel(), mode)

    def finish(self) -> None:
        """Writes the rounded sums to the result."""
        if self.fixed is not None:
            from_fixed_point(self.fixed, self.scale, self.sums)
        if self.sums is not self.result:
            self.result.copy_(self.sums)
