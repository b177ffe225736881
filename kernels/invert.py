"""Triton kernels of ``invert``: the inverse of a displacement, and the adjoint's pointwise part.

A program takes one block of consecutive voxels of one sample and iterates until all of them are
solved for. Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0, and its component
of every field 0.

:func:`invert_forward` and :func:`invert_backward` trust their input; the checks are those of the
operator ``plasticine.invert``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gather import added, load_vector, sample_with_derivatives, scaled, select, store_vector
from .launch import accumulator, field_of, launch_over_voxels
from .location import block_of
from .warp import warp_backward

# The voxels of a program. Of half types a thread takes two: with one, LLVM aborts on the 3D kernel
# with zero padding for sm_100 (Triton 3.9: "Cannot BITCAST between types of different sizes").
_BLOCK = 128
_HALF_BLOCK = 256

# Newton's steps before as many of the fixed point's, as in csrc/invert/math/invert.h.
_STEPS_IN_TURN = 12


@triton.jit
def cross(a, b):
    """The cross product of two vectors (z, y, x)."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@triton.jit
def dot(a, b):
    """The scalar product of two vectors."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@triton.jit
def moved_columns(along_z, along_y, along_x):
    """The columns of ``M = I + grad u``."""
    return (
        (along_z[0] + 1, along_z[1], along_z[2]),
        (along_y[0], along_y[1] + 1, along_y[2]),
        (along_x[0], along_x[1], along_x[2] + 1),
    )


@triton.jit
def newton_step(along_z, along_y, along_x, residual):
    """``M^-1`` of a residual, of the derivatives of u along each axis."""
    a, b, c = moved_columns(along_z, along_y, along_x)
    b_c, c_a, a_b = cross(b, c), cross(c, a), cross(a, b)
    determinant = dot(a, b_c)
    z = dot(b_c, residual) / determinant
    y = dot(c_a, residual) / determinant
    x = dot(a_b, residual) / determinant
    return z, y, x


@triton.jit
def larger_or_nan(a, b):
    """The larger of two numbers; NaN where either is."""
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def invert_kernel(
    displacement,
    out,
    squared_residual,
    iterations,
    squared_tolerance,
    limit,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    STEPS_IN_TURN: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of out, contiguous, with its worst residual and most iterations.

    Residuals are squared, and squared_tolerance points at one number. Newton's steps and the fixed
    point's take turns, each with relaxation.
    """
    program = tl.program_id(0)
    n, voxel, position, voxels, active = block_of(program, displacement.size, INDEX, BLOCK)
    tolerance = tl.load(squared_tolerance).to(ACC)
    infinity = float("inf")

    u_z, u_y, u_x = load_vector(displacement, n, position, active, NDIM, ACC)
    w_z = tl.where(tl.abs(u_z) < infinity, -u_z, 0)
    w_y = tl.where(tl.abs(u_y) < infinity, -u_y, 0)
    w_x = tl.where(tl.abs(u_x) < infinity, -u_x, 0)
    before = tl.full([BLOCK], infinity, ACC)
    squared = tl.zeros([BLOCK], ACC)
    relaxation = tl.full([BLOCK], 1, ACC)
    used = tl.zeros([BLOCK], tl.int32)
    is_open = active
    iteration = 0
    is_running = 1
    while is_running != 0:
        w = (w_z, w_y, w_x)
        value, along_z, along_y, along_x = sample_with_derivatives(
            displacement, n, w, position, is_open, NDIM, PADDING
        )
        residual = added(value, w)
        norm = residual[0] * residual[0] + residual[1] * residual[1] + residual[2] * residual[2]
        finite = norm < infinity
        squared = tl.where(is_open, tl.where(finite, norm, float("nan")), squared)
        w = select(is_open & ~finite, float("nan"), w)
        is_open = is_open & finite & (norm > tolerance) & (used < limit)

        step = newton_step(along_z, along_y, along_x, residual)
        # Newton's step, unless M is so nearly singular, as in a fold, that it leads far away.
        near = step[0] * step[0] + step[1] * step[1] + step[2] * step[2] <= 16 * norm
        near = near & (iteration // STEPS_IN_TURN % 2 == 0)
        relaxation = tl.where(
            norm < before, tl.where(relaxation < 0.5, 2 * relaxation, 1), 0.5 * relaxation
        )
        before = norm
        w_z = w[0] - tl.where(is_open, relaxation * tl.where(near, step[0], residual[0]), 0)
        w_y = w[1] - tl.where(is_open, relaxation * tl.where(near, step[1], residual[1]), 0)
        w_x = w[2] - tl.where(is_open, relaxation * tl.where(near, step[2], residual[2]), 0)
        iteration += 1
        used = tl.where(is_open, iteration, used)
        is_running = tl.max(is_open.to(tl.int32), 0)

    store_vector(out, n, (w_z, w_y, w_x), voxel, voxels, active, NDIM)
    tl.store(squared_residual + program, tl.reduce(squared, 0, larger_or_nan))
    tl.store(iterations + program, tl.max(used, 0).to(tl.int64))


@triton.jit
def invert_adjoint_kernel(
    grad,
    displacement,
    inverse,
    out,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of ``-M^-T grad``, contiguous, with M at ``p + w(p)``."""
    size = displacement.size
    n, voxel, position, voxels, active = block_of(tl.program_id(0), size, INDEX, BLOCK)
    w = load_vector(inverse, n, position, active, NDIM, ACC)
    _, along_z, along_y, along_x = sample_with_derivatives(
        displacement, n, w, position, active, NDIM, PADDING
    )
    right = load_vector(grad, n, position, active, NDIM, ACC)
    a, b, c = moved_columns(along_z, along_y, along_x)
    b_c, c_a, a_b = cross(b, c), cross(c, a), cross(a, b)
    z = b_c[0] * right[0] + c_a[0] * right[1] + a_b[0] * right[2]
    y = b_c[1] * right[0] + c_a[1] * right[1] + a_b[1] * right[2]
    x = b_c[2] * right[0] + c_a[2] * right[1] + a_b[2] * right[2]
    result = scaled((z, y, x), -1 / dot(a, b_c))
    store_vector(out, n, result, voxel, voxels, active, NDIM)


def invert_forward(
    displacement: Tensor,
    inverse: Tensor,
    residual: Tensor,
    iterations: Tensor,
    tolerance: float,
    limit: int,
    padding: str,
) -> None:
    """The displacement ``w`` with ``w(p) = -u(p + w(p))``, as far as the iterations lead.

    Args:
        displacement: ``u``, ``(N, d, *spatial)``, d = 2 or 3, float32, float64, float16 or
            bfloat16; any strides. Half types are solved for in float32.
        inverse: overwritten with ``w``; contiguous, like ``u``.
        residual: overwritten with the worst residual's norm of each sample, ``(N,)``, in the
            accumulator's dtype; NaN where any is.
        iterations: overwritten with the most steps of each sample, ``(N,)``, int64.
        tolerance: the residual's norm, in voxels, at which a voxel is left as it is.
        limit: the most steps.
        padding: "zeros", "border" or "reflection".
    """
    if displacement.numel() == 0:
        residual.zero_()
        iterations.zero_()
        return
    block = _block_of(displacement)
    blocks = triton.cdiv(displacement.shape[2:].numel(), block)
    squared = residual.new_empty((len(residual), blocks))
    used = iterations.new_empty((len(iterations), blocks))
    bound = torch.full_like(residual, tolerance)
    launch_over_voxels(
        invert_kernel,
        displacement,
        field_of(displacement),
        inverse,
        squared,
        used,
        bound.square(),
        limit,
        touched=(displacement,),
        block=block,
        PADDING=padding,
        STEPS_IN_TURN=_STEPS_IN_TURN,
    )
    largest = squared.amax(1)
    root = largest.sqrt()
    # A root that is rounded up must not make a stranger of what has converged.
    converged = largest <= bound * bound
    residual.copy_(torch.where(converged, torch.minimum(root, bound), root))
    torch.amax(used, 1, out=iterations)


def invert_backward(
    grad: Tensor, displacement: Tensor, inverse: Tensor, grad_displacement: Tensor, padding: str
) -> None:
    """The gradient of :func:`invert_forward`: ``-M^-T grad``, scattered to where ``w`` leads.

    ``M = I + grad u`` at ``p + w(p)``. The scatter is that of ``warp``.

    Args:
        grad: the gradient of ``w``, ``(N, d, *spatial)``, any strides.
        displacement: ``u``, of the same shape.
        inverse: ``w``, of the same shape.
        grad_displacement: overwritten; contiguous, like ``u``.
        padding: as for :func:`invert_forward`.
    """
    adjoint = displacement.new_empty(displacement.shape, dtype=accumulator(displacement))
    launch_over_voxels(
        invert_adjoint_kernel,
        displacement,
        field_of(grad),
        field_of(displacement),
        field_of(inverse),
        adjoint,
        touched=(displacement, grad, inverse),
        block=_block_of(displacement),
        PADDING=padding,
    )
    # Of the image, only type and sizes are looked at.
    located = inverse.to(adjoint.dtype), None, grad_displacement, None, None
    warp_backward(adjoint, adjoint, *located, "linear", padding)


def _block_of(displacement: Tensor) -> int:
    """The voxels of a program."""
    return _HALF_BLOCK if displacement.element_size() == 2 else _BLOCK
