"""Second derivatives of plasticine.warp and plasticine.compose: against the reference, at edges."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import EMPTY_SHAPES, PADDINGS, order_of_sums
from double_backward import ROUNDING, assert_close, make_inputs, second
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.ops._kernels import SHARED_SIZE
from plasticine.ops.warp import WARP_DOUBLE_BACKWARD

OPERATOR = "warp_double_backward"

# Sizes of the image and of the result.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-long": ((5, 67), (4, 83)),
    "2d-thin": ((1, 9), (5, 1)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-long": ((3, 4, 35), (4, 3, 51)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
}
NAMES = ("grad", "image", "displacement", "affine")


def exact(
    directions: list[Tensor | None], inputs: list[Tensor | None], mode: str, padding: str
) -> list[Tensor]:
    """The same by the reference in float64."""
    doubled = [[None if x is None else x.double() for x in xs] for xs in (directions, inputs)]
    results = reference.warp_double_backward(
        doubled[0], *doubled[1], mode, padding, False, [x is not None for x in inputs]
    )
    return [x for x in results if x is not None]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_equals_the_float64_reference(served, generator, size, dtype):
    for padding in PADDINGS:
        for with_affine in (False, True):
            inputs, directions = make_inputs(generator, SIZES[size], device=served.device)
            inputs = [x.to(dtype) for x in inputs]
            directions = [x.to(dtype) for x in directions]
            if not with_affine:
                inputs[3] = directions[2] = None
            found = second(directions, inputs, served.backend, padding=padding)
            expected = exact(directions, inputs, "linear", padding)
            for x, y in zip(found, expected, strict=True):
                assert x.dtype == dtype
                assert x.is_contiguous()
                assert_close(x, y, dtype)


@pytest.mark.parametrize("given", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 2)], ids=str)
def test_directions_of_some_inputs_only(served, generator, given):
    inputs, directions = make_inputs(generator, SIZES["3d"], device=served.device)
    directions = [x if i in given else None for i, x in enumerate(directions)]
    found = second(directions, inputs, served.backend)
    for x, y in zip(found, exact(directions, inputs, "linear", "border"), strict=True):
        assert_close(x, y, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_image_with_a_float32_displacement(served, generator, dtype):
    inputs, directions = make_inputs(generator, SIZES["3d-long"], device=served.device)
    dtypes = (dtype, dtype, torch.float32, torch.float32)
    inputs = [x.to(t) for x, t in zip(inputs, dtypes, strict=True)]
    directions = [x.to(t) for x, t in zip(directions, dtypes[1:], strict=True)]
    found = second(directions, inputs, served.backend)
    expected = exact(directions, inputs, "linear", "border")
    for x, y, precision in zip(found, expected, dtypes, strict=True):
        assert x.dtype == precision
        assert_close(x, y, precision)


@pytest.mark.parametrize("size", ["2d", "3d"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_gradgradcheck(served, generator, size, padding):
    inputs, _ = make_inputs(generator, SIZES[size], batch=1, channels=2, device=served.device)
    leaves = [x.requires_grad_() for x in inputs[1:]]

    def warp(image: Tensor, displacement: Tensor, affine: Tensor | None = None) -> Tensor:
        return plasticine.warp(
            image, displacement, affine=affine, padding=padding, backend=served.backend
        )

    torch.autograd.gradgradcheck(warp, leaves, fast_mode=True, nondet_tol=order_of_sums(leaves[0]))
    torch.autograd.gradgradcheck(
        warp, leaves[:2], fast_mode=True, nondet_tol=order_of_sums(leaves[0])
    )


@pytest.mark.parametrize("size", ["2d", "3d"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_gradgradcheck_of_compose(served, generator, size, padding):
    v = make_inputs(generator, SIZES[size], batch=1, device=served.device)[0][2].requires_grad_()
    u = torch.randn(1, v.shape[1], *SIZES[size][0], generator=generator, dtype=torch.float64)
    u = u.to(served.device).requires_grad_()
    torch.autograd.gradgradcheck(
        lambda u, v: plasticine.compose(u, v, padding=padding, backend=served.backend),
        (u, v),
        fast_mode=True,
        nondet_tol=order_of_sums(u),
    )


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_compose_equals_a_warp_that_adds(served, generator, dtype):
    inputs, directions = make_inputs(generator, SIZES["3d"], device=served.device)
    inputs, directions = ([x.to(dtype) for x in xs] for xs in (inputs, directions))

    def run(function, leaves, along):
        u, v, grad = (x.detach().requires_grad_() for x in leaves)
        gradients = torch.autograd.grad(function(u, v), (u, v), grad, create_graph=True)
        return torch.autograd.grad(gradients, (grad, u, v), along)

    leaves = [inputs[1], inputs[2], inputs[0]]
    found = run(
        lambda u, v: plasticine.compose(u, v, backend=served.backend), leaves, directions[:2]
    )
    expected = run(
        lambda u, v: reference.warp(u, v) + v,
        [x.double() for x in leaves],
        [x.double() for x in directions[:2]],
    )
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, dtype)


@pytest.mark.parametrize("padding", PADDINGS)
def test_nearest_is_linear_in_the_image_and_flat_elsewhere(served, generator, padding):
    inputs, directions = make_inputs(generator, SIZES["2d"], device=served.device)
    grad, image, displacement, _ = second(
        directions, inputs, served.backend, mode="nearest", padding=padding
    )
    expected = reference.warp(directions[0], inputs[2], inputs[3], "nearest", padding)
    assert_close(grad, expected, torch.float64)
    assert not image.any()
    assert not displacement.any()


def test_second_derivatives_of_an_energy_through_the_chain(served, generator):
    """A gradient's norm as a loss, as penalties and implicit layers use it."""
    inputs, _ = make_inputs(generator, SIZES["2d"], device=served.device)

    def run(warp):
        image, displacement = (x.detach().requires_grad_() for x in inputs[1:3])
        energy = warp(image, displacement).square().sum()
        gradients = torch.autograd.grad(energy, (image, displacement), create_graph=True)
        penalty = sum(x.square().sum() for x in gradients)
        return torch.autograd.grad(penalty, (image, displacement))

    found = run(lambda x, u: plasticine.warp(x, u, backend=served.backend))
    for x, y in zip(found, run(reference.warp), strict=True):
        assert_close(x, y, torch.float64)


