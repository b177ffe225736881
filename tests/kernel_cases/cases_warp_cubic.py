"""The cubic modes of warp on the GPU backends, forward and backward."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _warp_backends

MODES = ("cubic", "bspline")
PADDINGS = ("zeros", "border", "reflection")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Of image and displacement; float32 coefficients are those of a half image.
MIXED = (
    (torch.float16, torch.float32),
    (torch.bfloat16, torch.float32),
    (torch.float32, torch.float16),
    (torch.float32, torch.bfloat16),
)
# Image and output sizes: odd, unequal, axes shorter than a cell, over more than one block.
SIZES = (
    ((1, 9), (5, 1)),
    ((7, 6), (17, 16)),
    ((2, 1, 4), (1, 5, 4)),
    ((4, 6, 5), (3, 6, 8)),
)
SMALL_SIZES = (((4, 5, 6), (3, 4, 5)), ((5, 6), (7, 4)))  # 3D, 2D

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
Inputs = tuple[Tensor, Tensor, Tensor | None, Tensor]


class Kernels(NamedTuple):
    forward: Callable[..., Tensor]
    backward: Callable[..., Gradients]


@pytest.fixture(scope="session")
def kernels(kernel_backend) -> Kernels:
    # Fewer than the voxels would fill, so that a block takes several turns.
    _warp_backends._CUDA_BLOCKS = 2
    return Kernels(_warp_backends.FORWARD[kernel_backend], _warp_backends.BACKWARD[kernel_backend])


def make_inputs(
    sizes: tuple[tuple[int, ...], tuple[int, ...]],
    *,
    with_affine: bool = True,
    batch: int = 1,
    channels: int = 1,
) -> Inputs:
    """Float64 image, displacement (reaching well outside), affine near identity, and gradient.

    One sample and one channel where that is enough: 64 taps take the interpreter its time.
    """
    generator = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    image_size, size = sizes
    ndim = len(size)
    image, displacement = randn(batch, channels, *image_size), randn(batch, ndim, *size) * 3
    affine = torch.eye(ndim, ndim + 1, dtype=torch.float64) + randn(batch, ndim, ndim + 1) * 0.2
    grad = randn(batch, channels, *size)
    return image, displacement, affine if with_affine else None, grad


def expected_of(inputs: Inputs, mode: str, padding: str) -> tuple[Tensor, Gradients]:
    """Result and gradients of the reference in float64."""
    image, displacement, affine, grad = inputs
    leaves = [
        None if x is None else x.detach().double().requires_grad_()
        for x in (image, displacement, affine)
    ]
    result = reference.warp(*leaves, mode, padding, prefilter=False)
    found = iter(torch.autograd.grad(result, [x for x in leaves if x is not None], grad.double()))
    first, second, third = (None if x is None else next(found) for x in leaves)
    return result.detach(), (first, second, third)


def check(
    kernels: Kernels,
    assert_close: Callable[..., None],
    inputs: Inputs,
    mode: str,
    padding: str,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> None:
    image, displacement, affine, grad = inputs
    result = kernels.forward(image, displacement, affine, mode, padding)
    found = kernels.backward(grad, image, displacement, affine, mode, padding, needs)
    expected, gradients = expected_of(inputs, mode, padding)
    assert result.dtype == image.dtype
    assert_close(result, expected, image.dtype)
    for need, actual, wanted, like in zip(
        needs, found, gradients, (image, displacement, affine), strict=True
    ):
        if need and like is not None:
            assert actual.dtype == like.dtype
            assert_close(actual, wanted, like.dtype)
        else:
            assert actual is None


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_the_reference(kernels, assert_close, sizes, mode, padding):
    with_affine = mode == "cubic" or padding == "zeros"
    check(kernels, assert_close, make_inputs(sizes, with_affine=with_affine), mode, padding)


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("needs", list(itertools.product((True, False), repeat=3)), ids=str)
def test_only_the_gradients_asked_for_and_those_in_full(kernels, assert_close, needs):
    inputs = make_inputs(SMALL_SIZES[0])
    check(kernels, assert_close, inputs, "cubic", "border", needs)


@pytest.mark.parametrize("dtypes", [*((t, t) for t in DTYPES), *MIXED], ids=str)
@pytest.mark.parametrize(("mode", "sizes"), list(zip(MODES, SMALL_SIZES, strict=True)))
def test_every_dtype(kernels, assert_close, dtypes, mode, sizes):
    image_dtype, field_dtype = dtypes
    image, displacement, affine, grad = make_inputs(sizes)
    image, grad = image.to(image_dtype), grad.to(image_dtype)
    displacement, affine = displacement.to(field_dtype), affine.to(field_dtype)
    check(kernels, assert_close, (image, displacement, affine, grad), mode, "reflection")


@pytest.mark.parametrize(("mode", "sizes"), list(zip(MODES, SMALL_SIZES, strict=True)))
def test_strides_and_broadcast_batch(kernels, assert_close, sizes, mode):
    """Channel-last, sliced and expanded inputs, read in place."""
    image, displacement, affine, grad = make_inputs(sizes, batch=2, channels=2)
    image = image.movedim(1, -1).contiguous().movedim(-1, 1)
    displacement = displacement.repeat_interleave(2, -1)[..., ::2]
    displacement = displacement[:1].expand_as(displacement)
    affine = affine.mT.contiguous().mT
    grad = grad[:, :1].expand_as(grad).transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not any(x.is_contiguous() for x in (image, displacement, affine, grad))
    check(kernels, assert_close, (image, displacement, affine, grad), mode, "border")


@pytest.mark.parametrize("mode", MODES)
def test_the_identity_returns_the_image(kernels, assert_close, mode):
    """Cubic convolution exactly; the spline of coefficients that are all the same, too."""
    image, displacement, _, _ = make_inputs(((4, 5, 6),) * 2)
    image = image if mode == "cubic" else torch.full_like(image, 7.0)
    result = kernels.forward(image, torch.zeros_like(displacement), None, mode, "border")
    if mode == "cubic":
        assert torch.equal(result, image)
    assert_close(result, image, torch.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.usefixtures("overflow_checked")
def test_locations_that_do_not_exist(kernels, assert_close, mode, padding, value):
    """NaN, infinite and huge coordinates: one voxel is affected, and never the image's gradient.

    The image's axes are shorter than a cell, where a tap's mirror image would miss it.
    """
    sizes = ((2, 3, 1), (3, 2, 4)) if math.isnan(value) else SMALL_SIZES[1]
    image, displacement, _, grad = make_inputs(sizes, with_affine=False, channels=2)
    displacement[:, 0].flatten(1)[:, 3] = value
    result = kernels.forward(image, displacement, None, mode, padding)
    expected, gradients = expected_of((image, displacement, None, grad), mode, padding)
    is_undefined = math.isnan(value) or (math.isinf(value) and padding == "reflection")
    assert result.isnan().sum() == (2 if is_undefined else 0)
    found = kernels.backward(grad, image, displacement, None, mode, padding, (True, True, False))
    assert found[0].isfinite().all()
    if value != 1e30 or padding != "reflection":  # its phase is lost to rounding
        assert_close(result, expected, torch.float64)
        assert_close(found[0], gradients[0], torch.float64)
        assert_close(found[1], gradients[1], torch.float64)


@pytest.mark.parametrize("mode", MODES)
def test_outside_of_a_non_finite_image_is_zero(kernels, mode):
    image = torch.full((1, 1, 4, 4), float("nan"))
    displacement = torch.full((1, 2, 3, 3), 100.0)
    grad = torch.full((1, 1, 3, 3), float("inf"))
    assert not kernels.forward(image, displacement, None, mode, "zeros").any()
    found = kernels.backward(grad, image, displacement, None, mode, "zeros", (True, True, False))
    assert not found[0].any()
    assert not found[1].any()


@pytest.mark.parametrize("padding", PADDINGS)
def test_nan_in_the_image_reaches_its_cells_only(kernels, assert_close, padding):
    image, displacement, _, grad = make_inputs(((7, 9), (6, 8)), with_affine=False)
    image[0, 0, 1, 7] = float("nan")
    result = kernels.forward(image, displacement, None, "cubic", padding)
    expected, _ = expected_of((image, displacement, None, grad), "cubic", padding)
    assert expected.isnan().any()
    assert_close(result, expected, torch.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("image_shape", "field_shape"),
    [
        ((0, 2, 4, 4), (0, 2, 3, 3)),
        ((2, 0, 4, 4), (2, 2, 3, 3)),
        ((2, 3, 4, 4, 4), (2, 3, 3, 0, 3)),
    ],
)
def test_empty(kernels, mode, image_shape, field_shape):
    image, displacement = torch.rand(image_shape), torch.rand(field_shape)
    ndim = field_shape[1]
    affine = torch.rand(field_shape[0], ndim, ndim + 1)
    result = kernels.forward(image, displacement, affine, mode, "border")
    assert result.shape == (*image_shape[:2], *field_shape[2:])
    found = kernels.backward(result, image, displacement, affine, mode, "border", (True,) * 3)
    for gradient, x in zip(found, (image, displacement, affine), strict=True):
        assert gradient.shape == x.shape
        assert not gradient.any()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("mode", "sizes"), list(zip(MODES, SMALL_SIZES, strict=True)))
@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [*((dtype, 1.0) for dtype in DTYPES), (torch.float32, 1e-30), (torch.bfloat16, 1e30)],
)
def test_fixed_point_scatter(kernels, assert_close, mode, sizes, dtype, magnitude):
    """Deterministic mode is as exact as the floating-point sum, whatever the gradient's size."""
    image, displacement, _, grad = (
        x if x is None else x.to(dtype) for x in make_inputs(sizes, with_affine=False)
    )
    # All voxels meet in one place, where the weights' signs alternate.
    displacement[0] = 1.5 - torch.stack(
        torch.meshgrid(*(torch.arange(n).to(dtype) for n in sizes[1]), indexing="ij")
    )
    grad = grad.abs() * magnitude
    needs = (True, False, False)
    found = kernels.backward(grad, image, displacement, None, mode, "border", needs)[0]
    expected = expected_of((image, displacement, None, grad), mode, "border")[1][0]
    assert_close(found / magnitude, expected / magnitude, dtype)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("mode", MODES)
