"""The second derivatives of warp and compose on the GPU backends."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops._warp_double_backward_backends import DOUBLE_BACKWARD

PADDINGS = ("zeros", "border", "reflection")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Image and output sizes: odd, unequal, with axes of length 1, over more than one block of threads.
SIZES = (
    ((1, 9), (5, 1)),
    ((7, 6), (17, 16)),
    ((3, 1, 4), (1, 5, 4)),
    ((4, 6, 5), (3, 6, 8)),
)
SMALL_SIZES = (((4, 5, 6), (3, 6, 5)), ((5, 6), (7, 4)))  # 3D, 2D
EVERYTHING = (True, True, True, True)

Serve = Callable[..., tuple[Tensor | None, ...]]


@pytest.fixture(scope="session")
def serve(kernel_backend) -> Serve:
    return DOUBLE_BACKWARD[kernel_backend]


def make_inputs(
    sizes: tuple[tuple[int, ...], tuple[int, ...]], channels: int = 2
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Float64 gradient, image, displacement and affine, and directions of the last three."""
    generator = torch.Generator().manual_seed(11)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    image_size, size = sizes
    ndim = len(size)

    def fields() -> list[Tensor | None]:
        return [
            randn(2, channels, *image_size),
            randn(2, ndim, *size) * 2.5,
            randn(2, ndim, ndim + 1) * 0.2,
        ]

    inputs = fields()
    inputs[2] = inputs[2] + torch.eye(ndim, ndim + 1, dtype=torch.float64)
    return [randn(2, channels, *size), *inputs], fields()


def without_affine(
    inputs: list[Tensor | None], directions: list[Tensor | None]
) -> tuple[list[Tensor | None], list[Tensor | None]]:
    return [*inputs[:3], None], [*directions[:2], None]


def check(
    serve: Serve,
    assert_close: Callable[..., None],
    inputs: Sequence[Tensor | None],
    directions: Sequence[Tensor | None],
    padding: str,
    *,
    mode: str = "linear",
    add: bool = False,
    needs: Sequence[bool] = EVERYTHING,
) -> None:
    found = serve(tuple(directions), *inputs, mode, padding, add, needs)
    doubled = [[x if x is None else x.double() for x in xs] for xs in (inputs, directions)]
    expected = reference.warp_double_backward(doubled[1], *doubled[0], mode, padding, add, needs)
    for actual, wanted, like in zip(found, expected, inputs, strict=True):
        assert (actual is None) == (wanted is None)
        if actual is not None:
            assert actual.dtype == like.dtype
            assert actual.is_contiguous()
            assert_close(actual, wanted, like.dtype)