def test_strides_do_not_matter(served, generator):
    inputs, directions = make_inputs(generator, SIZES["3d-long"], device=served.device)

    def permuted(x: Tensor) -> Tensor:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)

    def sliced(x: Tensor) -> Tensor:
        larger = x.new_full([2 * n + 1 for n in x.shape], torch.nan)
        return larger[tuple(slice(1, None, 2) for _ in x.shape)].copy_(x)

    expected = second(directions, inputs, served.backend)
    for view in (permuted, sliced):
        views = [view(x) for x in inputs]
        assert not views[1].is_contiguous()
        found = second([view(x) for x in directions], views, served.backend)
        for x, y in zip(found, expected, strict=True):
            assert_close(x, y, torch.float64)


def test_expanded_inputs(served, generator):
    inputs, directions = make_inputs(
        generator, SIZES["3d"], batch=1, channels=1, device=served.device
    )
    inputs[1] = inputs[1][..., :1].expand(3, 4, -1, -1, 7)
    inputs[0] = inputs[0][..., :1].expand(3, 4, -1, -1, 5)
    inputs[2:] = [x.expand(3, *x.shape[1:]) for x in inputs[2:]]
    directions[0] = directions[0][..., :1, :].expand(3, 4, -1, 4, -1)
    directions[1:] = [x.expand(3, *x.shape[1:]) for x in directions[1:]]
    found = second(directions, inputs, served.backend)
    solid = [[x.contiguous() for x in xs] for xs in (directions, inputs)]
    for x, y in zip(found, second(*solid, served.backend), strict=True):
        assert_close(x, y, torch.float64)


@pytest.mark.parametrize(("image_shape", "displacement_shape"), EMPTY_SHAPES)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_empty_tensors(served, image_shape, displacement_shape, mode):
    image, displacement = (
        torch.ones(x, device=served.device) for x in (image_shape, displacement_shape)
    )
    ndim = displacement_shape[1]
    affine = torch.ones(image_shape[0], ndim, ndim + 1, device=served.device)
    grad = torch.ones(*image_shape[:2], *displacement_shape[2:], device=served.device)
    directions = [torch.ones_like(x) for x in (image, displacement, affine)]
    inputs = [grad, image, displacement, affine]
    for x, y in zip(second(directions, inputs, served.backend, mode=mode), inputs, strict=True):
        assert torch.equal(x, torch.zeros_like(y))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", ["2d-long", "3d-long"])
