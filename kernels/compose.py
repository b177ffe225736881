"""Triton kernels of ``compose``: ``u(p + v(p)) + v(p)``, forward and backward.

The backward kernel is written for a composition with factors, which ``exponential`` differentiates
as well. A program takes one block of consecutive voxels of one sample.

The host functions trust their input; the checks are those of the operators.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .fixed_point import fixed_point_scale, from_fixed_point
from .gather import added, load_vector, sample_vector, scaled, store_vector
from .interpolation import corner_weight
from .launch import accumulator, accumulator_type, element_strides, index_type, spatial_size
from .location import block_of, corner, locate_displaced, voxel_position
from .scatter import scatter
from .tuning import SAMPLING, size_class, tuned

# The voxels of a program and its warps, backward: one voxel per thread.
_BACKWARD_BLOCK = 128
_WARPS = 4


@tuned(*SAMPLING)
@triton.jit(do_not_specialize=["size_class"])
def compose_forward_kernel(
    u,
    v,
    out,
    u_strides,
    v_strides,
    size,
    out_size,
    size_class,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of out, contiguous ``(n, d, *out_size)``."""
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, out_size, INDEX, BLOCK)
    position = voxel_position(voxel, out_size)
    step = load_vector(v, v_strides, n, position, active, NDIM, ACC)
    further = sample_vector(
        u, u_strides, n, step, position, active, size, NDIM, PADDING, INDEX, ACC
    )
    store_vector(out, n, added(further, step), voxel, voxels, active, NDIM)


