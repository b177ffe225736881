"""What a CUDA kernel adds values up in."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def accumulator_of(x: Tensor) -> torch.dtype:
    """The dtype in which the kernels sum values of a tensor's."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def deterministic_scale(values: Tensor, mode: str = "linear") -> Tensor | None:
    """What turns scattered values into integers where PyTorch asks for determinism, else None.

    Args:
        values: ``(N, C, *spatial)``, scattered with the weights of a mode.
        mode: a mode of ``warp``.
    """
    if not torch.are_deterministic_algorithms_enabled() or not values.numel():
        return None
    from plasticine.kernels.fixed_point import fixed_point_scale

    return fixed_point_scale(values, values.shape[2:].numel(), mode)


class ScatterBuffers:
    """The sums of a scatter: in fixed point where they are to be deterministic.

    The kernel fills them with zeros first.

    Attributes:
        arguments: the floating-point sums, the integers and their scale, or None, for a kernel.
    """

    def __init__(self, values: Tensor, shape: Sequence[int], mode: str, wanted: bool) -> None:
        """Allocates the buffers.

        Args:
            values: ``(N, C, *spatial)``, what is scattered; the result has its dtype.
            shape: the result's.
            mode: a mode of ``warp``, whose weights the values are scattered with.
            wanted: whether anything is scattered.
        """
        self.arguments: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None)
        self._dtype = values.dtype
        if wanted:
            sums = values.new_empty(shape, dtype=accumulator_of(values))
            scale = deterministic_scale(values, mode)
            fixed = None if scale is None else values.new_empty(shape, dtype=torch.int64)
            self.arguments = sums, fixed, scale

    def total(self) -> Tensor | None:
        """The sums, rounded once, when the kernel is queued; None where nothing was scattered."""
        sums, fixed, scale = self.arguments
        if sums is None:
            return None
        if fixed is not None and scale is not None:
            from plasticine.kernels.fixed_point import from_fixed_point

            sums = from_fixed_point(fixed, scale, sums)
        return sums.to(self._dtype)
