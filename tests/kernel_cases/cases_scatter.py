"""What many voxels add to the same voxels: by atomics between neighbours, and in fixed point."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import plasticine
from plasticine import reference

MODES = ("linear", "nearest", "cubic", "bspline")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MAGNITUDES = [*((dtype, 1.0) for dtype in DTYPES), (torch.float32, 1e-30), (torch.bfloat16, 1e30)]
# Image and grid.
SIZES = {"3d": ((4, 6, 5), (3, 6, 8)), "2d": ((7, 6), (17, 16))}


def randn(*shape: int, seed: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def positions(size: tuple[int, ...]) -> Tensor:
    axes = (torch.arange(n, dtype=torch.float64) for n in size)
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def warp(image: Tensor, displacement: Tensor, mode: str, padding: str, backend: str) -> Tensor:
    options = {"mode": mode, "padding": padding, "prefilter": False}
    return plasticine.warp(image, displacement, **options, backend=backend)


def compose(u: Tensor, v: Tensor, mode: str, padding: str, backend: str) -> Tensor:
    return plasticine.compose(u, v, padding=padding, backend=backend)


CALLS = [*((warp, mode) for mode in MODES), (compose, "linear")]
calls = pytest.mark.parametrize(("call", "mode"), CALLS, ids=lambda x: getattr(x, "__name__", x))


def scattered(call, image: Tensor, field: Tensor, grad: Tensor, *options: str) -> Tensor:
    """The gradient of what is sampled."""
    leaf = image.detach().requires_grad_()
    return torch.autograd.grad(call(leaf, field, *options), leaf, grad)[0]


def in_float64(image: Tensor, field: Tensor, grad: Tensor, mode: str, padding: str) -> Tensor:
    """The same of the definition; what compose adds does not depend on what is sampled."""
    leaf = image.detach().double().requires_grad_()
    result = reference.warp(leaf, field.double(), None, mode, padding, prefilter=False)
    return torch.autograd.grad(result, leaf, grad.double())[0]


# The displacement along x of the voxels x: neighbours read neighbouring cells, two of them the same
# one, all the same one, cells in the opposite order, and across the ends of the rows; one of a
# smooth field is nowhere, and others run into the border.
NEIGHBOURS = {
    "shifted": lambda x: torch.full_like(x, 0.25),
    "compressed": lambda x: -0.55 * x,
    "gathered": lambda x: 1.7 - x,
    "mirrored": lambda x: x.max() - 2 * x - 0.3,
    "apart": lambda x: 20 - 3 * x,
    "smooth": lambda x: torch.where(x == 9, torch.nan, 0.3 * torch.sin(0.7 * x) + (x > 14)),
}


@calls
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("neighbours", NEIGHBOURS)
def test_scatter_of_neighbours(kernel_backend, assert_close, call, mode, padding, neighbours):
    for size in ((3, 6, 21), (9, 37)):
        ndim = len(size)
        field = torch.full((2, ndim, *size), 0.4)
        field[:, -1] = NEIGHBOURS[neighbours](torch.arange(size[-1], dtype=torch.float32))
        channels = ndim if call is compose else 2
        image, grad = (randn(2, channels, *size, seed=seed).float() for seed in (1, 2))
        found = scattered(call, image, field, grad, mode, padding, kernel_backend)
        assert_close(found, in_float64(image, field, grad, mode, padding), torch.float32)


@pytest.mark.parametrize("mode", MODES)
def test_splat_of_neighbours(kernel_backend, assert_close, mode):
    for size in ((5, 70), (2, 5, 36)):
        image, field = randn(2, 2, *size), 0.4 + 0.02 * randn(2, len(size), *size, seed=1)
        field[0, -1, ..., 20] = torch.nan
        field[0, 0, ..., 30:34] += 1.0
        for padding in ("zeros", "border", "reflection"):
            options = {"mode": mode, "padding": padding, "prefilter": False}
            found = plasticine.splat(image, field, **options, backend=kernel_backend)
            expected = reference.splat(image, field, **options)
            assert_close(found, expected, torch.float64)


@calls
@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("dtype", "magnitude"), MAGNITUDES)
def test_fixed_point(kernel_backend, assert_close, call, mode, dtype, magnitude):
    """Deterministic mode is as exact as the floating-point sum, whatever the gradient's size."""
    source, size = SIZES["2d" if mode in ("nearest", "bspline") else "3d"]
    channels = len(size) if call is compose else 2
    image = randn(2, channels, *source).to(dtype)
    field = randn(2, len(size), *size, seed=1).to(dtype) * 2
    # All voxels of the first sample meet in one place, where cubic weights' signs alternate.
    field[0] = 1.5 - positions(size).to(dtype)
    grad = randn(2, channels, *size, seed=2).abs().to(dtype) * magnitude
    found = scattered(call, image, field, grad, mode, "border", kernel_backend)
    expected = in_float64(image, field, grad, mode, "border")
    assert_close(found / magnitude, expected / magnitude, dtype)


