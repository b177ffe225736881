"""Triton kernels of ``compose``: ``u(p + v(p)) + v(p)``, forward and backward.

The backward kernel is written for a composition with factors, which ``exponential`` differentiates
as well. A program takes one block of consecutive voxels of one sample.

The host functions trust their input; the checks are those of the operators.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .gather import (
    add_location_gradient,
    added,
    load_vector,
    sample_vector,
    scaled,
    store_vector,
    zero_vector,
)
from .launch import field_of, launch_over_voxels
from .location import block_of, corner, displaced, locate, reaching, voxel_number
from .scatter import ScatteredSums, scatter
from .tuning import SAMPLING, tuned

# The voxels of a program, backward: one per thread.
_BACKWARD_BLOCK = 128


@tuned(*SAMPLING)
@triton.jit(do_not_specialize=["size_class"])
def compose_forward_kernel(
    u,
    v,
    out,
    size_class,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of out, contiguous, of the size of v."""
    n, voxel, position, voxels, active = block_of(tl.program_id(0), v.size, INDEX, BLOCK)
    step = load_vector(v, n, position, active, NDIM, ACC)
    further = sample_vector(u, n, step, position, active, NDIM, PADDING)
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
    n, voxel, position, voxels, active = block_of(tl.program_id(0), v.size, INDEX, BLOCK)
    step = scaled(load_vector(v, n, position, active, NDIM, ACC), tl.cast(reach, ACC))
    location = displaced(position, step)
    size = u.size
    first, weights, derivatives, undefined = locate(
        location, active, size, NDIM, "linear", PADDING, INDEX
    )
    reached = reaching(first, size, active & ~undefined, NDIM, "linear", PADDING)
    upstream = load_vector(grad, n, position, reached, NDIM, ACC)
    upstream = scaled(upstream, tl.cast(scale, ACC))
    integer_scale = 0.0
    if fixed_scale is not None:
        integer_scale = tl.load(fixed_scale)
    gradient = zero_vector(active, ACC)
    u_voxels = tl.cast(size[0], tl.int64) * size[1] * size[2]
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                corner_voxel, weight, inside = corner(first, weights, size, dz, dy, dx, "linear")
                inside &= reached
                if grad_u is not None:
                    offset = voxel_number(corner_voxel, size)
                    product = weight[0] * weight[1] * weight[2]
                    for axis in tl.static_range(3 - NDIM, 3):
                        plane = (n * NDIM + (axis - 3 + NDIM)) * u_voxels
                        share = upstream[axis] * product
                        scatter(grad_u, grad_u_fixed, plane, offset, share, inside, integer_scale)
                if grad_v is not None:
                    value = load_vector(u, n, corner_voxel, inside, NDIM, ACC)
                    product = value[1] * upstream[1] + value[2] * upstream[2]
                    if NDIM == 3:
                        product += value[0] * upstream[0]
                    gradient = add_location_gradient(gradient, product, weight, dz, dy, dx)

    if grad_v is not None:
        z, y, x = derivatives
        result = (gradient[0] * z, gradient[1] * y, gradient[2] * x)
        result = scaled(result, tl.where(undefined, float("nan"), tl.cast(reach, ACC)))
        if passed is not None:
            through = load_vector(passed, n, position, active, NDIM, ACC)
            result = added(result, scaled(through, tl.cast(passed_scale, ACC)))
        if ACCUMULATE:
            for axis in tl.static_range(3 - NDIM, 3):
                target = grad_v + (n * NDIM + (axis - 3 + NDIM)) * voxels + voxel
                tl.atomic_add(target, result[axis], mask=active, sem="relaxed")
        else:
            store_vector(grad_v, n, result, voxel, voxels, active, NDIM)


def compose_forward(u: Tensor, v: Tensor, out: Tensor, padding: str) -> None:
    """The displacement of ``(id + u) o (id + v)``.

    Args:
        u: ``(N, d, *u_spatial)`` in voxels, any strides; float32, float64, float16 or bfloat16.
        v: ``(N, d, *spatial)`` in voxels, of the dtype of ``u``, any strides.
        out: overwritten; ``(N, d, *spatial)``, contiguous, in the dtype of ``u``.
        padding: how ``u`` continues outside its grid: "zeros", "border" or "reflection".
    """
    launch_over_voxels(
        compose_forward_kernel,
        v,
        field_of(u),
        field_of(v),
        out,
        touched=(u, v, out),
        PADDING=padding,
    )


def compose_backward(
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    grad_u: Tensor | None,
    grad_v: Tensor | None,
    padding: str,
) -> None:
    """The gradients of :func:`compose_forward`.

    That to ``u`` is summed with atomics in float32 (float64 for float64), in fixed point under
    ``torch.use_deterministic_algorithms``; the other is always deterministic.

    Args:
        grad: the gradient of the result, any strides.
        u: as given to :func:`compose_forward`.
        v: as given to :func:`compose_forward`.
        grad_u: overwritten, contiguous, like ``u``; None where it is not wanted.
        grad_v: the same of ``v``.
        padding: as given to :func:`compose_forward`.
    """
    if grad_u is None and grad_v is None:
        return
    total = ScatteredSums(grad_u, grad)
    add_adjoint(grad, u, v, total.sums, grad_v, padding, passed=grad, sums=total)
    total.finish()


def add_adjoint(
    grad: Tensor,
    u: Tensor,
    v: Tensor,
    grad_u: Tensor | None,
    grad_v: Tensor | None,
    padding: str,
    *,
    scale: float = 1.0,
    reach: float = 1.0,
    passed: Tensor | None = None,
    passed_scale: float = 1.0,
    sums: ScatteredSums | None = None,
) -> None:
    """The adjoint of ``scale u(p + reach v(p))``; the numbers must be exact in float32.

    Args:
        grad: the gradient of the result, ``(N, d, *spatial)``, any strides.
        u: ``(N, d, *u_spatial)``.
        v: ``(N, d, *spatial)``.
        grad_u: what is added to, contiguous in the accumulator's dtype, or None.
        grad_v: contiguous, or None: overwritten, but added to where it is ``grad_u``.
        padding: how ``u`` continues outside its grid.
        scale: see above.
        reach: see above.
        passed: a field that ``grad_v`` receives as well, times ``passed_scale``.
        passed_scale: see there.
        sums: where ``grad_u`` may be summed in fixed point instead.
    """
    launch_over_voxels(
        compose_backward_kernel,
        v,
        field_of(grad),
        field_of(u),
        field_of(v),
        None if passed is None else field_of(passed),
        grad_u,
        None if sums is None else sums.fixed,
        None if sums is None else sums.scale,
        grad_v,
        scale,
        reach,
        passed_scale,
        touched=(grad, u, v) if passed is None else (grad, u, v, passed),
        block=_BACKWARD_BLOCK,
        PADDING=padding,
        ACCUMULATE=grad_v is not None and grad_v is grad_u,
    )
