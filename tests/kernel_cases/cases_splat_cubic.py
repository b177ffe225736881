"""The cubic modes of splat on the GPU backends; its gradients are those of warp."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops.splat import _FORWARD

MODES = ("cubic", "bspline")
PADDINGS = ("zeros", "border", "reflection")
# Of image and displacement.
DTYPES = (
    *((x, x) for x in (torch.float64, torch.float32, torch.float16, torch.bfloat16)),
    (torch.float16, torch.float32),
    (torch.float32, torch.bfloat16),
)
# Sizes of the image and of the result: also axes shorter than a cell, more than one block.
SIZES = (
    ((5, 1), (1, 9)),
    ((17, 16), (7, 6)),
    ((1, 5, 4), (2, 1, 4)),
    ((3, 6, 5), (4, 3, 6)),
)

Splat = Callable[..., Tensor]


@pytest.fixture(scope="session")
def kernel(kernel_backend) -> Splat:
    return _FORWARD[kernel_backend]


def make_inputs(size: tuple[int, ...], batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 image, displacement (reaching well outside) and affine near identity."""
    generator = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    ndim = len(size)
    affine = torch.eye(ndim, ndim + 1, dtype=torch.float64) + randn(batch, ndim, ndim + 1) * 0.2
    return randn(batch, 2, *size), randn(batch, ndim, *size) * 3, affine


def check(
    kernel: Splat,
    assert_close: Callable[..., None],
    inputs: tuple[Tensor, Tensor, Tensor | None],
    size: tuple[int, ...],
    mode: str,
    padding: str,
) -> None:
    result = kernel(*inputs, size, mode, padding)
    exact = [None if x is None else x.double() for x in inputs]
    expected = reference.splat(*exact, size, mode, padding, prefilter=False)
    assert result.dtype == inputs[0].dtype
    assert result.is_contiguous()
    assert_close(result, expected, result.dtype)


@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_the_reference(kernel, assert_close, size, target, mode, padding):
    image, displacement, affine = make_inputs(size)
    with_affine = mode == "cubic" or padding == "zeros"
    inputs = (image, displacement, affine if with_affine else None)
    check(kernel, assert_close, inputs, target, mode, padding)


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize(("image_dtype", "field_dtype"), DTYPES, ids=str)
@pytest.mark.parametrize("mode", MODES)
def test_deterministic_in_every_dtype(kernel, assert_close, image_dtype, field_dtype, mode):
    image, displacement, affine = make_inputs((4, 3, 5), batch=1)
    inputs = (image.to(image_dtype), displacement.to(field_dtype), affine.to(field_dtype))
    check(kernel, assert_close, inputs, (4, 3, 5), mode, "reflection")


@pytest.mark.parametrize("mode", MODES)
def test_strides_and_broadcast_batch(kernel, assert_close, mode):
    """Channel-last and expanded inputs, read in place."""
    image, displacement, affine = make_inputs((5, 6))
    image = image.movedim(1, -1).contiguous().movedim(-1, 1)
    displacement = displacement[:1].expand_as(displacement)
    check(kernel, assert_close, (image, displacement, affine), (7, 4), mode, "border")


def test_what_has_no_place_is_added_nowhere(kernel):
    """NaN and, beyond a zero border, far coordinates; the infinities there do not matter."""
    image = torch.full((1, 1, 3, 3), float("inf"))
    displacement = torch.full((1, 2, 3, 3), 100.0)
    displacement[:, 0, 1] = float("nan")
    for mode in MODES:
        assert not kernel(image, displacement, None, (4, 4), mode, "zeros").any()


@pytest.mark.parametrize(("shape", "size"), [((0, 2, 4, 4), (3, 3)), ((2, 2, 3, 0, 3), (2, 2, 2))])
def test_empty(kernel, shape, size):
    image, displacement = torch.rand(shape), torch.rand(shape[0], len(size), *shape[2:])
    result = kernel(image, displacement, None, size, "cubic", "border")
    assert result.shape == (*shape[:2], *size)
    assert not result.any()
