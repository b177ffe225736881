"""Sums that do not depend on their order: fixed point in 64-bit integers.

Floating-point atomics add in whatever order the threads arrive, so a scattered gradient changes in
its last bits from run to run. Integer addition is associative: a scatter of fixed-point numbers
gives the same bits every time. Infinities and NaN have no fixed-point form; kernels add those, and
only those, to a floating-point buffer beside the integers, where their sum is inf, -inf or NaN in
any order.
"""

from __future__ import annotations

import torch
from torch import Tensor

# |sum| must stay below 2**63; one bit is left for the rounding of the terms.
_SUM_BITS = 62
# 2**±1000 and products with a float's smallest and largest values are within a double.
_LARGEST_EXPONENT = 1000


def fixed_point_scale(grad: Tensor, contributions: int) -> Tensor:
    """The power of two that turns gradients into 64-bit integers whose sums cannot overflow.

    The resolution is ``max|grad| * contributions / 2**62``: about 2e-12 of the largest gradient for
    a volume of 192 x 160 x 224.

    Args:
        grad: the values to be scattered, each with weights that sum to at most 1; any shape.
        contributions: the most values that can meet in one sum.

    Returns:
        A float64 tensor with one element on the device of ``grad``; computing it does not
        synchronise.
    """
    largest = finite_peak(grad)
    exponent = torch.frexp(largest).exponent.to(torch.float64)  # largest < 2**exponent
    bits = _SUM_BITS - max(contributions, 1).bit_length()
    power = (bits - exponent).clamp(-_LARGEST_EXPONENT, _LARGEST_EXPONENT)
    return torch.exp2(power).reshape(1)


def finite_peak(x: Tensor) -> Tensor:
    """The greatest magnitude among the finite elements, of which there is one at least: float64."""
    magnitude = x.detach().abs()
    return torch.where(torch.isfinite(magnitude), magnitude, 0).amax().to(torch.float64)


def from_fixed_point(total: Tensor, scale: Tensor, non_finite: Tensor) -> Tensor:
    """The sums as floating-point numbers.

    Args:
        total: int64 sums of ``value * scale``.
        scale: what :func:`fixed_point_scale` gave.
        non_finite: floating-point sums of the infinities and NaN, of the shape of ``total``; it is
            overwritten with the result.

    Returns:
        ``non_finite``, now holding ``total / scale`` plus what it held.
    """
    return non_finite.add_((total.to(torch.float64) / scale).to(non_finite.dtype))
