"""How all Triton kernels are launched: sizes and strides in their order, index width, blocks.

Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .tuning import Tuned, size_class

# The warps of a program where none are tried.
_WARPS = 4


class Field(NamedTuple):
    """A tensor ``(N, C, *spatial)`` as the kernels take it; see :func:`field_of`."""

    data: Tensor
    strides: tuple[int, int, int, int, int]
    size: tuple[int, int, int]

    @property
    def dtype(self) -> torch.dtype:
        """What the autotuner looks at."""
        return self.data.dtype


def field_of(x: Tensor) -> Field:
    """A tensor with its strides as (n, c, z, y, x) and its spatial size as (z, y, x)."""
    strides = tuple(x.stride())
    strides = strides if len(strides) == 5 else (*strides[:2], 0, *strides[2:])
    return Field(x, strides, spatial_size(x))


def spatial_size(x: Tensor) -> tuple[int, int, int]:
    """The spatial size of ``(N, C, *spatial)`` as (z, y, x)."""
    spatial = tuple(x.shape[2:])
    return spatial if len(spatial) == 3 else (1, *spatial)


def index_type(block: int, *tensors: Tensor) -> tl.dtype:
    """The integer that holds every offset within one channel of the tensors, ``(N, C, *spatial)``.

    Samples and channels are always found with 64 bits.

    Args:
        block: by how many voxels the last program may reach beyond the end.
        tensors: what the kernel reads and writes; contiguous results count as well.
    """
    reach = max(max(_reach(x), x.shape[2:].numel() + block) for x in tensors)
    return tl.int64 if reach >= 1 << 31 else tl.int32


def accumulator(x: Tensor) -> torch.dtype:
    """What values of a dtype are computed in: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def accumulator_type(x: Tensor) -> tl.dtype:
    """The same as a kernel's constant ACC."""
    return tl.float64 if accumulator(x) == torch.float64 else tl.float32


def launch_over_voxels(
    kernel: Any,
    field: Tensor,
    *arguments: Any,
    touched: tuple[Tensor, ...],
    block: int = 0,
    directions: int = 1,
    **constants: Any,
) -> None:
    """Launches a kernel of which each program takes one block of the voxels of one sample.

    Args:
        kernel: takes the constants NDIM, INDEX, ACC and BLOCK and those of ``constants``.
        field: ``(N, d, *spatial)``, whose voxels are shared out, and whose device serves.
        arguments: the kernel's others, in order.
        touched: what the kernel reads and writes at offsets of type INDEX.
        block: the voxels of a program of a kernel that is not :class:`Tuned`.
        directions: how many programs there are for each block of every sample.
        constants: by name.
    """
    samples, voxels = directions * field.shape[0], field.shape[2:].numel()
    if samples * voxels == 0:
        return
    if isinstance(kernel, Tuned):
        block = kernel.largest_block
        constants["size_class"] = size_class(samples * voxels)
    else:
        constants.update(BLOCK=block, num_warps=_WARPS)
    with torch.cuda.device_of(field):
        kernel[lambda chosen: (samples * triton.cdiv(voxels, chosen["BLOCK"]),)](
            *arguments,
            NDIM=field.shape[1],
            INDEX=index_type(block, *touched),
            ACC=accumulator_type(field),
            **constants,
        )


def _reach(x: Tensor) -> int:
    """The largest offset within one channel, in elements."""
    pairs = zip(x.shape[2:], x.stride()[2:], strict=True)
    return sum((size - 1) * abs(stride) for size, stride in pairs)