@pytest.mark.parametrize("index", range(len(SIZES)))
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_the_reference(serve, assert_close, index, padding):
    inputs, directions = make_inputs(SIZES[index])
    if index % 3:  # without an affine once in 2D and once in 3D
        inputs, directions = without_affine(inputs, directions)
    check(serve, assert_close, inputs, directions, padding)


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("given", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_directions_of_some_inputs_only(serve, assert_close, given):
    inputs, directions = make_inputs(SMALL_SIZES[0])
    directions = [x if i in given else None for i, x in enumerate(directions)]
    check(serve, assert_close, inputs, directions, "border")


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("wanted", range(4))
def test_only_what_is_asked_for_and_that_in_full(serve, assert_close, wanted):
    inputs, directions = make_inputs(SMALL_SIZES[1])
    needs = [i == wanted for i in range(4)]
    check(serve, assert_close, inputs, directions, "zeros", needs=needs)


@pytest.mark.parametrize(
    "dtypes",
    [
        *((dtype, dtype) for dtype in DTYPES),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
def test_every_dtype(serve, assert_close, dtypes, sizes):
    inputs, directions = make_inputs(sizes)
    image_dtype, field_dtype = dtypes
    of_inputs = (image_dtype, image_dtype, field_dtype, field_dtype)
    inputs = [x.to(dtype) for x, dtype in zip(inputs, of_inputs, strict=True)]
    directions = [x.to(dtype) for x, dtype in zip(directions, of_inputs[1:], strict=True)]
    check(serve, assert_close, inputs, directions, "reflection")


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
def test_compose_adds_its_field(serve, assert_close, padding, sizes):
    inputs, directions = without_affine(*make_inputs(sizes, channels=len(sizes[0])))
    check(serve, assert_close, inputs, directions, padding, add=True)
    check(serve, assert_close, inputs, [directions[0], None, None], padding, add=True)


@pytest.mark.parametrize("padding", PADDINGS)
def test_nearest_is_linear_in_the_image_and_flat_elsewhere(serve, assert_close, padding):
    inputs, directions = make_inputs(SMALL_SIZES[1])
    check(serve, assert_close, inputs, directions, padding, mode="nearest")
    check(serve, assert_close, inputs, [None, *directions[1:]], padding, mode="nearest")


@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
def test_strides_and_broadcast_batch(serve, assert_close, sizes):
    """Channel-last, sliced and expanded inputs, read in place."""

    def channel_last(x: Tensor) -> Tensor:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)

    def sliced(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, -1)[..., ::2]

    (grad, image, displacement, affine), directions = make_inputs(sizes)
    inputs = [sliced(grad), channel_last(image), sliced(displacement[:1]).expand_as(displacement)]
    inputs.append(affine.mT.contiguous().mT)
    directions = [sliced(directions[0]), channel_last(directions[1]), sliced(directions[2])]
    assert not any(x.is_contiguous() for x in (*inputs, *directions))
    check(serve, assert_close, inputs, directions, "border")


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.usefixtures("overflow_checked")
def test_locations_that_do_not_exist(serve, assert_close, padding, value):
    """One voxel is affected, and never what the image receives."""
    inputs, directions = without_affine(*make_inputs(SMALL_SIZES[0 if math.isnan(value) else 1]))
    inputs[0].flatten(2)[..., 3] = 0  # it asks the image for nothing
    inputs[2][:, 0].flatten(1)[:, 3] = value
    is_undefined = math.isnan(value) or padding == "reflection"
    found = serve(tuple(directions), *inputs, "linear", padding, False, EVERYTHING)
    assert found[0].isnan().sum() == (2 * 2 if is_undefined else 0)
    assert found[2].isnan().sum() == (2 * inputs[2].shape[1] if is_undefined else 0)
    assert found[1].isfinite().all()
    inputs[2][:, 0].flatten(1)[:, 3] = 0
    clean = serve(tuple(directions), *inputs, "linear", padding, False, EVERYTHING)
    assert_close(found[1], clean[1], torch.float64)
    others = torch.arange(inputs[2][0, 0].numel()) != 3
    for actual, wanted in ((found[0], clean[0]), (found[2], clean[2])):
        assert_close(actual.flatten(2)[..., others], wanted.flatten(2)[..., others], torch.float64)


@pytest.mark.parametrize(
    ("image_shape", "field_shape"),
    [
        ((0, 2, 4, 4), (0, 2, 3, 3)),
        ((2, 0, 4, 4), (2, 2, 3, 3)),
        ((2, 3, 4, 4, 4), (2, 3, 3, 0, 3)),
    ],
)
def test_empty(serve, image_shape, field_shape):
    ndim = field_shape[1]
    image, displacement = torch.rand(image_shape), torch.rand(field_shape)
    affine = torch.rand(field_shape[0], ndim, ndim + 1)
    grad = torch.rand(*image_shape[:2], *field_shape[2:])
    inputs = (grad, image, displacement, affine)
    directions = tuple(torch.ones_like(x) for x in inputs[1:])
    for found, x in zip(
        serve(directions, *inputs, "linear", "border", False, EVERYTHING), inputs, strict=True
    ):
        assert found.shape == x.shape
        assert not found.any()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    ("dtype", "magnitude"),
    [*((dtype, 1.0) for dtype in DTYPES), (torch.float32, 1e-30), (torch.bfloat16, 1e30)],
)
def test_fixed_point_scatter(serve, assert_close, dtype, magnitude):
    """Deterministic mode is as exact as the floating-point sum, whatever the gradient's size."""
    sizes = SIZES[3]
    inputs, directions = make_inputs(sizes)
    inputs, directions = ([x.to(dtype) for x in xs] for xs in (inputs, directions))
    inputs[2][0] = 0.4 - torch.stack(  # every voxel of the first sample meets in one place
        torch.meshgrid(*(torch.arange(n).to(dtype) for n in sizes[1]), indexing="ij")
    )
    inputs[3] = directions[2] = None
    inputs[0] = inputs[0] * magnitude
    needs = (False, True, False, False)
    found = serve(tuple(directions), *inputs, "linear", "border", False, needs)[1]
    doubled = [[x if x is None else x.double() for x in xs] for xs in (inputs, directions)]
    expected = reference.warp_double_backward(
        doubled[1], *doubled[0], "linear", "border", False, needs
    )[1]
    assert_close(found / magnitude, expected / magnitude, dtype)


@pytest.mark.usefixtures("deterministic")
def test_fixed_point_sum_does_not_depend_on_order(serve):
    """The same contributions in another order give the same bits."""
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(1, 1, 3, 3)
    affine = torch.zeros(1, 2, 3)  # locations come from the displacement alone: exactly permuted
    locations = torch.rand(1, 2, 20, 20, generator=generator) * 2
    steps = torch.randn(1, 2, 20, 20, generator=generator)
    exponents = torch.randint(-6, 6, (1, 1, 20, 20), generator=generator)
    grad = torch.randn(1, 1, 20, 20, generator=generator) * 10.0**exponents
    results = []
    for order in (torch.arange(400), torch.randperm(400, generator=generator)):
        permuted = [x.flatten(2)[..., order].view_as(x) for x in (grad, locations, steps)]
        found = serve(
            (None, permuted[2], None),
            permuted[0],
            image,
            permuted[1],
            affine,
            "linear",
            "border",
            False,
            (False, True, False, False),
        )
        results.append(found[1])
    assert torch.equal(*results)


@pytest.mark.parametrize("far", ["image", "displacement", "grad", "image direction"])
@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(serve, assert_close, far):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    inputs, directions = make_inputs(((4, 5), (4, 5)), channels=1)
    names = ("grad", "image", "displacement", "image direction", "field direction")
    everything = {
        name: x[:1].to(torch.bfloat16)
        for name, x in zip(names, (*inputs[:3], *directions[:2]), strict=True)
    }
    values = everything[far]
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    everything[far] = buffer.as_strided(values.shape, (0, 5, 2**30, 1)).copy_(values)
    tensors = list(everything.values())
    check(serve, assert_close, [*tensors[:3], None], [*tensors[3:], None], "zeros")
