"""invert on the GPU backends, forward and backward."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plasticine import reference
from plasticine.ops._invert_backends import BACKWARD, FORWARD, Solution

PADDINGS = ("zeros", "border", "reflection")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Odd, with axes of length 1, over more than one block of threads.
SIZES = ((1, 9), (11, 13), (4, 1, 3), (5, 6, 7))


class Kernels(NamedTuple):
    forward: Callable[..., Solution]
    backward: Callable[..., Tensor]


@pytest.fixture(scope="session")
def kernels(kernel_backend) -> Kernels:
    if kernel_backend == "triton":  # the interpreter finds a block's worst residual one by one
        module = importlib.import_module("plasticine.kernels.invert")
        module._BLOCK, module._HALF_BLOCK = 32, 64
    return Kernels(FORWARD[kernel_backend], BACKWARD[kernel_backend])


def make_field(size: tuple[int, ...], largest: float = 1.5) -> Tensor:
    """Float64, of neighbours that differ by 0.2 at most: it does not fold."""
    generator = torch.Generator().manual_seed(3)
    nodes = [n // 6 + 2 for n in size]
    ndim = len(size)
    values = torch.randn(2, ndim, *nodes, generator=generator, dtype=torch.float64)
    mode = "bilinear" if ndim == 2 else "trilinear"
    field = F.interpolate(values, size, mode=mode, align_corners=True)
    steepest = max(
        field.diff(dim=axis).abs().amax().item()
        for axis in range(2, ndim + 2)
        if field.shape[axis] > 1
    )
    return field * min(largest / field.abs().amax().item(), 0.2 / steepest)


def residual_of(u: Tensor, w: Tensor, padding: str) -> Tensor:
    """The largest |w + u(p + w)| of each sample in float64."""
    u, w = u.double(), w.double()
    norm = (w + reference.warp(u, w, None, "linear", padding)).norm(dim=1)
    return norm.flatten(1).amax(1)


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_solves_its_equation(kernels, assert_close, size, padding):
    field = make_field(size) * (0.3 if padding == "zeros" else 1)
    inverse, residual, used = kernels.forward(field, 1e-10, 100, padding)
    assert (residual <= 1e-10).all()
    torch.testing.assert_close(
        residual, residual_of(field, inverse, padding), rtol=1e-6, atol=1e-13
    )
    assert used.dtype == torch.int64
    assert 0 < used.max() < 20
    grad = torch.randn(field.shape, dtype=torch.float64)
    found = kernels.backward(grad, field, inverse, padding)
    assert_close(found, reference.invert_adjoint(grad, field, inverse, padding), torch.float64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(6, 7), (3, 4, 5)], ids=str)
def test_every_dtype_and_stride(kernels, assert_close, dtype, size):
    field = make_field(size).to(dtype)
    grad = torch.randn(field.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    precision = torch.promote_types(dtype, torch.float32)
    apart = torch.full([2 * n for n in field.shape], torch.nan, dtype=dtype)
    expected = kernels.forward(field, 1e-4, 50, "border")
    for view in (
        field.movedim(1, -1).contiguous().movedim(-1, 1),
        apart[tuple(slice(None, None, 2) for _ in apart.shape)].copy_(field),
    ):
        inverse, residual, used = kernels.forward(view, 1e-4, 50, "border")
        assert inverse.is_contiguous()
        assert (inverse.dtype, residual.dtype) == (dtype, precision)
        assert (residual <= 1e-4).all()
        for actual, wanted in zip((inverse, residual, used), expected, strict=True):
            assert torch.equal(actual, wanted)
        rounding = {torch.float16: 4e-3, torch.bfloat16: 3e-2}.get(dtype, 1.1e-4)
        assert (residual_of(field, inverse, "border") <= rounding).all()
        strided_grad = grad.transpose(-1, -2).contiguous().transpose(-1, -2)
        found = kernels.backward(strided_grad, view, inverse, "border")
        assert found.dtype == dtype
        wanted = reference.invert_adjoint(grad.double(), field.double(), inverse.double())
        assert_close(found, wanted, dtype)


def test_a_shift_is_undone_at_once(kernels):
    for size in ((6, 7), (3, 4, 5)):
        field = torch.full((1, len(size), *size), 2.25)
        inverse, residual, used = kernels.forward(field, 0.0, 10, "border")
        assert torch.equal(inverse, -field)
        assert residual.tolist() == [0]
        assert used.tolist() == [0]


@pytest.mark.parametrize("size", [(9, 9), (5, 5, 5)], ids=str)
def test_a_fold_is_left_with_its_residual(kernels, size):
    """Nothing maps there, or several places do: the residual says what was found."""
    generator = torch.Generator().manual_seed(1)
    field = torch.randn(1, len(size), *size, generator=generator, dtype=torch.float64) * 3
    inverse, residual, used = kernels.forward(field, 1e-6, 7, "border")
    assert used.tolist() == [7]
    assert residual.item() > 1e-6
    torch.testing.assert_close(residual, residual_of(field, inverse, "border"))
    none, residual, used = kernels.forward(field, 1e-6, 0, "border")
    assert torch.equal(none, -field)
    assert used.tolist() == [0]
    torch.testing.assert_close(residual, residual_of(field, none, "border"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("padding", PADDINGS)
def test_what_is_not_finite_stays_where_the_search_meets_it(kernels, value, padding):
    for size, voxel in (((9, 9), (4, 4)), ((5, 5, 5), (2, 2, 2))):
        field = torch.full((2, len(size), *size), 0.25)
        field[(0, 0, *voxel)] = value
        inverse, residual, _ = kernels.forward(field, 1e-5, 20, padding)
        assert math.isnan(residual[0])
        assert residual[1].isfinite()
        undefined = inverse.isnan().any(1)
        assert undefined[0].any()
        assert undefined[0].sum() <= 3 ** len(size)
        assert not undefined[1].any()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (2, 2, 0, 5), (1, 3, 2, 3, 0)])
def test_empty(kernels, shape):
    field = torch.zeros(shape)
    inverse, residual, used = kernels.forward(field, 1e-3, 10, "border")
    assert inverse.shape == shape
    assert residual.tolist() == used.tolist() == [0] * shape[0]
    assert kernels.backward(field, field, inverse, "border").shape == shape


@pytest.mark.parametrize("far", ["displacement", "inverse", "grad"])
@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(kernels, assert_close, far):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    field = make_field((4, 5))[:1].to(torch.bfloat16)
    inverse = kernels.forward(field, 1e-3, 20, "border")[0]
    inputs = {"grad": torch.ones_like(field), "displacement": field, "inverse": inverse}
    expected = kernels.backward(*inputs.values(), "border")
    buffer = torch.empty(3 * 2**30 + 64, dtype=torch.bfloat16)
    view = buffer.as_strided(field.shape, (0, 16, 2**30, 1))
    inputs[far] = view.copy_(inputs[far])
    found = kernels.backward(*inputs.values(), "border")
    assert_close(found, expected, torch.bfloat16)
    if far == "displacement":
        assert torch.equal(kernels.forward(view, 1e-3, 20, "border")[0], inverse)