def test_nan_and_infinite_displacements(served, generator, padding, size):
    """They change the results at their own voxels, and nothing else."""
    inputs, directions = make_inputs(generator, SIZES[size], device=served.device)
    inputs[3] = directions[2] = None
    ndim = inputs[2].shape[1]
    places = [(0, *[1] * ndim), (1, *[2] * ndim), (1, *[1] * ndim)]
    clean = [None if x is None else x.clone() for x in inputs]
    for place, value in zip(places, (math.nan, math.inf, -math.inf), strict=True):
        inputs[2][place[0], 0][place[1:]] = value
        # They ask the image for nothing.
        for xs in (inputs, clean):
            xs[0].movedim(1, -1)[place] = 0
    found = second(directions, inputs, served.backend, padding=padding)
    expected = second(directions, clean, served.backend, padding=padding)
    assert found[0].movedim(1, -1)[places[0]].isnan().all()
    assert found[2].movedim(1, -1)[places[0]].isnan().all()
    assert_close(found[1], expected[1], torch.float64)
    others = torch.ones_like(inputs[0][:, 0], dtype=torch.bool)
    for place in places:
        others[place] = False
        if padding != "reflection":
            assert found[0].movedim(1, -1)[place].isfinite().all() == (place != places[0])
    for x, y in ((found[0], expected[0]), (found[2], expected[2])):
        torch.testing.assert_close(x.movedim(1, -1)[others], y.movedim(1, -1)[others])


@pytest.mark.parametrize("size", ["2d-long", "3d-long"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_infinities_and_nan_in_the_image_stay_where_they_are_met(served, generator, size, padding):
    inputs, directions = make_inputs(generator, SIZES[size], device=served.device)
    directions[2], inputs[3] = None, None
    inputs[1][0, 0, 1] = math.nan
    directions[0][1, 1, 2] = math.inf
    found = second(directions, inputs, served.backend, padding=padding)
    expected = exact(directions, inputs, "linear", padding)
    for x, y in zip(found, expected, strict=True):
        finite = y.isfinite()
        assert finite.any()
        # Autograd also multiplies the zero of a clamped axis with what the image holds.
        assert x[finite].isfinite().all()
        assert_close(x[finite], y[finite], torch.float64)


@pytest.mark.parametrize("image_size", [(9, 8, 33), (3, 4, 35), (11, 67)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_same_bits_for_any_number_of_threads(native, generator, image_size, dtype):
    size = (13, 11, 37) if len(image_size) == 3 else (67, 71)
    inputs, directions = make_inputs(generator, (image_size, size), batch=1)
    inputs[3][:, 0] *= 0.2  # crowd the first axis
    inputs, directions = ([x.to(dtype) for x in xs] for xs in (inputs, directions))
    assert inputs[2].numel() >= SHARED_SIZE
    before = torch.get_num_threads()
    runs = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            runs.append(second(directions, inputs, "cpu"))
        finally:
            torch.set_num_threads(before)
    for other in runs[1:]:
        for x, y in zip(runs[0], other, strict=True):
            assert torch.equal(x, y)


def test_coordinates_beyond_32_bits(native):
    """An image of one voxel seen 3 * 2**33 times: indices that need 64 bits, hardly any memory."""
    image = torch.full((1, 1, 1, 1), 7.0, dtype=torch.float64).expand(1, 1, 3, 2**33)
    displacement = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    places = [[2.0**31, 2.0**32 + 0.25, 2.0**33 - 4], [2.0**33 - 0.5, 2.0**34, -(2.0**33)]]
    displacement[0, 1] = torch.tensor(places, dtype=torch.float64)
    grad = torch.ones(1, 1, 2, 3, dtype=torch.float64)
    field = torch.ones_like(displacement)
    results = WARP_DOUBLE_BACKWARD(
        image, field, None, grad, image, displacement, None, "linear", "zeros", False, "cpu",
        [True, False, True, False],
    )  # fmt: skip
    # The warp of the direction is 7, 7, 7, 3.5, 0, 0; the image falls to zero under the fourth
    # voxel only, by 7 along the last axis.
    assert results[0].flatten().tolist() == [7, 7, 7, 3.5 - 7, 0, 0]
    assert results[2][0, 1].flatten().tolist() == [0, 0, 0, -7, 0, 0]


def test_strides_beyond_32_bits(native):
    """Rows 2**30 voxels apart; only their own pages are ever touched."""
    try:
        memory = torch.empty(2**31 + 8, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("4 GiB of address space are not to be had")
    image = memory.as_strided((1, 1, 3, 5), (0, 0, 2**30, 1))
    image.copy_(torch.arange(15.0).square().view(1, 1, 3, 5))
    displacement = torch.full((1, 2, 3, 5), 0.25, dtype=torch.float16)
    grad = torch.ones(1, 1, 3, 5, dtype=torch.float16)
    directions = [image, displacement, None]
    found = second(directions, [grad, image, displacement, None], "cpu")
    directions[0] = image.contiguous()
    expected = second(directions, [grad, image.contiguous(), displacement, None], "cpu")
    for x, y in zip(found, expected, strict=True):
        assert torch.equal(x, y)
