"""spline_coefficients, and its adjoint, on the GPU backends."""

from __future__ import annotations

import importlib
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops.spline_coefficients import _FORWARD

PADDINGS = ("zeros", "border", "reflection")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Axes of one and two voxels, and axes that end within a tile, or a chunk, and just at its edge.
SIZES = ((1, 9), (2, 1), (5, 4, 3), (1, 2, 8))
# Lines so long that only their ends' factors are kept, and more of them than a block solves.
LONG = ((40, 3), (3, 67), (2, 33, 35))


@pytest.fixture(scope="session")
def kernel(kernel_backend) -> Callable[..., Tensor]:
    if kernel_backend == "triton":
        # Tiles that the interpreter, which scans value by value, is done with soon.
        kernels = importlib.import_module("plasticine.kernels.spline_coefficients")
        kernels._LINES, kernels._CHUNK = {True: 8, False: 8}, 4
    return _FORWARD[kernel_backend]


def make_image(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def check(
    kernel: Callable[..., Tensor],
    assert_close: Callable[..., None],
    image: Tensor,
    padding: str,
    adjoint: bool,
) -> None:
    result = kernel(image, padding, adjoint)
    expected = reference.spline_coefficients(image.double(), padding, adjoint)
    assert result.dtype == image.dtype
    assert result.is_contiguous()
    assert_close(result, expected, image.dtype)


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("adjoint", [False, True])
def test_equals_the_reference(kernel, assert_close, size, padding, adjoint):
    check(kernel, assert_close, make_image(2, 1, *size), padding, adjoint)


@pytest.mark.parametrize("size", LONG, ids=str)
@pytest.mark.parametrize(
    ("padding", "adjoint"), [("zeros", False), ("border", True), ("reflection", True)]
)
def test_long_lines(kernel, kernel_backend, assert_close, size, padding, adjoint):
    if kernel_backend == "triton" and len(size) == 3:
        size = (2, 5, 9)
    check(kernel, assert_close, make_image(1, 1, *size), padding, adjoint)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(5, 6), (3, 4, 5)], ids=str)
def test_every_dtype(kernel, assert_close, dtype, size):
    check(kernel, assert_close, make_image(1, 2, *size).to(dtype), "reflection", False)


def test_strides_and_broadcast_channels(kernel, assert_close):
    image = make_image(2, 2, 4, 3, 5)
    views = (
        image.movedim(1, -1).contiguous().movedim(-1, 1),
        image.transpose(2, 4).contiguous().transpose(2, 4),
        image.repeat_interleave(2, -1)[..., ::2],
        image[:, :1].expand_as(image),
    )
    for view in views:
        assert not view.is_contiguous()
        check(kernel, assert_close, view, "border", False)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_fills_its_channel_and_no_other(kernel, value):
    image = make_image(1, 2, 5, 9)
    expected = kernel(image, "border", False)
    image[0, 1, 2, 4] = value
    result = kernel(image, "border", False)
    assert not result[0, 1].isfinite().any()
    assert torch.equal(result[0, 0], expected[0, 0])


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (2, 0, 4, 5), (2, 2, 0, 5), (1, 3, 2, 3, 0)])
def test_empty(kernel, shape):
    assert kernel(torch.ones(shape), "border", False).shape == shape


@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(kernel, assert_close):
    """A view whose rows lie 2**30 elements apart."""
    values = make_image(1, 1, 4, 5).to(torch.bfloat16)
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    view = buffer.as_strided(values.shape, (0, 5, 2**30, 1)).copy_(values)
    check(kernel, assert_close, view, "border", False)
