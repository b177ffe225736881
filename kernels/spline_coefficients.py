"""Triton kernel of ``spline_coefficients``: the cubic B-spline that passes through an image.

Along each axis every line of voxels is the right-hand side of one tridiagonal system. A program
solves a few lines, a chunk of them at a time: up the lines and down again, each a first-order
recurrence, which is a scan over affine maps. Tiles lie in memory order, whatever the axis: lines
along x are rows of a tile, others are columns.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import accumulator, accumulator_type

# The lines of a program, by whether they lie along x, the values of each in a tile, and its warps.
# Along x, 32 lines would spill for sm_100 (Triton 3.6).
_LINES = {True: 16, False: 32}
_CHUNK = 64
_WARPS = 8

# From row to row, 1 / pivot approaches 2 - sqrt(3), one of the two fixed points of 1 / (4 - x).
_FAR = tl.constexpr(2 + math.sqrt(3))
_NEAR = tl.constexpr(1 / (2 + math.sqrt(3)))
# log2 of the factor by which (x - near) / (x - far) shrinks with each row.
_SHRINKS = tl.constexpr(-2 * math.log2(2 + math.sqrt(3)))


@triton.jit
def factors(row, size, PADDING: tl.constexpr, ADJOINT: tl.constexpr, ACC: tl.constexpr):
    """The rows of the factored system: ``gain``, ``lower`` and ``upper``.

    With these, ``d[i] = gain[i] * f[i] - lower[i] * d[i-1]`` upwards, then
    ``c[i] = d[i] - upper[i] * c[i+1]`` downwards, solves a line. Rows beyond the end are empty.

    The system is 4 on the diagonal and 1 beside it, over 6, but at its ends: with "border" an end's
    diagonal is 5 (6 of one row), with "reflection" the entry beside it 2 (in the adjoint, the one
    across from it), and a single row 6. Its pivots have a closed form, so a tile needs no others.
    """
    last = size - 1
    is_mirrored: tl.constexpr = PADDING == "reflection"
    if PADDING == "border":
        START: tl.constexpr = 1 / 5
        END: tl.constexpr = 5.0
        ONE: tl.constexpr = 6.0
    elif is_mirrored:
        START: tl.constexpr = 1 / 2  # 2 / 4: both entries beside the diagonal are in it
        END: tl.constexpr = 4.0
        ONE: tl.constexpr = 6.0
    else:
        START: tl.constexpr = 1 / 4
        END: tl.constexpr = 4.0
        ONE: tl.constexpr = 4.0
    INWARD: tl.constexpr = 2.0 if is_mirrored and not ADJOINT else 1.0  # beside an end's diagonal
    ACROSS: tl.constexpr = 2.0 if is_mirrored and ADJOINT else 1.0
    RATIO: tl.constexpr = (START - _NEAR) / (START - _FAR)

    # 1 / pivot as if each row were inside; of the last row, of the row before it.
    inner = tl.where(row == last, row - 1, row).to(ACC)
    shrunk = RATIO * tl.exp2(inner * _SHRINKS)
    inverse = (_NEAR - _FAR * shrunk) / (1 - shrunk)
    inverse = tl.where(row == last, 1 / (END - INWARD * ACROSS * inverse), inverse)
    if is_mirrored:
        inverse = tl.where((row == 0) & (row < last), 0.25, inverse)
    inverse = tl.where((row == 0) & (row == last), 1 / ONE, inverse)

    below = tl.where(row == last, INWARD, 1.0) * tl.where(row == 1, ACROSS, 1.0)
    above = tl.where(row == 0, INWARD, 1.0) * tl.where(row == last - 1, ACROSS, 1.0)
    lower = tl.where(row == 0, 0.0, below.to(ACC) * inverse)
    upper = tl.where(row >= last, 0.0, above.to(ACC) * inverse)
    return 6 * inverse, lower, upper


@triton.jit
def follow(factor, constant, next_factor, next_constant):
    """``x -> factor * x + constant``, followed by another such map."""
    return factor * next_factor, next_factor * constant + next_constant


@triton.jit
def line_offset(line, shape, strides):
    """Where a line begins: shape and strides of the four axes that it does not lie along."""
    offset = (line % shape[3]) * strides[3]
    line = line // shape[3]
    offset += (line % shape[2]) * strides[2]
    line = line // shape[2]
    return offset + (line % shape[1]) * strides[1] + (line // shape[1]) * strides[0]


@triton.jit
def spline_lines_kernel(
    source,
    between,
    target,
    source_strides,
    strides,
    source_step,
    step,
    shape,
    size,
    lines,
    PADDING: tl.constexpr,
    ADJOINT: tl.constexpr,
    ALONG_X: tl.constexpr,
    ACC: tl.constexpr,
    LINES: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Solves LINES lines of ``size`` values, ``step`` elements apart, from source to target.

    between, in ACC, is laid out as target, and holds what was found on the way up; all three may be
    one tensor.
    """
    SCAN: tl.constexpr = 1 if ALONG_X else 0
    line = tl.expand_dims(tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES), SCAN)
    place = tl.expand_dims(tl.arange(0, CHUNK), 1 - SCAN)
    active = line < lines
    source += line_offset(line, shape, source_strides)
    origin = line_offset(line, shape, strides)
    between += origin
    target += origin
    chunks = tl.cdiv(size, CHUNK)

    carried = tl.zeros_like(line).to(ACC)
    for chunk in range(chunks):
        row = chunk * CHUNK + place
        readable = active & (row < size)
        offset = row.to(tl.int64)
        value = tl.load(source + offset * source_step, mask=readable, other=0).to(ACC)
        gain, lower, _ = factors(row, size, PADDING, ADJOINT, ACC)
        value *= gain
        factor, value = tl.associative_scan(
            (tl.broadcast_to(-lower, value.shape), value), SCAN, follow
        )
        value += factor * carried
        tl.store(between + offset * step, value, mask=readable)
        is_last = place == CHUNK - 1
        carried = tl.sum(tl.where(is_last, value, 0), SCAN, keep_dims=True)

    tl.debug_barrier()  # what a thread wrote on the way up, another may read on the way down
    carried = tl.zeros_like(line).to(ACC)
    for turn in range(chunks):
        row = (chunks - 1 - turn) * CHUNK + place
        readable = active & (row < size)
        offset = row.to(tl.int64)
        value = tl.load(between + offset * step, mask=readable, other=0)
        _, _, upper = factors(row, size, PADDING, ADJOINT, ACC)
        factor, value = tl.associative_scan(
            (tl.broadcast_to(-upper, value.shape), value), SCAN, follow, reverse=True
        )
        value += factor * carried
        tl.store(target + offset * step, value.to(target.dtype.element_ty), mask=readable)
        carried = tl.sum(tl.where(place == 0, value, 0), SCAN, keep_dims=True)


