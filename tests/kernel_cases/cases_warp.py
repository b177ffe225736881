"""warp on the GPU backends, forward and backward."""

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

MODES = ("linear", "nearest")
PADDINGS = ("zeros", "border", "reflection")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MIXED = ((torch.float16, torch.float32), (torch.bfloat16, torch.float32))
# Image and output sizes: odd, unequal, with axes of length 1, over more than one block of threads.
SIZES = (
    ((1, 9), (5, 1)),
    ((7, 6), (17, 16)),
    ((3, 1, 4), (1, 5, 4)),
    ((4, 6, 5), (3, 6, 8)),
)
SMALL_SIZES = (((4, 5, 6), (3, 6, 5)), ((5, 6), (7, 4)))  # 3D, 2D

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]


class Kernels(NamedTuple):
    forward: Callable[..., Tensor]
    backward: Callable[..., Gradients]


@pytest.fixture(scope="session")
def kernels(kernel_backend) -> Kernels:
    # Fewer than the voxels would fill, so that a block takes several turns.
    _warp_backends._CUDA_BLOCKS = 2
    return Kernels(_warp_backends.FORWARD[kernel_backend], _warp_backends.BACKWARD[kernel_backend])


def make_inputs(
    sizes: tuple[tuple[int, ...], tuple[int, ...]], *, with_affine: bool = True, batch: int = 2
) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Float64 image, displacement (reaching well outside), affine near identity, and gradient."""
    generator = torch.Generator().manual_seed(7)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    image_size, size = sizes
    ndim = len(size)
    image, displacement = randn(batch, 3, *image_size), randn(batch, ndim, *size) * 3
    affine = torch.eye(ndim, ndim + 1, dtype=torch.float64) + randn(batch, ndim, ndim + 1) * 0.2
    return image, displacement, affine if with_affine else None, randn(batch, 3, *size)


def expected_of(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    grad: Tensor,
    mode: str,
    padding: str,
) -> tuple[Tensor, Gradients]:
    """Result and gradients of the reference in float64."""
    inputs = [image, displacement] + ([] if affine is None else [affine])
    leaves = [x.detach().double().requires_grad_() for x in inputs]
    result = reference.warp(*leaves, *([None] if affine is None else []), mode, padding)
    found = torch.autograd.grad(result, leaves, grad.double(), allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(leaves, found, strict=True)]
    return result.detach(), (filled[0], filled[1], filled[2] if affine is not None else None)


def check(
    kernels: Kernels,
    assert_close: Callable[..., None],
    inputs: tuple[Tensor, Tensor, Tensor | None, Tensor],
    mode: str,
    padding: str,
    needs: tuple[bool, bool, bool] = (True, True, True),
) -> None:
    image, displacement, affine, grad = inputs
    result = kernels.forward(image, displacement, affine, mode, padding)
    found = kernels.backward(grad, image, displacement, affine, mode, padding, needs)
    expected, gradients = expected_of(image, displacement, affine, grad, mode, padding)
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
@pytest.mark.parametrize("with_affine", [False, True], ids=["displacement", "affine"])
def test_equals_the_reference(kernels, assert_close, sizes, mode, padding, with_affine):
    check(kernels, assert_close, make_inputs(sizes, with_affine=with_affine), mode, padding)


@pytest.mark.parametrize("sizes", [((4, 5), (9, 5)), ((4, 3, 5), (5, 3, 7))], ids=["2d", "3d"])
@pytest.mark.parametrize("mode", MODES)
def test_many_samples(kernels, kernel_backend, assert_close, sizes, mode):
    """Enough work for the CUDA kernels to give a thread several voxels, one above the other."""
    if kernel_backend == "triton":
        pytest.skip("as many voxels always")
    inputs = [x.float() for x in make_inputs(sizes, batch=16)]
    check(kernels, assert_close, tuple(inputs), mode, "border")


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("needs", list(itertools.product((True, False), repeat=3)), ids=str)
def test_only_the_gradients_asked_for_and_those_in_full(kernels, assert_close, needs):
    check(kernels, assert_close, make_inputs(SMALL_SIZES[0]), "linear", "border", needs)
    if needs in ((True, False, False), (False, True, True)):
        check(kernels, assert_close, make_inputs(SMALL_SIZES[1]), "nearest", "border", needs)


@pytest.mark.parametrize("dtypes", [*((t, t) for t in DTYPES), *MIXED], ids=str)
@pytest.mark.parametrize(("mode", "sizes"), list(zip(MODES, SMALL_SIZES, strict=True)))
def test_every_dtype(kernels, assert_close, dtypes, mode, sizes):
    padding = "reflection"
    image_dtype, field_dtype = dtypes
    image, displacement, affine, grad = make_inputs(sizes)
    image, grad = image.to(image_dtype), grad.to(image_dtype)
    displacement, affine = displacement.to(field_dtype), affine.to(field_dtype)
    result = kernels.forward(image, displacement, affine, mode, padding)
    found = kernels.backward(grad, image, displacement, affine, mode, padding, (True, True, True))
    expected, gradients = expected_of(image, displacement, affine, grad, mode, padding)
    assert [x.dtype for x in (result, *found)] == [
        image_dtype,
        image_dtype,
        field_dtype,
        field_dtype,
    ]
    assert_close(result, expected, image_dtype)
    for actual, wanted, dtype in zip(found, gradients, (image_dtype, *dtypes[1:] * 2), strict=True):
        assert_close(actual, wanted, dtype)


@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
@pytest.mark.parametrize("mode", MODES)
def test_strides_and_broadcast_batch(kernels, assert_close, sizes, mode):
    """Channel-last, sliced and expanded inputs, read in place."""
    image, displacement, affine, grad = make_inputs(sizes)
    image = image.movedim(1, -1).contiguous().movedim(-1, 1)
    displacement = displacement.repeat_interleave(2, -1)[..., ::2]
    displacement = displacement[:1].expand_as(displacement)
    affine = affine.mT.contiguous().mT
    grad = grad[:, :1].expand_as(grad).transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not any(x.is_contiguous() for x in (image, displacement, affine, grad))
    check(kernels, assert_close, (image, displacement, affine, grad), mode, "border")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
@pytest.mark.usefixtures("overflow_checked")
def test_locations_that_do_not_exist(kernels, assert_close, mode, padding, value):
    """NaN, infinite and huge coordinates: one voxel is affected, and never the image's gradient."""
    sizes = SMALL_SIZES[0 if math.isnan(value) else 1]
    image, displacement, _, grad = make_inputs(sizes, with_affine=False)
    displacement[:, 0].flatten(1)[:, 3] = value
    result = kernels.forward(image, displacement, None, mode, padding)
    expected, gradients = expected_of(image, displacement, None, grad, mode, padding)
    is_undefined = math.isnan(value) or (math.isinf(value) and padding == "reflection")
    assert result.isnan().sum() == (2 * 3 if is_undefined else 0)
    found = kernels.backward(grad, image, displacement, None, mode, padding, (True, True, False))
    assert found[0].isfinite().all()
    if value != 1e30 or padding != "reflection":  # its phase is lost to rounding
        assert_close(result, expected, torch.float64)
        assert_close(found[0], gradients[0], torch.float64)
        if mode == "linear":
            assert_close(found[1], gradients[1], torch.float64)
    if mode == "nearest":
        assert not found[1].any()


