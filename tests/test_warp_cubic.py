"""The cubic modes of plasticine.warp: against the reference, grid_sample, SciPy and others."""

from __future__ import annotations

import functools
import math
from typing import Any

import comparison
import pytest
import torch
import torch.nn.functional as F
from comparison import PADDINGS, away_from, leaf
from torch import Tensor

import plasticine
from plasticine import reference

OPERATOR = "warp"

MODES = ("cubic", "bspline")
ROUNDING = comparison.ROUNDING | {torch.float32: 3e-5}
assert_close = functools.partial(comparison.assert_close, rounding=ROUNDING)
# Image and output sizes: odd, unequal, rows longer than a SIMD register, axes shorter than a cell.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-long": ((5, 67), (4, 83)),
    "2d-thin": ((1, 9), (5, 1)),
    "2d-small": ((2, 3), (5, 5)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-long": ((6, 5, 35), (4, 3, 51)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
    "3d-small": ((2, 2, 2), (3, 4, 5)),
}


def positions(displacement: Tensor) -> Tensor:
    """The absolute voxel coordinates, ``(N, d, *spatial)``."""
    axes = [torch.arange(n, dtype=displacement.dtype) for n in displacement.shape[2:]]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", [((9, 5), (6, 11)), ((5, 65), (4, 83)), ((2, 3), (5, 5))])
def test_cubic_equals_grid_sample_with_its_gradients(
    served, generator, warp_inputs, sizes, padding
):
    image, displacement, _ = warp_inputs(sizes)
    # Half of the coordinates are exact integers, where conventions show: size - 1 is a power of
    # two, so that grid_sample recovers them.
    displacement[:, :, ::2] = displacement[:, :, ::2].round()
    inputs = [leaf(x, device=served.device) for x in (image, displacement)]
    exact = [leaf(x) for x in (image, displacement)]
    result = plasticine.warp(*inputs, mode="cubic", padding=padding, backend=served.backend)
    last = torch.tensor(image.shape[2:], dtype=image.dtype).sub(1)
    grid = (positions(exact[1]).movedim(1, -1) * 2 / last - 1).flip(-1)
    expected = F.grid_sample(exact[0], grid, "bicubic", padding, align_corners=True)
    assert_close(result, expected, torch.float64)
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    result.backward(grad.to(served.device))
    expected.backward(grad)
    assert_close(inputs[0].grad, exact[0].grad, torch.float64)
    assert_close(inputs[1].grad, exact[1].grad, torch.float64)


def clamped(where: Tensor, image: Tensor) -> Tensor:
    """Coordinates, ``(N, d, *spatial)``, moved into the image."""
    last = torch.tensor(image.shape[2:]).sub(1.0).view(-1, *[1] * (image.dim() - 2))
    return where.clamp(min=torch.zeros_like(last), max=last)


# Longer axes than elsewhere: on short ones SciPy's own "reflect" does not pass through the image.
@pytest.mark.parametrize("sizes", [((21, 67), (4, 83)), ((20, 21, 35), (4, 3, 51))], ids=str)
@pytest.mark.parametrize("prefilter", [False, True])
@pytest.mark.parametrize(("padding", "mode"), [("reflection", "mirror"), ("border", "reflect")])
def test_bspline_equals_scipy(served, warp_inputs, sizes, prefilter, padding, mode):
    """Everywhere by reflection; by border inside, where "reflect" has the same coefficients."""
    ndimage = pytest.importorskip("scipy.ndimage")
    image, displacement, _ = warp_inputs(sizes, batch=1, channels=1)
    where = positions(displacement)
    if padding == "border":
        where = clamped(where, image)
    expected = ndimage.map_coordinates(
        image[0, 0].numpy(), where[0].numpy(), order=3, mode=mode, prefilter=prefilter
    )
    result = plasticine.warp(
        image.to(served.device),
        displacement.to(served.device),
        mode="bspline",
        padding=padding,
        prefilter=prefilter,
        backend=served.backend,
    )
    torch.testing.assert_close(result[0, 0].cpu(), torch.from_numpy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("size", ["2d-long", "3d-long"])
@pytest.mark.parametrize(("padding", "bound"), [("reflection", "dct1"), ("border", "dct2")])
def test_bspline_equals_torch_interpol(served, warp_inputs, size, padding, bound):
    interpol = pytest.importorskip("interpol")
    image, displacement, _ = warp_inputs(SIZES[size], batch=1)
    where = positions(displacement)
    if padding == "border":
        where = clamped(where, image)
    grid = where.movedim(1, -1)
    expected = interpol.grid_pull(image, grid, interpolation=3, bound=bound, extrapolate=True)
    result = plasticine.warp(
        image.to(served.device),
        displacement.to(served.device),
        mode="bspline",
        padding=padding,
        prefilter=False,
        backend=served.backend,
    )
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=1e-9)