def spline_coefficients(image: Tensor, out: Tensor, padding: str, adjoint: bool) -> None:
    """The coefficients whose cubic B-spline equals the image at every voxel.

    The axes are solved one after the other, exactly; half types are kept in float32 in between.

    Args:
        image: ``(N, C, *spatial)``, any strides; float32, float64, float16 or bfloat16.
        out: overwritten; contiguous, like the image.
        padding: "zeros", "border" or "reflection".
        adjoint: solve the transposed systems.
    """
    if out.numel() == 0:
        return
    dtype = accumulator(out)
    between = out if out.dtype == dtype else torch.empty_like(out, dtype=dtype)
    source = image
    for axis in range(image.dim() - 1, 1, -1):
        _solve_axis(source, between, out if axis == 2 else between, axis, padding, adjoint)
        source = between


def _solve_axis(
    source: Tensor, between: Tensor, target: Tensor, axis: int, padding: str, adjoint: bool
) -> None:
    """One launch: all lines along one axis."""
    size = source.shape[axis]
    lines = source.numel() // size
    others = [other for other in range(source.dim()) if other != axis]
    missing = 4 - len(others)

    def without_axis(values: tuple[int, ...], fill: int) -> tuple[int, ...]:
        return (fill,) * missing + tuple(values[other] for other in others)

    along_x = axis == source.dim() - 1
    with torch.cuda.device_of(source):
        spline_lines_kernel[(triton.cdiv(lines, _LINES[along_x]),)](
            source,
            between,
            target,
            without_axis(source.stride(), 0),
            without_axis(target.stride(), 0),
            source.stride(axis),
            target.stride(axis),
            without_axis(source.shape, 1),
            size,
            lines,
            PADDING=padding,
            ADJOINT=adjoint,
            ALONG_X=along_x,
            ACC=accumulator_type(source),
            LINES=_LINES[along_x],
            CHUNK=_CHUNK,
            num_warps=_WARPS,
        )
