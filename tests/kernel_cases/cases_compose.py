"""compose on the GPU backends, forward and backward."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops._compose_backends import BACKWARD, FORWARD

PADDINGS = ("zeros", "border", "reflection")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Sizes of u and of v: odd, unequal, with axes of length 1, over more than one block of threads.
SIZES = (
    ((1, 9), (5, 1)),
    ((7, 6), (11, 37)),
    ((3, 1, 4), (1, 5, 4)),
    ((4, 6, 5), (5, 6, 35)),
)
SMALL_SIZES = (((4, 5, 6), (3, 6, 5)), ((5, 6), (7, 4)))  # 3D, 2D

Gradients = tuple[Tensor | None, Tensor | None]


class Kernels(NamedTuple):
    forward: Callable[..., Tensor]
    backward: Callable[..., Gradients]


@pytest.fixture(scope="session")
def kernels(kernel_backend) -> Kernels:
    return Kernels(FORWARD[kernel_backend], BACKWARD[kernel_backend])


def make_inputs(
    sizes: tuple[tuple[int, ...], tuple[int, ...]], *, reach: float = 3.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 u, v (reaching well outside) and gradient."""
    generator = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    u_size, size = sizes
    ndim = len(size)
    return randn(2, ndim, *u_size), randn(2, ndim, *size) * reach, randn(2, ndim, *size)


def expected_of(u: Tensor, v: Tensor, grad: Tensor, padding: str) -> tuple[Tensor, Gradients]:
    """Result and gradients of the reference in float64."""
    leaves = [x.detach().double().requires_grad_() for x in (u, v)]
    result = reference.compose(*leaves, padding)
    first, second = torch.autograd.grad(result, leaves, grad.double())
    return result.detach(), (first, second)


def check(
    kernels: Kernels,
    assert_close: Callable[..., None],
    inputs: tuple[Tensor, Tensor, Tensor],
    padding: str,
    needs: tuple[bool, bool] = (True, True),
) -> None:
    u, v, grad = inputs
    result = kernels.forward(u, v, padding)
    found = kernels.backward(grad, u, v, padding, needs)
    expected, gradients = expected_of(u, v, grad, padding)
    assert result.dtype == v.dtype
    assert_close(result, expected, v.dtype)
    for need, actual, wanted, like in zip(needs, found, gradients, (u, v), strict=True):
        if need:
            assert actual.dtype == like.dtype
            assert_close(actual, wanted, like.dtype)
        else:
            assert actual is None


def test_has_its_functions(kernel_backend):
    assert kernel_backend in FORWARD
    assert kernel_backend in BACKWARD


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_the_reference(kernels, assert_close, sizes, padding):
    check(kernels, assert_close, make_inputs(sizes), padding)


@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
def test_neighbours_that_share_voxels(kernels, assert_close, sizes):
    """A smooth field, where neighbours reach the same voxels, and one where all meet in one."""
    u, v, grad = make_inputs(((6, 37), (5, 40)) if len(sizes[0]) == 2 else ((3, 4, 35), (2, 4, 33)))
    axes = (torch.arange(n, dtype=torch.float64) for n in v.shape[2:])
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    for moved in (0.3 * torch.sin(0.2 * positions.flip(0)), 1.4 - positions):
        check(kernels, assert_close, (u, v.copy_(moved), grad), "border")


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("needs", list(itertools.product((True, False), repeat=2)), ids=str)
@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
def test_only_the_gradients_asked_for_and_those_in_full(kernels, assert_close, needs, sizes):
    check(kernels, assert_close, make_inputs(sizes), "border", needs)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
def test_every_dtype(kernels, assert_close, dtype, sizes):
    inputs = tuple(x.to(dtype) for x in make_inputs(sizes, reach=1.0))
    check(kernels, assert_close, inputs, "reflection")


@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
def test_strides_and_broadcast_batch(kernels, assert_close, sizes):
    """Channel-last, sliced and expanded inputs, read in place."""
    u, v, grad = make_inputs(sizes)
    u = u.movedim(1, -1).contiguous().movedim(-1, 1)
    v = v.repeat_interleave(2, -1)[..., ::2]
    v = v[:1].expand_as(v)
    grad = grad[:, :1].expand_as(grad).transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not any(x.is_contiguous() for x in (u, v, grad))
    check(kernels, assert_close, (u, v, grad), "border")


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.usefixtures("overflow_checked")
def test_locations_that_do_not_exist(kernels, assert_close, padding, value):
    """NaN, infinite and huge coordinates: one voxel is affected, and never the gradient of u."""
    u, v, grad = make_inputs(SMALL_SIZES[0 if math.isnan(value) else 1])
    v[:, 0].flatten(1)[:, 3] = value
    result = kernels.forward(u, v, padding)
    expected, gradients = expected_of(u, v, grad, padding)
    assert (~result.isfinite()).sum() <= 2 * v.shape[1]
    found = kernels.backward(grad, u, v, padding, (True, True))
    assert found[0].isfinite().all()
    if value != 1e30 or padding != "reflection":  # its phase is lost to rounding
        relevant = expected.abs() < 1e29
        torch.testing.assert_close(result.isnan(), expected.isnan())
        assert_close(result[relevant], expected[relevant], torch.float64)
        assert_close(found[0], gradients[0], torch.float64)
        assert_close(found[1], gradients[1], torch.float64)