@pytest.mark.parametrize("mode", MODES)
def test_outside_of_a_non_finite_image_is_zero(kernels, mode):
    image = torch.full((1, 1, 4, 4), float("nan"))
    displacement = torch.full((1, 2, 3, 3), 100.0)
    grad = torch.full((1, 1, 3, 3), float("inf"))
    assert not kernels.forward(image, displacement, None, mode, "zeros").any()
    found = kernels.backward(grad, image, displacement, None, mode, "zeros", (True, True, False))
    assert not found[0].any()
    assert not found[1].any()


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


# The displacement along x of the voxels x: neighbours read neighbouring cells, two of them the same
# one, all the same one, cells in the opposite order, and across the ends of the rows.
NEIGHBOURS = {
    "shifted": lambda x: torch.full_like(x, 0.25),
    "compressed": lambda x: -0.55 * x,
    "gathered": lambda x: 1.7 - x,
    "mirrored": lambda x: x.max() - 2 * x - 0.3,
    "apart": lambda x: 20 - 3 * x,
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("neighbours", NEIGHBOURS)
def test_scatter_of_neighbours(kernels, assert_close, mode, padding, neighbours):
    """What neighbouring voxels add to the same voxels of the image."""
    for size in ((3, 6, 21), (9, 37)):
        image, displacement, _, grad = make_inputs((size, size), with_affine=False)
        displacement = displacement * 0 + 0.4
        displacement[:, -1] = NEIGHBOURS[neighbours](torch.arange(size[-1], dtype=torch.float64))
        inputs = [x.float() for x in (image, displacement, grad)]
        needs = (True, False, False)
        check(kernels, assert_close, (*inputs[:2], None, inputs[2]), mode, padding, needs)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("mode", "sizes"), [("nearest", SIZES[1]), ("linear", SIZES[3])], ids=MODES
)
@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [*((dtype, 1.0) for dtype in DTYPES), (torch.float32, 1e-30), (torch.bfloat16, 1e30)],
)
def test_fixed_point_scatter(kernels, assert_close, mode, sizes, dtype, magnitude):
    """Deterministic mode is as exact as the floating-point sum, whatever the gradient's size."""
    image, displacement, _, grad = (
        x if x is None else x.to(dtype) for x in make_inputs(sizes, with_affine=False)
    )
    displacement[0] = 0.4 - torch.stack(  # every voxel of the first sample meets in one place
        torch.meshgrid(*(torch.arange(n).to(dtype) for n in sizes[1]), indexing="ij")
    )
    grad = grad * magnitude
    needs = (True, False, False)
    found = kernels.backward(grad, image, displacement, None, mode, "border", needs)[0]
    expected = expected_of(image, displacement, None, grad, mode, "border")[1][0]
    assert_close(found / magnitude, expected / magnitude, dtype)


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_scatter_of_infinities_and_nan(kernels):
    """They land where they would in floating point, and do not spoil the sums beside them."""
    image = torch.rand(1, 1, 4, 4)
    displacement = torch.zeros(1, 2, 4, 4)
    grad = torch.ones(1, 1, 4, 4)
    grad[0, 0, 0] = torch.tensor([float("inf"), -float("inf"), float("nan"), 100])
    needs = (True, False, False)
    found = kernels.backward(grad, image, displacement, None, "nearest", "border", needs)[0]
    torch.testing.assert_close(found, grad, equal_nan=True)


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


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("far", ["image", "displacement", "grad"])
@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(kernels, assert_close, mode, far):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    image, displacement, _, grad = make_inputs(((4, 5), (4, 5)), with_affine=False)
    inputs = {"image": image[:1, :1], "displacement": displacement[:1], "grad": grad[:1, :1]}
    inputs = {name: x.to(torch.bfloat16) for name, x in inputs.items()}
    values = inputs[far]
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    view = buffer.as_strided(values.shape, (0, 5, 2**30, 1))
    inputs[far] = view.copy_(values)
    check(
        kernels,
        assert_close,
        (inputs["image"], inputs["displacement"], None, inputs["grad"]),
        mode,
        "zeros",
    )
