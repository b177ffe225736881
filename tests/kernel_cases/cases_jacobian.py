"""jacobian_determinant on the GPU backends, forward and backward."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops.jacobian import BACKWARD, FORWARD

SCHEMES = ("central", "forward", "backward")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Rows that packs of values divide and others; axes of length 1, 2 and 3; more than one tile.
SIZES = (
    (1, 9),
    (2, 2),
    (9, 67),
    (2, 1, 4),
    (4, 4, 7),
    (3, 3, 36),
)
SPACING = (0.5, 2.0, 1.25)


class Kernels(NamedTuple):
    forward: Callable[..., Tensor]
    backward: Callable[..., Tensor]


@pytest.fixture(scope="session")
def kernels(kernel_backend) -> Kernels:
    if kernel_backend == "triton":  # the interpreter's time is that of the planes
        for tile in ("_FORWARD_TILE", "_FLOAT64_TILE", "_BACKWARD_TILE"):
            getattr(backends.triton_kernels("jacobian")[0], tile)["PLANES"] = 2
    return Kernels(FORWARD[kernel_backend], BACKWARD[kernel_backend])


def make_inputs(size: tuple[int, ...], batch: int = 2) -> tuple[Tensor, Tensor]:
    """Float64 displacement and gradient."""
    generator = torch.Generator().manual_seed(11)
    field = torch.randn(batch, len(size), *size, generator=generator, dtype=torch.float64)
    grad = torch.randn(batch, 1, *size, generator=generator, dtype=torch.float64)
    return field, grad


def check(
    kernels: Kernels,
    assert_close: Callable[..., None],
    field: Tensor,
    grad: Tensor,
    scheme: str,
    spacing: tuple[float, ...],
) -> None:
    leaf = field.detach().double().requires_grad_()
    expected = reference.jacobian_determinant(leaf, scheme, spacing)
    (gradient,) = torch.autograd.grad(expected, leaf, grad.double())
    result = kernels.forward(field, scheme, spacing)
    found = kernels.backward(grad, field, scheme, spacing)
    assert result.dtype == found.dtype == field.dtype
    assert result.is_contiguous()
    assert found.is_contiguous()
    assert_close(result, expected.detach(), field.dtype)
    assert_close(found, gradient, field.dtype)


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_equals_the_reference(kernels, assert_close, size, scheme):
    field, grad = make_inputs(size, batch=1)
    check(kernels, assert_close, field, grad, scheme, SPACING[: len(size)])


@pytest.mark.parametrize("size", [(3, 4), (3, 5), (3, 2, 4)], ids=str)
def test_more_planes_than_one(kernels, kernel_backend, assert_close, size):
    """CUDA threads go through several planes where there are blocks enough without."""
    if kernel_backend == "triton":
        pytest.skip("as many planes always")
    field, grad = make_inputs(size, batch=2100)
    for scheme in SCHEMES[:2]:
        check(kernels, assert_close, field, grad, scheme, (1.0,) * len(size))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(3, 8), (2, 3, 4)], ids=str)
def test_every_dtype(kernels, assert_close, dtype, size):
    field, grad = (x.to(dtype) for x in make_inputs(size, batch=1))
    for scheme in SCHEMES[:2] if len(size) == 2 else SCHEMES[:1]:
        check(kernels, assert_close, field, grad, scheme, SPACING[: len(size)])


@pytest.mark.parametrize("size", [(6, 8), (2, 2, 8)], ids=str)
def test_strides_do_not_matter(kernels, assert_close, size):
    """Channel-last, transposed, sliced, misaligned and expanded inputs, read in place."""
    field, grad = (x.float() for x in make_inputs(size))
    spacing = SPACING[: len(size)]
    apart = torch.full([2 * n for n in field.shape], torch.nan)
    shifted = torch.full((*field.shape[:-1], 12), torch.nan)
    for view in (
        field.movedim(1, -1).contiguous().movedim(-1, 1),
        field.transpose(-1, -2).contiguous().transpose(-1, -2),
        apart[tuple(slice(None, None, 2) for _ in apart.shape)].copy_(field),
        shifted[..., 1:9].copy_(field),
        field[:1, :, :1].expand_as(field),
    ):
        strided_grad = grad.transpose(-1, -2).contiguous().transpose(-1, -2)
        assert not view.is_contiguous()
        check(kernels, assert_close, view, strided_grad, "central", spacing)
    check(kernels, assert_close, view, grad[:1].expand_as(grad), "backward", spacing)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_nan_reaches_its_neighbours_only(kernels, scheme):
    for size, voxel in (((5, 36), (2, 19)), ((2, 3, 9), (1, 1, 4))):
        field = make_inputs(size)[0].float()
        field[(0, 0, *voxel)] = torch.nan
        spacing = SPACING[: len(size)]
        result = kernels.forward(field, scheme, spacing)
        expected = reference.jacobian_determinant(field, scheme, spacing)
        assert torch.equal(result.isnan(), expected.isnan())
        grad = torch.ones_like(expected)
        grad[(1, 0, *voxel)] = torch.nan
        found = kernels.backward(grad, field, scheme, spacing)
        far = torch.ones(size, dtype=torch.bool)
        far[tuple(slice(max(v - 2, 0), v + 3) for v in voxel)] = False
        assert found[..., far].isfinite().all()
        assert found[1].isnan().any()


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (2, 2, 0, 5), (1, 3, 2, 3, 0)])
def test_empty(kernels, shape):
    field = torch.ones(shape)
    spacing = (1.0,) * shape[1]
    result = kernels.forward(field, "central", spacing)
    assert result.shape == (shape[0], 1, *shape[2:])
    assert kernels.backward(result, field, "central", spacing).shape == shape


@pytest.mark.parametrize("far", ["displacement", "grad"])
@pytest.mark.parametrize("scheme", SCHEMES[:2])
@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(kernels, assert_close, scheme, far):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    field, grad = (x.to(torch.bfloat16) for x in make_inputs((4, 8), batch=1))
    values = field if far == "displacement" else grad
    buffer = torch.empty(3 * 2**30 + 32, dtype=torch.bfloat16)
    view = buffer.as_strided(values.shape, (0, 8, 2**30, 1)).copy_(values)
    inputs = (view, grad) if far == "displacement" else (field, view)
    check(kernels, assert_close, *inputs, scheme, (1.0, 1.0))