def test_fixed_point_sum_does_not_depend_on_order(kernels, mode):
    """The same contributions in another order give the same bits."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 1, 3, 3)
    affine = torch.zeros(1, 2, 3)  # locations come from the displacement alone: exactly permuted
    locations = torch.rand(1, 2, 20, 20, generator=generator) * 2
    exponents = torch.randint(-6, 6, (1, 1, 20, 20), generator=generator)
    grad = torch.randn(1, 1, 20, 20, generator=generator) * 10.0**exponents
    results = []
    for order in (torch.arange(400), torch.randperm(400, generator=generator)):
        permuted = [x.flatten(2)[..., order].view_as(x) for x in (grad, locations)]
        needs = (True, False, False)
        found = kernels.backward(permuted[0], image, permuted[1], affine, mode, "border", needs)
        results.append(found[0])
    assert torch.equal(*results)


@pytest.mark.parametrize(("mode", "far"), [("cubic", "image"), ("bspline", "grad")])
@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(kernels, assert_close, mode, far):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    image, displacement, _, grad = make_inputs(((4, 5), (4, 5)), with_affine=False)
    inputs = {"image": image, "displacement": displacement, "grad": grad}
    inputs = {name: x.to(torch.bfloat16) for name, x in inputs.items()}
    values = inputs[far]
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    inputs[far] = buffer.as_strided(values.shape, (0, 5, 2**30, 1)).copy_(values)
    checked = (inputs["image"], inputs["displacement"], None, inputs["grad"])
    check(kernels, assert_close, checked, mode, "zeros")
