"""The second derivatives of ``warp`` on each backend; the arguments have been checked."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops._native_interface import (
    PADDING_CODES,
    contiguous_like,
    cuda_launch,
    native,
    native_or_none,
    threads_for,
)
from plasticine.ops._warp_backends import (
    FORWARD,
    ScatterBuffers,
    affine_sums,
    scattered_to,
)

# A tuple: autograd takes a list of tensors for one result that is none, and loses them.
Results = tuple[Tensor | None, ...]
Directions = tuple[Tensor | None, Tensor | None, Tensor | None]


def _cpu(
    directions: Directions,
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    add: bool,
    needs: Sequence[bool],
) -> Results:
    along_image, along_field, along_affine = directions
    if mode == "nearest":
        return _nearest("cpu", along_image, grad, image, displacement, affine, padding, needs)
    along_field = _with_affine(along_field, along_affine, displacement)
    inputs = (grad, image, displacement, affine)
    results = [
        contiguous_like(x) if x is not None and need else None
        for x, need in zip(inputs, needs, strict=True)
    ]
    if along_field is None and results[1] is not None:
        # The image's gradient does not depend on the image.
        results[1].zero_()
    backends.NATIVE.warp_double_backward(
        native_or_none(along_image),
        native_or_none(along_field),
        native_or_none(along_affine),
        native(grad),
        native(image),
        native(displacement),
        native_or_none(affine),
        native_or_none(results[0]),
        None if along_field is None else native_or_none(results[1]),
        native_or_none(results[2]),
        native_or_none(results[3]),
        PADDING_CODES[padding],
        add,
        threads_for(displacement),
    )
    return tuple(results)


def _cuda(
    directions: Directions,
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    add: bool,
    needs: Sequence[bool],
) -> Results:
    along_image, along_field, along_affine = directions
    if mode == "nearest":
        return _nearest("cuda", along_image, grad, image, displacement, affine, padding, needs)
    along_field = _with_affine(along_field, along_affine, displacement)
    to_grad = contiguous_like(grad) if needs[0] else None
    to_displacement = contiguous_like(displacement) if needs[2] else None
    buffers = None
    if needs[1] and along_field is not None:
        scale = _fixed_point_scale(grad, along_field, along_affine)
        buffers = ScatterBuffers(grad, image.shape, scale)
    partial = affine_sums(image, displacement) if affine is not None and needs[3] else None
    backends.CUDA.warp_double_backward(
        native_or_none(along_image),
        native_or_none(along_field),
        native_or_none(along_affine),
        native(grad),
        native(image),
        native(displacement),
        native_or_none(affine),
        native_or_none(to_grad),
        (*scattered_to(buffers), native_or_none(to_displacement), native_or_none(partial)),
        PADDING_CODES[padding],
        add,
        *cuda_launch(image),
    )
    to_image = None
    if buffers is not None:
        to_image = buffers.total(image.dtype)
    elif needs[1]:
        to_image = torch.zeros_like(image, memory_format=torch.contiguous_format)
    to_affine = None
    if affine is not None and partial is not None:
        to_affine = partial.sum(1, dtype=torch.float64).to(affine.dtype)
    return to_grad, to_image, to_displacement, to_affine


def _triton(
    directions: Directions,
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    mode: str,
    padding: str,
    add: bool,
    needs: Sequence[bool],
) -> Results:
    along_image, along_field, along_affine = directions
    if mode == "nearest":
        return _nearest("triton", along_image, grad, image, displacement, affine, padding, needs)
    along_field = _with_affine(along_field, along_affine, displacement)
    scale = None
    if needs[1] and along_field is not None:
        scale = _fixed_point_scale(grad, along_field, along_affine)
    return backends.triton_kernels("warp_double_backward")[0].warp_double_backward(
        (along_image, along_field, along_affine),
        grad,
        image,
        displacement,
        affine,
        padding,
        add,
        needs,
        scale,
    )


def _with_affine(
    along_field: Tensor | None, along_affine: Tensor | None, displacement: Tensor
) -> Tensor | None:
    """The direction of the displacement: zero where only the affine has one."""
    if along_field is None and along_affine is not None:
        return displacement.new_zeros(1).expand(displacement.shape)
    return along_field


def _fixed_point_scale(
    grad: Tensor, along_field: Tensor, along_affine: Tensor | None
) -> Tensor | None:
    """What turns the image's shares into integers where PyTorch asks for determinism, else None.

    A share is at most the voxel's gradient times the sum over the axes of how far the direction
    leads along each; see ``kernels.fixed_point``.
    """
    if not torch.are_deterministic_algorithms_enabled() or not grad.numel():
        return None
    from plasticine.kernels.fixed_point import finite_peak, fixed_point_scale

    spatial = along_field.shape[2:]
    step = finite_peak(along_field) * len(spatial)
    if along_affine is not None:
        for axis, size in enumerate((*spatial, 2)):  # the last column is multiplied by 1
            step = step + finite_peak(along_affine[..., axis]) * (len(spatial) * max(size - 1, 1))
    return fixed_point_scale(finite_peak(grad) * step, spatial.numel())


def _nearest(
    backend: str,
    along_image: Tensor | None,
    grad: Tensor,
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    padding: str,
    needs: Sequence[bool],
) -> Results:
    """Linear in the image, and without a gradient to anything else."""
    to_grad = None
    if needs[0]:
        along = image.new_zeros(1).expand(image.shape) if along_image is None else along_image
        to_grad = FORWARD[backend](along, displacement, affine, "nearest", padding)
    others = [
        torch.zeros_like(x, memory_format=torch.contiguous_format)
        if x is not None and need
        else None
        for x, need in zip((image, displacement, affine), needs[1:], strict=True)
    ]
    return (to_grad, *others)


DOUBLE_BACKWARD: dict[str, Callable[..., Results]] = {
    "cpu": _cpu,
    "cuda": _cuda,
    "triton": _triton,
    "reference": reference.warp_double_backward,
}