@calls
@pytest.mark.usefixtures("deterministic")
def test_the_fixed_point_sum_does_not_depend_on_the_order(kernel_backend, call, mode):
    """The same contributions in another order give the same bits."""
    generator = torch.Generator().manual_seed(1)
    exponents = torch.randint(-6, 6, (1, 2, 20, 20), generator=generator)
    grad = (randn(1, 2, 20, 20) * 10.0**exponents).float()
    # Multiples of 2**-10: the location is the same from wherever it is reached.
    locations = torch.randint(0, 2048, (1, 2, 20, 20), generator=generator) / 1024.0
    results = []
    for order in (torch.arange(400), torch.randperm(400, generator=generator)):
        permuted = [x.flatten(2)[..., order].view_as(x) for x in (grad, locations)]
        field = permuted[1] - positions((20, 20)).float()
        image = torch.zeros(1, 2, 3, 3)
        results.append(scattered(call, image, field, permuted[0], mode, "border", kernel_backend))
    assert torch.equal(*results)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("call", [warp, compose])
def test_fixed_point_of_infinities_and_nan(kernel_backend, call):
    """They land where they would in floating point, and do not spoil the sums beside them."""
    image, field = torch.rand(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    grad = torch.ones(1, 2, 4, 4)
    grad[0, 0, 0] = torch.tensor([float("inf"), -float("inf"), float("nan"), 100])
    mode = "nearest" if call is warp else "linear"
    found = scattered(call, image, field, grad, mode, "border", kernel_backend)
    if call is warp:
        torch.testing.assert_close(found, grad, equal_nan=True)
    assert found[0, 0, 0, 0] == float("inf")
    assert found[0, 0, 0, 2].isnan()
    assert found[0, 1].isfinite().all()
    assert found[0, 0, 2:].isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_outside_of_what_is_not_finite_is_zero(kernel_backend, mode):
    image = torch.full((1, 2, 4, 4), torch.nan, requires_grad=True)
    field = torch.full((1, 2, 3, 3), 100.0, requires_grad=True)
    grad = torch.full((1, 2, 3, 3), torch.inf)
    result = warp(image, field, mode, "zeros", kernel_backend)
    assert not result.any()
    assert not any(x.any() for x in torch.autograd.grad(result, (image, field), grad))
    if mode == "linear":
        composed = plasticine.compose(image, field, padding="zeros", backend=kernel_backend)
        assert torch.equal(composed, field)
        found = torch.autograd.grad(composed, (image, field), grad)
        assert not found[0].any()
        assert torch.equal(found[1], grad)
    far = torch.full((1, 2, 3, 3), 100.0)
    far[:, 0, 1] = torch.nan
    options = {"size": (4, 4), "mode": mode, "padding": "zeros", "prefilter": False}
    assert not plasticine.splat(grad, far, **options, backend=kernel_backend).any()
