"""``warp`` on each backend; the arguments have been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops._checks import CUBIC_MODES
from plasticine.ops._native_interface import (
    MODE_CODES,
    PADDING_CODES,
    contiguous_like,
    cuda_launch,
    native,
    native_or_none,
    threads_for,
)
from plasticine.ops._operator import reference_gradients

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]

# The affine's gradient is summed by this many blocks at most, of this many threads, then here.
_CUDA_BLOCKS = 1024
_CUDA_THREADS = 256


def _cpu_forward(
    image: Tensor, displacement: Tensor, affine: Tensor | None, mode: str, padding: str
) -> Tensor:
    size, field_size = image.shape, displacement.shape
    if size[2:] == field_size[2:]:
        result = contiguous_like(image)  # twice as fast as from a size
    else:
        result = image.new_empty(size[:2] + field_size[2:])
    forward = "warp_cubic_forward" if mode in CUBIC_MODES else "warp_forward"
    getattr(backends.NATIVE, forward)(
        native(image),
        native(displacement),
        native_or_none(affine),
        native(result),
        MODE_CODES[mode],
        PADDING_CODES[padding],
        threads_for(displacement),
    )
    return result


def _cpu_backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    needs: Sequence[bool],
) -> Gradients:
    gradients = _empty_gradients((image, displacement, affine), needs)
    backward = "warp_cubic_backward" if mode in CUBIC_MODES else "warp_backward"
    getattr(backends.NATIVE, backward)(
        native(grad),
        native(image),
        native(displacement),
        native_or_none(affine),
        *(native_or_none(x) for x in gradients),
        MODE_CODES[mode],
        PADDING_CODES[padding],
        threads_for(displacement),
    )
    return gradients


def _empty_gradients(
    inputs: tuple[Tensor, Tensor, Tensor | None], needs: Sequence[bool]
) -> Gradients:
    image, displacement, affine = inputs
    return (
        contiguous_like(image) if needs[0] else None,
        contiguous_like(displacement) if needs[1] else None,
        contiguous_like(affine) if affine is not None and needs[2] else None,
    )


def _reference_forward(
    image: Tensor, displacement: Tensor, affine: Tensor | None, mode: str, padding: str
) -> Tensor:
    return reference.warp(image, displacement, affine, mode, padding, prefilter=False)


def _reference_backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    needs: Sequence[bool],
) -> Gradients:
    def function(image: Tensor, displacement: Tensor, affine: Tensor | None) -> Tensor:
        return _reference_forward(image, displacement, affine, mode, padding)

    first, second, third = reference_gradients(function, (image, displacement, affine), needs, grad)
    return first, second, third


def _cuda_forward(
    image: Tensor, displacement: Tensor, affine: Tensor | None, mode: str, padding: str
) -> Tensor:
    result = image.new_empty(image.shape[:2] + displacement.shape[2:])
    backends.CUDA.warp_forward(
        native(image),
        native(displacement),
        native_or_none(affine),
        native(result),
        MODE_CODES[mode],
        PADDING_CODES[padding],
        *cuda_launch(image),
    )
    return result


def _cuda_backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    needs: Sequence[bool],
) -> Gradients:
    sums = fixed = scale = partial = None
    if needs[0]:
        sums, fixed, scale = memory_for_sums(grad, image.shape)
    grad_displacement = contiguous_like(displacement) if needs[1] else None
    if affine is not None and needs[2]:
        voxels = displacement.shape[2:].numel()
        blocks = min(max(-(-voxels // _CUDA_THREADS), 1), _CUDA_BLOCKS)
        batch, ndim = displacement.shape[:2]
        partial = image.new_empty((batch, blocks, ndim, ndim + 1), dtype=_accumulator(image))
    backends.CUDA.warp_backward(
        native(grad),
        native(image),
        native(displacement),
        native_or_none(affine),
        native_or_none(sums),
        native_or_none(fixed),
        native_or_none(scale),
        native_or_none(grad_displacement),
        native_or_none(partial),
        MODE_CODES[mode],
        PADDING_CODES[padding],
        *cuda_launch(image),
    )
    grad_image = None if sums is None else finished_sums(sums, fixed, scale, image.dtype)
    if affine is None or partial is None:
        return grad_image, grad_displacement, None
    return grad_image, grad_displacement, partial.sum(1, dtype=torch.float64).to(affine.dtype)


def _accumulator(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def memory_for_sums(
    values: Tensor, shape: Sequence[int]
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """What a CUDA kernel scatters into; it fills all of it.

    Args:
        values: ``(N, C, *spatial)``, what is scattered, with weights of 1 at most.
        shape: ``(N, C, *size)``, that of the sums.

    Returns:
        Uninitialised sums in the accumulator's dtype; and, under
        ``torch.use_deterministic_algorithms``, their int64 counterpart and its scale.
    """
    sums = values.new_empty(shape, dtype=_accumulator(values))
    if not torch.are_deterministic_algorithms_enabled() or values.numel() == 0:
        return sums, None, None
    from plasticine.kernels.fixed_point import fixed_point_scale

    fixed = values.new_empty(shape, dtype=torch.int64)
    return sums, fixed, fixed_point_scale(values, values.shape[2:].numel())


def finished_sums(
    sums: Tensor, fixed: Tensor | None, scale: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """What was scattered into the memory of :func:`memory_for_sums`, rounded once to a dtype."""
    if fixed is not None and scale is not None:
        from plasticine.kernels.fixed_point import from_fixed_point

        sums = from_fixed_point(fixed, scale, sums)
    return sums.to(dtype)


def _triton_forward(*arguments: Any) -> Tensor:
    return backends.triton_kernels("warp")[0].warp_forward(*arguments)


def _triton_backward(*arguments: Any) -> Gradients:
    return backends.triton_kernels("warp")[0].warp_backward(*arguments)


FORWARD: dict[str, Callable[..., Tensor]] = {
    "cpu": _cpu_forward,
    "cuda": _cuda_forward,
    "triton": _triton_forward,
    "reference": _reference_forward,
}
BACKWARD: dict[str, Callable[..., Gradients]] = {
    "cpu": _cpu_backward,
    "cuda": _cuda_backward,
    "triton": _triton_backward,
    "reference": _reference_backward,
}
