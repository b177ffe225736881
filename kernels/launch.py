"""What the launches of all Triton kernels need: sizes and strides in their order, index width.

Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0.
"""

from __future__ import annotations

import torch
import triton.language as tl
from torch import Tensor


def spatial_size(x: Tensor) -> tuple[int, int, int]:
    """The spatial size of ``(N, C, *spatial)`` as (z, y, x)."""
    spatial = tuple(x.shape[2:])
    return spatial if len(spatial) == 3 else (1, *spatial)


def element_strides(x: Tensor) -> tuple[int, int, int, int, int]:
    """The strides of ``(N, C, *spatial)`` as (n, c, z, y, x)."""
    strides = tuple(x.stride())
    return strides if len(strides) == 5 else (*strides[:2], 0, *strides[2:])


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


def _reach(x: Tensor) -> int:
    """The largest offset within one channel, in elements."""
    pairs = zip(x.shape[2:], x.stride()[2:], strict=True)
    return sum((size - 1) * abs(stride) for size, stride in pairs)