@triton.jit
def compose_backward_kernel(
    grad,
    u,
    v,
    passed,
    grad_u,
    grad_u_fixed,
    fixed_scale,
    grad_v,
    grad_strides,
    u_strides,
    v_strides,
    passed_strides,
    size,
    out_size,
    scale,
    reach,
    passed_scale,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    ACCUMULATE: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The adjoint of ``scale u(p + reach v(p))`` on one block, for those results that are not None.

    grad_u is contiguous in ACC and starts at zero, with grad_u_fixed and fixed_scale as its int64
    counterpart. grad_v is contiguous, and is stored, or with ACCUMULATE added to by atomics, so
    that it may be the memory of grad_u. It also receives ``passed_scale passed``, a field that may
    be None.
    """
    UPPER_Z: tl.constexpr = 2 if NDIM == 3 else 1
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, out_size, INDEX, BLOCK)
    position = voxel_position(voxel, out_size)
    step = scaled(load_vector(v, v_strides, n, position, active, NDIM, ACC), tl.cast(reach, ACC))
    first, weights, derivatives, undefined = locate_displaced(
        step, position, active, size, NDIM, "linear", PADDING, INDEX, ACC
    )
    # An output that no voxel of u entered passes nothing on, not even 0 * inf.
    reached = active & ~undefined
    for axis in tl.static_range(3 - NDIM, 3):
        reached &= (first[axis] > -2) & (first[axis] < size[axis])

    upstream = load_vector(grad, grad_strides, n, position, reached, NDIM, ACC)
    upstream = scaled(upstream, tl.cast(scale, ACC))
    integer_scale = 0.0
    if fixed_scale is not None:
        integer_scale = tl.load(fixed_scale)
    slope_z = tl.zeros([BLOCK], ACC)
    slope_y = tl.zeros([BLOCK], ACC)
    slope_x = tl.zeros([BLOCK], ACC)
    u_voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                corner_voxel, inside = corner(first, size, dz, dy, dx)
                inside &= reached
                weight_z = corner_weight(weights[0], dz, "linear")
                weight_y = corner_weight(weights[1], dy, "linear")
                weight_x = corner_weight(weights[2], dx, "linear")
                if grad_u is not None:
                    offset = (corner_voxel[0] * size[1] + corner_voxel[1]) * size[2]
                    offset += corner_voxel[2]
                    weight = weight_z * weight_y * weight_x
                    for axis in tl.static_range(3 - NDIM, 3):
                        plane = (n * NDIM + (axis - 3 + NDIM)) * u_voxels
                        share = upstream[axis] * weight
                        scatter(grad_u, grad_u_fixed, plane, offset, share, inside, integer_scale)
                if grad_v is not None:
                    value = load_vector(u, u_strides, n, corner_voxel, inside, NDIM, ACC)
                    product = value[1] * upstream[1] + value[2] * upstream[2]
                    if NDIM == 3:
                        product += value[0] * upstream[0]
                    slope_z += product * (weight_y * weight_x) * (2 * dz - 1)
                    slope_y += product * (weight_z * weight_x) * (2 * dy - 1)
                    slope_x += product * (weight_z * weight_y) * (2 * dx - 1)

    if grad_v is not None:
        slopes = (slope_z * derivatives[0], slope_y * derivatives[1], slope_x * derivatives[2])
        result = scaled(slopes, tl.where(undefined, float("nan"), tl.cast(reach, ACC)))
        if passed is not None:
            through = load_vector(passed, passed_strides, n, position, active, NDIM, ACC)
            result = added(result, scaled(through, tl.cast(passed_scale, ACC)))
        if ACCUMULATE:
            for axis in tl.static_range(3 - NDIM, 3):
                target = grad_v + (n * NDIM + (axis - 3 + NDIM)) * voxels + voxel
                tl.atomic_add(target, result[axis], mask=active, sem="relaxed")
        else:
            store_vector(grad_v, n, result, voxel, voxels, active, NDIM)


def compose_forward(u: Tensor, v: Tensor, padding: str) -> Tensor:
    """The displacement of ``(id + u) o (id + v)``.

    Args:
        u: ``(N, d, *u_spatial)`` in voxels, any strides; float32, float64, float16 or bfloat16.
        v: ``(N, d, *spatial)`` in voxels, of the dtype of ``u``, any strides.
        padding: how ``u`` continues outside its grid: "zeros", "border" or "reflection".

    Returns:
        ``(N, d, *spatial)``, contiguous, in the dtype of ``u``.
    """
    out = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if out.numel() == 0:
        return out
    batch, voxels = v.shape[0], v.shape[2:].numel()
    with torch.cuda.device_of(v):
        compose_forward_kernel[lambda chosen: (batch * triton.cdiv(voxels, chosen["BLOCK"]),)](
            u,
            v,
            out,
            element_strides(u),
            element_strides(v),
            spatial_size(u),
            spatial_size(v),
            NDIM=v.shape[1],
            PADDING=padding,
            INDEX=index_type(compose_forward_kernel.largest_block, u, v, out),
            ACC=accumulator_type(v),
            size_class=size_class(batch * voxels),
        )
    return out


def compose_backward(
    grad: Tensor, u: Tensor, v: Tensor, padding: str, needs: Sequence[bool]
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients of :func:`compose_forward`.

    That to ``u`` is summed with atomics in float32 (float64 for float64), in fixed point under
    ``torch.use_deterministic_algorithms``; the other is always deterministic.

    Args:
        grad: the gradient of the result, any strides.
        u: as given to :func:`compose_forward`.
        v: as given to :func:`compose_forward`.
        padding: as given to :func:`compose_forward`.
        needs: whether the gradients to u and v are asked for.

    Returns:
        The gradients to u and v, contiguous and in their dtype; None where not asked for.
    """
    grad_u = fixed = scale = grad_v = None
    if needs[0]:
        grad_u = torch.zeros(u.shape, dtype=accumulator(u), device=u.device)
        if torch.are_deterministic_algorithms_enabled() and grad.numel():
            fixed = torch.zeros(u.shape, dtype=torch.int64, device=u.device)
            scale = fixed_point_scale(grad, v.shape[2:].numel())
    if needs[1]:
        grad_v = torch.empty(v.shape, dtype=v.dtype, device=v.device)
    if needs[0] or needs[1]:
        add_adjoint(
            grad, u, v, padding, grad_u, grad_v, passed=grad, fixed=fixed, fixed_scale=scale
        )
    if grad_u is not None:
        if fixed is not None:
            grad_u = from_fixed_point(fixed, scale, grad_u)
        grad_u = grad_u.to(u.dtype)
    return grad_u, grad_v


def add_adjoint(
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    padding: str,
    grad_u: Tensor | None,
    grad_v: Tensor | None,
    *,
    scale: float = 1.0,
    reach: float = 1.0,
    passed: Tensor | None = None,
    passed_scale: float = 1.0,
    accumulate: bool = False,
    fixed: Tensor | None = None,
    fixed_scale: Tensor | None = None,
) -> None:
    """The adjoint of ``scale u(p + reach v(p))``; the numbers must be exact in float32.

    Args:
        grad: the gradient of the result, ``(N, d, *spatial)``, any strides.
        u: ``(N, d, *u_spatial)``.
        v: ``(N, d, *spatial)``.
        padding: how ``u`` continues outside its grid.
        grad_u: what is added to, contiguous in the accumulator's dtype, or None.
        grad_v: contiguous, overwritten, or None.
        scale: see above.
        reach: see above.
        passed: a field that ``grad_v`` receives as well, times ``passed_scale``.
        passed_scale: see there.
        accumulate: add to ``grad_v``, which may then be ``grad_u``.
        fixed: with ``fixed_scale``, int64 sums instead of the finite ones in ``grad_u``.
        fixed_scale: what turns a share into an integer.
    """
    if grad.numel() == 0:
        return
    blocks = triton.cdiv(v.shape[2:].numel(), _BACKWARD_BLOCK)
    tensors = [grad, u, v] if passed is None else [grad, u, v, passed]
    with torch.cuda.device_of(v):
        compose_backward_kernel[(v.shape[0] * blocks,)](
            grad,
            u,
            v,
            passed,
            grad_u,
            fixed,
            fixed_scale,
            grad_v,
            element_strides(grad),
            element_strides(u),
            element_strides(v),
            None if passed is None else element_strides(passed),
            spatial_size(u),
            spatial_size(v),
            scale,
            reach,
            passed_scale,
            NDIM=v.shape[1],
            PADDING=padding,
            ACCUMULATE=accumulate,
            INDEX=index_type(_BACKWARD_BLOCK, *tensors),
            ACC=accumulator_type(v),
            BLOCK=_BACKWARD_BLOCK,
            num_warps=_WARPS,
        )
