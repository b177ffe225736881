"""plasticine.splat against the transpose of warp, against others' grid_push, and at its edges."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from comparison import PADDINGS, ROUNDING, assert_close, assert_same_sums, order_of_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.conformance import MODES, Maker
from plasticine.nn import Splat
from plasticine.ops._kernels import SHARED_SIZE

OPERATOR = "splat"

# Sizes of the image and of the result.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-long": ((5, 67), (4, 83)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-long": ((3, 4, 35), (4, 3, 51)),
}
# Every mode with every value of prefilter that means something there.
VARIANTS = [*((mode, True) for mode in MODES), ("bspline", False)]
variants = pytest.mark.parametrize(("mode", "prefilter"), VARIANTS)


def make_inputs(size: tuple[int, ...], device: str = "cpu", **shape: int) -> list[Tensor]:
    """Float64 image, displacement (reaching well outside) and affine near the identity."""
    make = Maker((size, size), **shape)
    inputs = make.image(size), make.vectors(size, 2.5), make.affine()
    return [x.to(device) for x in inputs]


@variants
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", ["2d", "3d"])
def test_is_the_transposed_matrix_of_warp(served, size, mode, prefilter, padding):
    """The matrix of warp, column by column, from images that are 1 in one voxel."""
    spatial, target = SIZES[size]
    image, displacement, affine = make_inputs(spatial, served.device, batch=1, channels=1)
    units = torch.eye(math.prod(target), dtype=torch.float64, device=served.device)
    options = {"affine": affine, "mode": mode, "padding": padding, "prefilter": prefilter}
    matrix = plasticine.warp(units.view(1, -1, *target), displacement, **options).flatten(2)[0]
    result = plasticine.splat(image, displacement, size=target, backend=served.backend, **options)
    assert_close(result.flatten(), matrix @ image.flatten(), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", ["cubic", "bspline"])
def test_the_adjoint_identity_on_a_grid_of_many_blocks(served, mode, dtype):
    """``<splat(y, u), x> = <y, warp(x, u)>`` where several threads and ranges take part."""
    size, target = (14, 21, 37), (23, 18, 30)
    image, displacement, affine = (x.to(dtype) for x in make_inputs(size, served.device, batch=1))
    assert displacement.numel() >= SHARED_SIZE
    other = Maker((target, target), batch=1, seed=8).image(target).to(image)
    for padding in PADDINGS:
        options = {"affine": affine, "mode": mode, "padding": padding, "backend": served.backend}
        pushed = plasticine.splat(image, displacement, size=target, **options)
        pulled = plasticine.warp(other, displacement, **options)
        left = (pushed.double() * other.double()).sum()
        right = (image.double() * pulled.double()).sum()
        scale = (image.double() * pulled.double()).abs().sum()
        assert (left - right).abs() < 1.5 * ROUNDING[dtype] * scale


@pytest.mark.parametrize("peer", ["interpol", "monai"])
@pytest.mark.parametrize("size", ["2d", "3d-long"])
def test_equals_grid_push_of_others(served, peer, size):
    module = pytest.importorskip("interpol" if peer == "interpol" else "monai.networks.layers")
    spatial, target = SIZES[size]
    image, displacement, _ = make_inputs(spatial)
    axes = [torch.arange(n, dtype=torch.float64) for n in spatial]
    grid = (torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement).movedim(1, -1)
    for padding, bound in (("zeros", "zero"), ("border", "replicate"), ("reflection", "dct1")):
        try:
            expected = module.grid_push(
                image, grid, list(target), interpolation="linear", bound=bound, extrapolate=True
            )
        except (ImportError, RuntimeError, NameError) as error:
            pytest.skip(f"{peer} cannot serve grid_push here: {error}")
        result = plasticine.splat(
            image.to(served.device),
            displacement.to(served.device),
            size=target,
            padding=padding,
            backend=served.backend,
        )
        assert_close(result, expected, torch.float64)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_kept_and_what_is_lost(served, mode):
    image, displacement, _ = make_inputs(SIZES["3d-long"][0], served.device)
    image = image.abs()
    before = image.sum((2, 3, 4))

    def mass(padding: str) -> Tensor:
        options = {"mode": mode, "padding": padding, "backend": served.backend}
        return plasticine.splat(image, displacement, **options).sum((2, 3, 4))

    torch.testing.assert_close(mass("border"), before)
    torch.testing.assert_close(mass("reflection"), before)
    if mode in ("linear", "nearest"):
        assert (mass("zeros") < before).all()


def test_the_splat_of_ones_counts(served):
    """Two voxels on one, half of one on each of two others, one lost."""
    displacement = torch.zeros(1, 2, 1, 4, device=served.device)
    displacement[0, 1, 0] = torch.tensor([1.0, 0.0, 0.5, 5.0])
    ones = torch.ones(1, 1, 1, 4, device=served.device)
    count = plasticine.splat(ones, displacement, padding="zeros", backend=served.backend)
    assert count.flatten().tolist() == [0, 2, 0.5, 0.5]
    count = plasticine.splat(ones, displacement, size=(2, 5), backend=served.backend)
    assert count.tolist() == [[[[0, 2, 0.5, 0.5, 1], [0, 0, 0, 0, 0]]]]


@pytest.mark.parametrize("mode", ["linear", "nearest", "bspline"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_the_identity_copies(served, mode, padding):
    image, displacement, _ = make_inputs(SIZES["3d-long"][0], served.device)
    options = {"mode": mode, "padding": padding, "backend": served.backend}
    result = plasticine.splat(image, torch.zeros_like(displacement), **options)
    assert_close(result, image, torch.float64)


@pytest.mark.parametrize("padding", PADDINGS)
def test_prefilter_is_the_adjoint_of_spline_coefficients(served, padding):
    image, displacement, _ = make_inputs(SIZES["3d"][0], served.device)
    options = {"mode": "bspline", "padding": padding, "backend": served.backend}
    sums = plasticine.splat(image, displacement, prefilter=False, **options)
    result = plasticine.splat(image, displacement, **options)
    expected = reference.spline_coefficients(sums, padding, adjoint=True)
    assert_close(result, expected, torch.float64)


@variants
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_nan_coordinate_is_added_nowhere(served, mode, prefilter, padding):
    image, displacement, _ = make_inputs(SIZES["2d-long"][0])
    without = image.clone()
    without[0, :, 2, 3] = 0
    expected = reference.splat(without, displacement, None, None, mode, padding, prefilter)
    displacement[0, 1, 2, 3] = math.nan
    inputs = [x.to(served.device).requires_grad_() for x in (image, displacement)]
    options: dict[str, Any] = {"mode": mode, "padding": padding, "prefilter": prefilter}
    result = plasticine.splat(*inputs, **options, backend=served.backend)
    assert_close(result, expected, torch.float64)
    result.square().sum().backward()
    # The gradient to the image is warp, which has no value there, and only there.
    assert inputs[0].grad[0, :, 2, 3].isnan().all()
    assert inputs[0].grad.isnan().sum() == 3
    assert inputs[1].grad.isnan().sum() == (0 if mode == "nearest" else 2)


@pytest.mark.parametrize("mode", ["linear", "cubic", "bspline"])
def test_second_derivatives_that_warp_gives(served, mode):
    """The gradient to the image is a warp, which differentiates."""
    image, displacement, _ = make_inputs(SIZES["2d"][0], served.device)
    torch.autograd.gradgradcheck(
        lambda y: plasticine.splat(y, displacement, mode=mode, backend=served.backend),
        [image.requires_grad_()],
        fast_mode=True,
        nondet_tol=order_of_sums(image),
    )


@pytest.mark.parametrize(("mode", "prefilter"), [("nearest", True), ("bspline", False)])
def test_the_module(served, mode, prefilter):
    image, displacement, _ = make_inputs(SIZES["2d"][0], served.device)
    options = {"prefilter": prefilter, "backend": served.backend}
    module = Splat(mode, "reflection", **options)
    options |= {"mode": mode, "padding": "reflection", "size": (6, 9)}
    expected = plasticine.splat(image, displacement, **options)
    assert_same_sums(module(image, displacement, size=(6, 9)), expected)
    assert f"mode='{mode}', padding='reflection'" in repr(module)
    assert ("prefilter=False" in repr(module)) == (not prefilter)
    with pytest.raises(ValueError, match="mode must be one of"):
        Splat("wrong")


IMAGE = torch.zeros(2, 3, 4, 5)
FIELD = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((IMAGE, FIELD.double()), {}, TypeError, "displacement torch.float64 and image"),
        ((IMAGE, FIELD.half()), {"mode": "bspline"}, TypeError, "must have the dtype of image"),
        ((IMAGE, FIELD[..., :4]), {}, ValueError, r"same spatial size.*\(2, 3, 4, 5\).*\(2, 2, 4"),
        ((IMAGE, FIELD[..., :4]), {"mode": "bspline"}, ValueError, "same spatial size"),
        ((IMAGE, FIELD), {"size": (4,)}, ValueError, r"size must be 2 numbers.*got \(4,\)"),
        ((IMAGE, FIELD), {"size": (4, -1)}, ValueError, r"size must be 2 numbers.*got \(4, -1\)"),
        ((IMAGE, FIELD), {"size": (4, 0)}, ValueError, r"size \(4, 0\) has no voxels"),
        ((IMAGE, FIELD), {"size": (4, 2.5)}, TypeError, "size must be a sequence of ints"),
        ((IMAGE, FIELD), {"size": 4}, TypeError, "size must be a sequence of ints"),
    ],
)
def test_refused_inputs(arguments, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.splat(*arguments, **options)
