"""Triton kernels of ``invert``: the inverse of a displacement, and the adjoint's pointwise part.

A program takes one block of consecutive voxels of one sample and iterates until all of them are
solved for. Axes are (z, y, x); in 2D there is no z: its size is 1, its stride 0, and its component
of every field 0.

:func:`invert` and :func:`invert_adjoint` trust their input; the checks are those of the operator
``plasticine.invert``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .gather import load_vector
from .interpolation import corner_weight, sample_axis
from .launch import accumulator, accumulator_type, element_strides, index_type, spatial_size
from .location import block_of, corner, voxel_position

# The voxels of a program, and its warps. Of half types a thread takes two: with one, LLVM aborts on
# the 3D kernel with zero padding for sm_100 (Triton 3.9: "Cannot BITCAST between types of different
# sizes").
_BLOCK = 128
_HALF_BLOCK = 256
_WARPS = 4


@triton.jit
def sample_field(
    field,
    strides,
    n,
    size,
    location,
    active,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
):
    """The field at locations, interpolated linearly, and its derivatives along z, y and x.

    Returns:
        Four vectors (z, y, x): the value, NaN where there is no location, and the derivative of
        every component along each axis.
    """
    UPPER_Z: tl.constexpr = 2 if NDIM == 3 else 1
    y, weight_y, slope_y, undefined = sample_axis(location[1], size[1], "linear", PADDING, INDEX)
    x, weight_x, slope_x, nowhere = sample_axis(location[2], size[2], "linear", PADDING, INDEX)
    undefined |= nowhere
    z = tl.zeros_like(x)
    weight_z = tl.zeros_like(weight_x)
    slope_z = tl.zeros_like(weight_x)
    if NDIM == 3:
        z, weight_z, slope_z, nowhere = sample_axis(location[0], size[0], "linear", PADDING, INDEX)
        undefined |= nowhere
    zero = tl.zeros(active.shape, ACC)
    value_z, value_y, value_x = zero, zero, zero
    zz, yz, xz = zero, zero, zero
    zy, yy, xy = zero, zero, zero
    zx, yx, xx = zero, zero, zero
    for dz in tl.static_range(UPPER_Z):
        for dy in tl.static_range(2):
            for dx in tl.static_range(2):
                voxel, inside = corner((z, y, x), size, dz, dy, dx)
                u_z, u_y, u_x = load_vector(
                    field, strides, n, voxel, active & inside & ~undefined, NDIM, ACC
                )
                at_z = corner_weight(weight_z, dz, "linear")
                at_y = corner_weight(weight_y, dy, "linear")
                at_x = corner_weight(weight_x, dx, "linear")
                weight = at_z * at_y * at_x
                value_z += weight * u_z
                value_y += weight * u_y
                value_x += weight * u_x
                weight = at_z * at_y * (2 * dx - 1)
                zx += weight * u_z
                yx += weight * u_y
                xx += weight * u_x
                weight = at_z * at_x * (2 * dy - 1)
                zy += weight * u_z
                yy += weight * u_y
                xy += weight * u_x
                if NDIM == 3:
                    weight = at_y * at_x * (2 * dz - 1)
                    zz += weight * u_z
                    yz += weight * u_y
                    xz += weight * u_x
    nan = float("nan")
    value = (
        value_z,
        tl.where(undefined, nan, value_y),
        tl.where(undefined, nan, value_x),
    )
    along_z = (zz * slope_z, yz * slope_z, xz * slope_z)
    along_y = (zy * slope_y, yy * slope_y, xy * slope_y)
    along_x = (zx * slope_x, yx * slope_x, xx * slope_x)
    return value, along_z, along_y, along_x


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
def larger_or_nan(a, b):
    """The larger of two numbers; NaN where either is."""
    return tl.where((a > b) | (a != a), a, b)


@triton.jit
def invert_kernel(
    displacement,
    out,
    squared_residual,
    iterations,
    strides,
    size,
    squared_tolerance,
    limit,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    STEPS_IN_TURN: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of out, contiguous ``(n, d, *size)``, with its worst residual and most iterations.

    Residuals are squared, and squared_tolerance points at one number. Newton's steps and the fixed
    point's take turns, each with relaxation.
    """
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, size, INDEX, BLOCK)
    position = voxel_position(voxel, size)
    tolerance = tl.load(squared_tolerance).to(ACC)
    infinity = float("inf")

    u_z, u_y, u_x = load_vector(displacement, strides, n, position, active, NDIM, ACC)
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
        location = (
            position[0].to(ACC) + w_z,
            position[1].to(ACC) + w_y,
            position[2].to(ACC) + w_x,
        )
        value, along_z, along_y, along_x = sample_field(
            displacement, strides, n, size, location, is_open, NDIM, PADDING, INDEX, ACC
        )
        r_z, r_y, r_x = value[0] + w_z, value[1] + w_y, value[2] + w_x
        norm = r_z * r_z + r_y * r_y + r_x * r_x
        finite = norm < infinity
        squared = tl.where(is_open, tl.where(finite, norm, float("nan")), squared)
        lost = is_open & ~finite
        w_z = tl.where(lost, float("nan"), w_z)
        w_y = tl.where(lost, float("nan"), w_y)
        w_x = tl.where(lost, float("nan"), w_x)
        is_open = is_open & finite & (norm > tolerance) & (used < limit)

        a, b, c = moved_columns(along_z, along_y, along_x)
        residual = (r_z, r_y, r_x)
        b_c, c_a, a_b = cross(b, c), cross(c, a), cross(a, b)
        determinant = dot(a, b_c)
        s_z = dot(b_c, residual) / determinant
        s_y = dot(c_a, residual) / determinant
        s_x = dot(a_b, residual) / determinant
        # Newton's step, unless M is so nearly singular, as in a fold, that it leads far away.
        near = s_z * s_z + s_y * s_y + s_x * s_x <= 16 * norm
        near = near & (iteration // STEPS_IN_TURN % 2 == 0)
        relaxation = tl.where(
            norm < before, tl.where(relaxation < 0.5, 2 * relaxation, 1), 0.5 * relaxation
        )
        before = norm
        w_z -= tl.where(is_open, relaxation * tl.where(near, s_z, r_z), 0)
        w_y -= tl.where(is_open, relaxation * tl.where(near, s_y, r_y), 0)
        w_x -= tl.where(is_open, relaxation * tl.where(near, s_x, r_x), 0)
        iteration += 1
        used = tl.where(is_open, iteration, used)
        is_running = tl.max(is_open.to(tl.int32), 0)

    target = out + n * NDIM * voxels + voxel
    if NDIM == 3:
        tl.store(target, w_z.to(out.dtype.element_ty), mask=active)
        target += voxels
    tl.store(target, w_y.to(out.dtype.element_ty), mask=active)
    tl.store(target + voxels, w_x.to(out.dtype.element_ty), mask=active)
    tl.store(squared_residual + program, tl.reduce(squared, 0, larger_or_nan))
    tl.store(iterations + program, tl.max(used, 0).to(tl.int64))


@triton.jit
def invert_adjoint_kernel(
    grad,
    displacement,
    inverse,
    out,
    grad_strides,
    strides,
    inverse_strides,
    size,
    NDIM: tl.constexpr,
    PADDING: tl.constexpr,
    INDEX: tl.constexpr,
    ACC: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One block of ``-M^-T grad``, contiguous ``(n, d, *size)``, with M at ``p + w(p)``."""
    program = tl.program_id(0)
    n, voxel, voxels, active = block_of(program, size, INDEX, BLOCK)
    position = voxel_position(voxel, size)
    w = load_vector(inverse, inverse_strides, n, position, active, NDIM, ACC)
    location = (
        position[0].to(ACC) + w[0],
        position[1].to(ACC) + w[1],
        position[2].to(ACC) + w[2],
    )
    _, along_z, along_y, along_x = sample_field(
        displacement, strides, n, size, location, active, NDIM, PADDING, INDEX, ACC
    )
    right = load_vector(grad, grad_strides, n, position, active, NDIM, ACC)
    a, b, c = moved_columns(along_z, along_y, along_x)
    b_c, c_a, a_b = cross(b, c), cross(c, a), cross(a, b)
    scale = -1 / dot(a, b_c)
    target = out + n * NDIM * voxels + voxel
    if NDIM == 3:
        tl.store(
            target, scale * (b_c[0] * right[0] + c_a[0] * right[1] + a_b[0] * right[2]), active
        )
        target += voxels
    tl.store(target, scale * (b_c[1] * right[0] + c_a[1] * right[1] + a_b[1] * right[2]), active)
    target += voxels
    tl.store(target, scale * (b_c[2] * right[0] + c_a[2] * right[1] + a_b[2] * right[2]), active)


#: Newton's steps before as many of the fixed point's, as in csrc/invert/math/invert.h.
STEPS_IN_TURN = 12


def invert(
    displacement: Tensor, tolerance: float, iterations: int, padding: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The displacement ``w`` with ``w(p) = -u(p + w(p))``, as far as the iterations lead.

    Args:
        displacement: ``u``, ``(N, d, *spatial)``, d = 2 or 3, float32, float64, float16 or
            bfloat16; any strides. Half types are solved for in float32.
        tolerance: the residual's norm, in voxels, at which a voxel is left as it is.
        iterations: the most steps.
        padding: "zeros", "border" or "reflection".

    Returns:
        ``w``, contiguous, in the dtype of ``u``; the worst squared residual and the most iterations
        of each block of voxels, ``(N, blocks)``, in the accumulator's dtype (NaN where any is) and
        int64.
    """
    out = torch.empty(displacement.shape, dtype=displacement.dtype, device=displacement.device)
    batch = displacement.shape[0]
    blocks, options = _launch_options(displacement, padding)
    precision = accumulator(displacement)
    squared = displacement.new_empty((batch, blocks), dtype=precision)
    used = displacement.new_empty((batch, blocks), dtype=torch.int64)
    if out.numel():
        limit = torch.full((1,), tolerance, dtype=precision, device=displacement.device)
        with torch.cuda.device_of(displacement):
            invert_kernel[(batch * blocks,)](
                displacement,
                out,
                squared,
                used,
                element_strides(displacement),
                spatial_size(displacement),
                limit.square_(),
                iterations,
                STEPS_IN_TURN=STEPS_IN_TURN,
                **options,
            )
    return out, squared, used


def invert_adjoint(grad: Tensor, displacement: Tensor, inverse: Tensor, padding: str) -> Tensor:
    """``-M^-T grad``, with ``M = I + grad u`` at ``p + w(p)``; what is to be scattered there.

    Args:
        grad: the gradient of ``w``, ``(N, d, *spatial)``.
        displacement: ``u``, of the same shape.
        inverse: ``w``, of the same shape.
        padding: as for :func:`invert`.

    Returns:
        The same shape, contiguous, float32 or, of a float64 displacement, float64.
    """
    out = displacement.new_empty(displacement.shape, dtype=accumulator(displacement))
    if out.numel():
        blocks, options = _launch_options(displacement, padding, grad, inverse)
        with torch.cuda.device_of(displacement):
            invert_adjoint_kernel[(displacement.shape[0] * blocks,)](
                grad,
                displacement,
                inverse,
                out,
                element_strides(grad),
                element_strides(displacement),
                element_strides(inverse),
                spatial_size(displacement),
                **options,
            )
    return out


def _launch_options(
    displacement: Tensor, padding: str, *others: Tensor
) -> tuple[int, dict[str, object]]:
    """The number of blocks of a sample, and the options common to both kernels."""
    block = _HALF_BLOCK if displacement.element_size() == 2 else _BLOCK
    blocks = triton.cdiv(displacement.shape[2:].numel(), block)
    return blocks, {
        "NDIM": displacement.shape[1],
        "PADDING": padding,
        "INDEX": index_type(block, displacement, *others),
        "ACC": accumulator_type(displacement),
        "BLOCK": block,
        "num_warps": _WARPS,
    }