def test_bspline_equals_simpleitk_inside(served, warp_inputs):
    """ITK mirrors the image about its edge voxels, too."""
    sitk = pytest.importorskip("SimpleITK")
    image, displacement, _ = warp_inputs(((9, 8, 10),) * 2, batch=1, channels=1)
    displacement *= 0.5
    moving = sitk.GetImageFromArray(image[0, 0].numpy())
    field = displacement[0].flip(0).movedim(0, -1).contiguous().numpy()  # components x, y, z
    transform = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(field, isVector=True))
    resampled = sitk.Resample(moving, transform, sitk.sitkBSpline3, math.nan)
    expected = torch.from_numpy(sitk.GetArrayFromImage(resampled))
    result = plasticine.warp(
        image.to(served.device),
        displacement.to(served.device),
        mode="bspline",
        padding="reflection",
        backend=served.backend,
    )[0, 0].cpu()
    where = positions(displacement)
    inside = (where == clamped(where, image))[0].all(0)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(result[inside], expected[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", ["2d-long", "2d-thin", "3d-long", "3d-small", "3d-thin"])
def test_the_identity_returns_the_image(served, warp_inputs, padding, mode, size):
    image = warp_inputs(SIZES[size])[0].to(served.device)
    ndim = image.dim() - 2
    for dtype in ROUNDING:
        rounded = image.to(dtype)
        displacement = rounded.new_zeros(2, ndim, *image.shape[2:])
        result = plasticine.warp(
            rounded, displacement, mode=mode, padding=padding, backend=served.backend
        )
        assert_close(result, rounded.cpu(), dtype)
        if mode == "cubic":
            assert torch.equal(result, rounded)


def test_prefilter_is_the_public_operator(served, warp_inputs):
    image, displacement, _ = (x.to(served.device) for x in warp_inputs(SIZES["3d"]))
    options: dict[str, Any] = {"padding": "zeros", "backend": served.backend}
    coefficients = plasticine.spline_coefficients(image, **options)
    assert torch.equal(
        plasticine.warp(image, displacement, mode="bspline", **options),
        plasticine.warp(coefficients, displacement, mode="bspline", prefilter=False, **options),
    )


def test_one_image_is_prefiltered_for_many_displacements(served, warp_inputs):
    image, displacement, _ = (x.to(served.device) for x in warp_inputs(SIZES["2d"]))
    one = leaf(image[:1])
    many = leaf(image[[0, 0]])
    result = plasticine.warp(one, displacement, mode="bspline", backend=served.backend)
    expected = plasticine.warp(many, displacement, mode="bspline", backend=served.backend)
    torch.testing.assert_close(result, expected)
    (found,) = torch.autograd.grad(result.square().sum(), one)
    (gradient,) = torch.autograd.grad(expected.square().sum(), many)
    torch.testing.assert_close(found[0], gradient.sum(0))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", ["2d-long", "3d-long"])
def test_nan_and_infinite_displacements(served, warp_inputs, mode, padding, size):
    """They change the result and the gradients at their own voxels, and nothing else."""
    image, displacement, _ = warp_inputs(SIZES[size])
    clean = displacement.clone()
    ndim = displacement.shape[1]
    nan = (0, slice(None), *[1] * ndim)
    above = (1, slice(None), *[2] * ndim)
    below = (1, slice(None), *[1] * ndim)
    displacement[nan][0] = math.nan
    displacement[nan][1] = 1e9  # nothing is read there, and still it is NaN
    displacement[above] = math.inf
    displacement[below] = -math.inf

    def run(field: Tensor, *silent: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Result and gradients, where the silent voxels ask for nothing."""
        inputs = [leaf(x, dtype=torch.float32, device=served.device) for x in (image, field)]
        result = plasticine.warp(
            *inputs, mode=mode, padding=padding, prefilter=False, backend=served.backend
        )
        grad = torch.ones_like(result)
        for place in silent:
            grad[place] = 0
        gradients = torch.autograd.grad(result, inputs, grad)
        return tuple(x.cpu() for x in (result.detach(), *gradients))

    result, grad_image, grad_displacement = run(displacement)
    expected, expected_image, expected_displacement = run(clean, nan, above, below)
    assert result[nan].isnan().all()
    assert grad_displacement[nan].isnan().all()
    if padding == "border":
        # An infinite displacement asks for what a very long one does.
        far = displacement.nan_to_num(nan=0.0, posinf=1e4, neginf=-1e4)
        edges, expected_image, _ = run(far, nan)
    for place in (above, below):
        if padding == "zeros":
            assert torch.equal(result[place], torch.zeros(3))
        elif padding == "border":
            assert_close(result[place], edges[place], torch.float32)
        else:
            assert result[place].isnan().all()
        if padding != "reflection":
            assert torch.equal(grad_displacement[place], torch.zeros(ndim))
    assert_close(grad_image, expected_image, torch.float32)
    others = away_from(result, (nan, above, below))
    for x, y in ((result, expected), (grad_displacement, expected_displacement)):
        assert_close(x.movedim(1, -1)[others], y.movedim(1, -1)[others], torch.float32)


@pytest.mark.parametrize("mode", MODES)
def test_zeros_are_zeros_beyond_the_last_tap(served, warp_inputs, mode):
    image = warp_inputs(SIZES["3d"])[0].to(served.device)
    displacement = torch.full((2, 3, 5, 4, 7), 0.3, dtype=torch.float64, device=served.device)
    displacement[:, 2] = 9.0
    result = plasticine.warp(
        image, displacement, mode=mode, padding="zeros", backend=served.backend
    )
    assert torch.equal(result, torch.zeros_like(result))


def test_nan_in_the_image_reaches_its_cells_only(served, warp_inputs):
    image, displacement, _ = warp_inputs(SIZES["2d-long"])
    image[0, 0, 2, 30] = math.nan
    for padding in PADDINGS:
        result = plasticine.warp(
            image.to(served.device),
            displacement.to(served.device),
            mode="cubic",
            padding=padding,
            backend=served.backend,
        )
        expected = reference.warp(image, displacement, None, "cubic", padding)
        assert expected.isnan().any()
        assert_close(result, expected, torch.float64, equal_nan=True)


@pytest.mark.parametrize("size", ["2d-long", "3d-long"])
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_gradient_that_is_not_finite_reaches_its_cell_only(served, warp_inputs, padding, size):
    """Cells at the edge included: with zero padding they have no tap beyond it."""
    image, displacement, _ = warp_inputs(SIZES[size], batch=1)
    grad = torch.ones(1, 3, *SIZES[size][1], dtype=torch.float64)
    corner = (0, slice(None), *[0] * displacement.shape[1])
    displacement[corner] = -0.5
    grad[corner] = torch.tensor([math.nan, math.inf, 1.0], dtype=torch.float64)
    inputs = [leaf(x, device=served.device) for x in (image, displacement)]
    exact = [leaf(x) for x in (image, displacement)]
    result = plasticine.warp(*inputs, mode="cubic", padding=padding, backend=served.backend)
    result.backward(grad.to(served.device))
    reference.warp(*exact, None, "cubic", padding).backward(grad)
    assert exact[0].grad.isnan().any()
    for x, y in zip(inputs, exact, strict=True):
        finite = y.grad.isfinite()
        assert torch.equal(x.grad.isfinite().cpu(), finite)
        assert_close(x.grad.cpu()[finite], y.grad[finite], torch.float64)
