"""How tensors and words cross to the compiled backends, which know nothing of PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

MODE_CODES = {"linear": 0, "nearest": 1, "cubic": 2, "bspline": 3}
PADDING_CODES = {"zeros": 0, "border": 1, "reflection": 2}
METHOD_CODES = {"euler": 0, "midpoint": 1, "rk4": 2}
SCHEME_CODES = {"central": 0, "forward": 1, "backward": 2}

_DTYPE_CODES = {
    torch.float32: 0,
    torch.float64: 1,
    torch.float16: 2,
    torch.bfloat16: 3,
    torch.int64: 4,
}

# Fields of fewer elements are left to one thread.
SHARED_SIZE = 8192

NativeTensor = tuple[int, int, tuple[int, ...], tuple[int, ...]]
# Velocity, scale, steps, method, padding, and a CPU's threads.
NativeFlow = tuple[NativeTensor, float, int, int, int, int]
# A stack of displacements, and which steps they are.
NativeStages = tuple[NativeTensor | None, list[int]]


def native(x: Tensor) -> NativeTensor:
    """A tensor as the native functions take it: address, dtype code, shape, strides.

    The caller keeps the tensor alive until the call is over (on CUDA: until the work is queued on
    the tensor's stream).
    """
    return x.data_ptr(), _DTYPE_CODES[x.dtype], x.shape, x.stride()


def native_or_none(x: Tensor | None) -> NativeTensor | None:
    """The same for an optional tensor."""
    return None if x is None else native(x)


def threads_for(field: Tensor) -> int:
    """How many threads to use on a field of this size; no result depends on their number.

    A few thousand voxels are done before a second thread has woken up.
    """
    return torch.get_num_threads() if field.numel() >= SHARED_SIZE else 1


def cuda_launch(x: Tensor) -> tuple[int, int]:
    """The index of a CUDA tensor's device, and the stream that PyTorch is using there."""
    index = x.get_device()
    return index, torch._C._cuda_getCurrentRawStream(index)


def contiguous_like(x: Tensor) -> Tensor:
    """Uninitialised contiguous memory of a tensor's shape, dtype and device."""
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def device_type(x: Tensor) -> str:
    """The type of a tensor's device, of a GPU with its index: "cpu", "cuda:0", "mps"."""
    return "cpu" if x.is_cpu else f"cuda:{x.get_device()}" if x.is_cuda else x.device.type


def contiguous_rows(x: Tensor) -> Tensor:
    """The tensor, or a contiguous copy where the voxels of its rows are not next to each other."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def spans_32_bits(x: Tensor) -> bool:
    """Whether offsets within a channel of ``(N, C, *spatial)`` fit in 31 bits, and a few more."""
    reach = sum((n - 1) * abs(step) for n, step in zip(x.shape[2:], x.stride()[2:], strict=True))
    return max(reach, x.shape[2:].numel()) < 2**31 - 1024
