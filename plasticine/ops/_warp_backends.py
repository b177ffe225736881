"""``warp`` on each backend; the arguments have been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops._native_interface import (
    MODE_CODES,
    PADDING_CODES,
    NativeTensor,
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
    backends.NATIVE.warp_forward(
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
    backends.NATIVE.warp_backward(
        native(grad),
        native(image),
        native(displacement),
        native_or_none(affine),
        native_or_none(gradients[0]),
        native_or_none(gradients[1]),
        native_or_none(gradients[2]),
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
    buffers = None
    if needs[0]:
        buffers = ScatterBuffers(grad, image.shape, deterministic_scale(grad, mode))
    grad_displacement = contiguous_like(displacement) if needs[1] else None
    partial = affine_sums(image, displacement) if affine is not None and needs[2] else None
    backends.CUDA.warp_backward(
        native(grad),
        native(image),
        native(displacement),
        native_or_none(affine),
        (*scattered_to(buffers), native_or_none(grad_displacement), native_or_none(partial)),
        MODE_CODES[mode],
        PADDING_CODES[padding],
        *cuda_launch(image),
    )
    grad_image = None if buffers is None else buffers.total(image.dtype)
    if affine is None or partial is None:
        return grad_image, grad_displacement, None
    return grad_image, grad_displacement, partial.sum(1, dtype=torch.float64).to(affine.dtype)


def accumulator_of(image: Tensor) -> torch.dtype:
    """The dtype in which the kernels sum values of an image's."""
    return torch.float64 if image.dtype == torch.float64 else torch.float32


def affine_sums(image: Tensor, displacement: Tensor) -> Tensor:
    """Uninitialised memory for the affine's gradient, a sum for each block of a CUDA kernel."""
    blocks = min(max(-(-displacement.shape[2:].numel() // _CUDA_THREADS), 1), _CUDA_BLOCKS)
    batch, ndim = displacement.shape[:2]
    return image.new_empty((batch, blocks, ndim, ndim + 1), dtype=accumulator_of(image))


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


def scattered_to(buffers: ScatterBuffers | None) -> tuple[NativeTensor | None, ...]:
    """What a native function scatters to; nothing where nothing is scattered."""
    return (None, None, None) if buffers is None else buffers.arguments()


class ScatterBuffers:
    """What a CUDA kernel adds values up in: in fixed point where the sum is to be deterministic.

    The kernel fills them with zeros first.
    """

    def __init__(self, values: Tensor, shape: Sequence[int], scale: Tensor | None) -> None:
        """Allocates the buffers.

        Args:
            values: ``(N, C, *spatial)``, what is scattered.
            shape: the result's.
            scale: what turns the shares into integers, of deterministic_scale; None for a sum in
                floating point.
        """
        self._sums = values.new_empty(shape, dtype=accumulator_of(values))
        self._scale = scale
        self._fixed = None if scale is None else values.new_empty(shape, dtype=torch.int64)

    def arguments(self) -> tuple[NativeTensor | None, ...]:
        """The floating-point sums, the integers and their scale, for a native function."""
        return native(self._sums), native_or_none(self._fixed), native_or_none(self._scale)

    def total(self, dtype: torch.dtype) -> Tensor:
        """The sums, rounded to a dtype, once the kernel is queued."""
        if self._fixed is not None and self._scale is not None:
            from plasticine.kernels.fixed_point import from_fixed_point

            return from_fixed_point(self._fixed, self._scale, self._sums).to(dtype)
        return self._sums.to(dtype)


def _triton_forward(
    image: Tensor, displacement: Tensor, affine: Tensor | None, mode: str, padding: str
) -> Tensor:
    result = image.new_empty(image.shape[:2] + displacement.shape[2:])
    forward = backends.triton_kernels("warp")[0].warp_forward
    forward(image, displacement, affine, result, mode, padding)
    return result


def _triton_backward(
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    needs: Sequence[bool],
) -> Gradients:
    gradients = _empty_gradients((image, displacement, affine), needs)
    backward = backends.triton_kernels("warp")[0].warp_backward
    backward(grad, image, displacement, affine, *gradients, mode, padding)
    return gradients


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
