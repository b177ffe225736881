"""How a kernel is called on a backend, and the memory that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine import backends

Kernel = Callable[..., Any]

# Looked up once: both are asked for at every call.
_empty_like, _CONTIGUOUS = torch.empty_like, torch.contiguous_format

# A CUDA kernel takes the sums of a sample in this many blocks at most, one to so many voxels.
_CUDA_BLOCKS = 2048
_CUDA_BLOCK_VOXELS = 2048

# Fields of fewer elements are left to one thread.
SHARED_SIZE = 8192


def call(backend: str, kernel: str, field: Tensor, *arguments: Any) -> Any:
    """Calls a kernel of a compiled backend, with what every call of that backend needs.

    Args:
        backend: "cpu", "cuda" or "triton".
        kernel: its name, which is that of its operator, or begins with it.
        field: has as many voxels as there are to compute, on the device of all tensors.
        arguments: the kernel's: tensors, None where one is absent, numbers and words.
    """
    if backend == "cpu":
        return getattr(backends.NATIVE, kernel)(*arguments, threads_for(field))
    return call_with_threads(backend, kernel, field, *arguments)


def call_with_threads(backend: str, kernel: str, field: Tensor, *arguments: Any) -> Any:
    """The same where the arguments say how many threads a CPU takes."""
    if backend == "cpu":
        return getattr(backends.NATIVE, kernel)(*arguments)
    if backend == "cuda":
        index = field.get_device()
        stream = torch._C._cuda_getCurrentRawStream(index)
        return getattr(backends.CUDA, kernel)(*arguments, index, stream)
    operator = kernel.removesuffix("_forward").removesuffix("_backward").removesuffix("_resume")
    return getattr(backends.triton_kernels(operator)[0], kernel)(*arguments)


def threads_for(field: Tensor) -> int:
    """How many threads to use on a field of this size; no result depends on their number.

    A few thousand voxels are done before a second thread has woken up.
    """
    return torch.get_num_threads() if field.numel() >= SHARED_SIZE else 1


def device_type(x: Tensor) -> str:
    """The type of a tensor's device, of a GPU with its index: "cpu", "cuda:0", "mps"."""
    return "cpu" if x.is_cpu else f"cuda:{x.get_device()}" if x.is_cuda else x.device.type


def contiguous_like(x: Tensor) -> Tensor:
    """Uninitialised contiguous memory of a tensor's shape, dtype and device."""
    return _empty_like(x, memory_format=_CONTIGUOUS)


def gradients_like(
    tensors: Sequence[Tensor | None], needs: Sequence[bool]
) -> tuple[Tensor | None, ...]:
    """The same for each tensor that needs a gradient; None for the others."""
    return tuple(
        [
            contiguous_like(x) if need and x is not None else None
            for x, need in zip(tensors, needs, strict=True)
        ]
    )


def broadcast_batch(*tensors: Any) -> tuple[Any, ...]:
    """Views with one batch size where a batch of 1 meets N; None, and what does not fit, stay."""
    sizes = [x.shape[0] for x in tensors if x is not None]
    batch = next((size for size in sizes if size != 1), 1)
    return tuple(
        [x.expand(batch, *x.shape[1:]) if x is not None and x.shape[0] == 1 else x for x in tensors]
    )


def call_cuda_with_partial_sums(
    kernel: str, field: Tensor, result: Tensor, *options: Any
) -> Tensor:
    """Calls a CUDA kernel that adds up a sample in blocks, then in their order; its result.

    Args:
        kernel: its name. It takes the field, ``(N, blocks)`` float64, the result and the options.
        field: ``(N, C, *spatial)``.
        result: overwritten; ``(N,)``.
        options: the kernel's.
    """
    blocks = -(-field.shape[2:].numel() // _CUDA_BLOCK_VOXELS)
    shape = (field.shape[0], min(max(blocks, 1), _CUDA_BLOCKS))
    partial = field.new_empty(shape, dtype=torch.float64)
    call("cuda", kernel, field, field, partial, result, *options)
    return result


def contiguous_rows(x: Tensor) -> Tensor:
    """The tensor, or a contiguous copy where the voxels of its rows are not next to each other."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def spans_32_bits(x: Tensor) -> bool:
    """Whether offsets within a channel of ``(N, C, *spatial)`` fit in 31 bits, and a few more."""
    reach = sum((n - 1) * abs(step) for n, step in zip(x.shape[2:], x.stride()[2:], strict=True))
    return max(reach, x.shape[2:].numel()) < 2**31 - 1024