def test_outside_of_a_non_finite_field_is_zero(kernels):
    u = torch.full((1, 2, 4, 4), float("nan"))
    v = torch.full((1, 2, 3, 3), 100.0)
    assert torch.equal(kernels.forward(u, v, "zeros"), v)
    grad = torch.full((1, 2, 3, 3), float("inf"))
    found = kernels.backward(grad, u, v, "zeros", (True, True))
    assert not found[0].any()
    assert torch.equal(found[1], grad)


@pytest.mark.parametrize(
    ("u_shape", "v_shape"),
    [((0, 2, 4, 4), (0, 2, 3, 3)), ((2, 3, 4, 4, 4), (2, 3, 3, 0, 3))],
)
def test_empty(kernels, u_shape, v_shape):
    u, v = torch.rand(u_shape), torch.rand(v_shape)
    result = kernels.forward(u, v, "border")
    assert result.shape == v.shape
    found = kernels.backward(result, u, v, "border", (True, True))
    for gradient, x in zip(found, (u, v), strict=True):
        assert gradient.shape == x.shape
        assert not gradient.any()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [*((dtype, 1.0) for dtype in DTYPES), (torch.float32, 1e-30), (torch.bfloat16, 1e30)],
)
def test_fixed_point_scatter(kernels, assert_close, dtype, magnitude):
    """Deterministic mode is as exact as the floating-point sum, whatever the gradient's size."""
    sizes = SMALL_SIZES[0]
    u, v, grad = (x.to(dtype) for x in make_inputs(sizes))
    axes = (torch.arange(n).to(dtype) for n in sizes[1])
    v[0] = 0.4 - torch.stack(torch.meshgrid(*axes, indexing="ij"))  # all meet in one place
    grad = grad * magnitude
    found = kernels.backward(grad, u, v, "border", (True, False))[0]
    expected = expected_of(u, v, grad, "border")[1][0]
    assert_close(found / magnitude, expected / magnitude, dtype)


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_scatter_of_infinities_and_nan(kernels):
    """They land where they would in floating point, and do not spoil the sums beside them."""
    u, v = torch.rand(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    v[:, :, :, 3] = 0.5  # the last voxels are alone in their column, clamped
    grad = torch.ones(1, 2, 4, 4)
    grad[0, 0, 0, :3] = torch.tensor([float("inf"), -float("inf"), float("nan")])
    found = kernels.backward(grad, u, v, "border", (True, False))[0]
    assert found[0, 0, 0, 0] == float("inf")
    assert found[0, 0, 0, 2].isnan()
    assert found[0, 1].isfinite().all()
    assert found[0, 0, 2:].isfinite().all()


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_sum_does_not_depend_on_order(kernels):
    """The same contributions in another order give the same bits."""
    generator = torch.Generator().manual_seed(1)
    u = torch.rand(1, 2, 3, 3)
    exponents = torch.randint(-6, 6, (1, 2, 20, 20), generator=generator)
    grad = torch.randn(1, 2, 20, 20, generator=generator) * 10.0**exponents
    # Multiples of 2**-10: the location is the same from wherever it is reached.
    locations = torch.randint(0, 2048, (1, 2, 20, 20), generator=generator) / 1024.0
    axes = (torch.arange(20.0), torch.arange(20.0))
    positions = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    results = []
    for order in (torch.arange(400), torch.randperm(400, generator=generator)):
        permuted = [x.flatten(2)[..., order].view_as(x) for x in (grad, locations)]
        v = permuted[1] - positions
        results.append(kernels.backward(permuted[0], u, v, "border", (True, False))[0])
    assert torch.equal(*results)


@pytest.mark.parametrize("far", ["u", "v", "grad"])
@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(kernels, assert_close, far):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    u, v, grad = make_inputs(((4, 5), (4, 5)), reach=1.0)
    inputs = {"u": u[:1], "v": v[:1], "grad": grad[:1]}
    inputs = {name: x.to(torch.bfloat16) for name, x in inputs.items()}
    values = inputs[far]
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    inputs[far] = buffer.as_strided(values.shape, (0, 5, 2**30, 1)).copy_(values)
    check(kernels, assert_close, (inputs["u"], inputs["v"], inputs["grad"]), "zeros")
