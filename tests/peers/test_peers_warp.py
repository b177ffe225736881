"""warp and compose against what others wrote: SimpleITK, SciPy, MONAI and VoxelMorph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import plasticine

ROUNDING = {"rtol": 0, "atol": 1e-9}


def identity(size: torch.Size) -> Tensor:
    axes = [torch.arange(n, dtype=torch.float64) for n in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))[None]


def lands_inside(displacement: Tensor) -> Tensor:
    """``(1, 1, *spatial)`` bool: where ``p + u(p)`` lies between voxels of the image."""
    size = displacement.shape[2:]
    last = torch.tensor(size).view(1, -1, *[1] * len(size)) - 1
    location = identity(size) + displacement
    return ((location >= 0) & (location <= last)).all(1, keepdim=True)


@pytest.mark.parametrize(
    ("order", "mode", "padding", "theirs"),
    [
        (0, "nearest", "border", "nearest"),
        (1, "linear", "border", "nearest"),
        (1, "linear", "reflection", "mirror"),
        (1, "linear", "zeros", "grid-constant"),
    ],
)
def test_scipy_map_coordinates(fields, order, mode, padding, theirs):
    ndimage = pytest.importorskip("scipy.ndimage")
    places = (identity(fields.image.shape[2:]) + fields.displacement)[0].numpy()
    expected = ndimage.map_coordinates(fields.image[0, 0].numpy(), places, order=order, mode=theirs)
    found = plasticine.warp(fields.image, fields.displacement, mode=mode, padding=padding)
    torch.testing.assert_close(found[0, 0], torch.from_numpy(expected), **ROUNDING)


def to_sitk(tensor: Tensor, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> object:
    """``(1, C, *spatial)`` as SimpleITK's image; three channels as a vector along x, y, z."""
    sitk = pytest.importorskip("SimpleITK")
    if tensor.shape[1] == 1:
        image = sitk.GetImageFromArray(tensor[0, 0].numpy())
    else:
        array = tensor[0].flip(0).movedim(0, -1).contiguous().numpy()
        image = sitk.GetImageFromArray(array, isVector=True)
    image.SetSpacing(spacing[::-1])
    return image


@pytest.mark.parametrize("mode", ["linear", "nearest"])
@pytest.mark.parametrize("with_filter", ["Warp", "Resample"])
def test_simpleitk(fields, mode, with_filter):
    """In mm, on voxels that are no cubes; outside the image it has its own ideas."""
    sitk = pytest.importorskip("SimpleITK")
    spacing = (0.5, 2.0, 1.25)
    millimetres = fields.displacement * torch.tensor(spacing).view(1, 3, 1, 1, 1)
    moving, field = to_sitk(fields.image, spacing), to_sitk(millimetres, spacing)
    interpolator = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor}[mode]
    if with_filter == "Warp":
        image = sitk.Warp(
            moving, field, interpolator, moving.GetSize(), field.GetOrigin(), spacing[::-1]
        )
    else:
        transform = sitk.DisplacementFieldTransform(field)
        image = sitk.Resample(moving, moving, transform, interpolator)
    expected = torch.from_numpy(sitk.GetArrayFromImage(image))[None, None]
    found = plasticine.warp(fields.image, fields.displacement, mode=mode)
    inside = lands_inside(fields.displacement)
    assert inside.double().mean() > 0.5
    torch.testing.assert_close(found[inside], expected[inside], rtol=0, atol=1e-6)


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_monai_warp(fields, mode, padding):
    blocks = pytest.importorskip("monai.networks.blocks")
    theirs = {"linear": "bilinear", "nearest": "nearest"}[mode]
    layer = blocks.Warp(mode=theirs, padding_mode=padding)
    expected = layer(fields.image, fields.displacement)
    found = plasticine.warp(fields.image, fields.displacement, mode=mode, padding=padding)
    torch.testing.assert_close(found, expected, **ROUNDING)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_voxelmorph_spatial_transformer(fields, mode):
    modules = pytest.importorskip("voxelmorph.nn.modules")
    expected = modules.SpatialTransformer(mode)(fields.image, fields.displacement)
    found = plasticine.warp(fields.image, fields.displacement, mode=mode, padding="zeros")
    torch.testing.assert_close(found, expected, **ROUNDING)


def test_gradients_of_monai_warp(fields):
    blocks = pytest.importorskip("monai.networks.blocks")
    layer = blocks.Warp(mode="bilinear", padding_mode="border")
    gradients = []
    for warp in (layer, plasticine.warp):
        leaves = [x.clone().requires_grad_() for x in (fields.image, fields.displacement)]
        result = warp(*leaves)
        gradients.append(torch.autograd.grad(result.square().sum(), leaves))
    for theirs, mine in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, **ROUNDING)


def test_composition_by_simpleitk(fields):
    """compose(u, v) moves a point as u after v does, wherever both stay inside."""
    sitk = pytest.importorskip("SimpleITK")
    u, v = 0.5 * fields.displacement, 0.25 * fields.displacement.flip(2)
    both = sitk.CompositeTransform(
        [sitk.DisplacementFieldTransform(to_sitk(field)) for field in (u, v)]
    )
    found = plasticine.compose(u, v)
    inside = lands_inside(v)[0, 0].numpy()
    voxels = np.argwhere(inside)[:: max(1, inside.sum() // 500)]
    for voxel in voxels:
        # The transform added last is the first to be applied, in both.
        moved = both.TransformPoint([float(x) for x in voxel[::-1]])
        expected = torch.tensor(moved[::-1], dtype=torch.float64) - torch.from_numpy(voxel)
        torch.testing.assert_close(found[(0, slice(None), *voxel)], expected, **ROUNDING)


def test_spline_of_scipy(fields):
    """Mirrored about the outermost voxels' centres, its filter and its samples."""
    ndimage = pytest.importorskip("scipy.ndimage")
    places = (identity(fields.image.shape[2:]) + fields.displacement)[0].numpy()
    image = fields.image[0, 0].numpy()
    expected = ndimage.map_coordinates(image, places, order=3, mode="mirror")
    found = plasticine.warp(fields.image, fields.displacement, mode="bspline", padding="reflection")
    torch.testing.assert_close(found[0, 0], torch.from_numpy(expected), rtol=0, atol=1e-8)
    coefficients = ndimage.spline_filter(image, order=3, mode="mirror")
    filtered = plasticine.spline_coefficients(fields.image, padding="reflection")
    torch.testing.assert_close(filtered[0, 0], torch.from_numpy(coefficients), rtol=0, atol=1e-8)


def test_spline_of_interpol(fields):
    interpol = pytest.importorskip("interpol")
    places = (identity(fields.image.shape[2:]) + fields.displacement).movedim(1, -1)
    expected = interpol.grid_pull(fields.image, places, 3, "dct1", extrapolate=True, prefilter=True)
    found = plasticine.warp(fields.image, fields.displacement, mode="bspline", padding="reflection")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("padding", "bound"), [("border", "replicate"), ("zeros", "zero"), ("reflection", "dct1")]
)
def test_push_of_interpol(fields, padding, bound):
    interpol = pytest.importorskip("interpol")
    size = fields.image.shape[2:]
    places = (identity(size) + fields.displacement).movedim(1, -1)
    expected = interpol.grid_push(fields.image, places, size, 1, bound, extrapolate=True)
    found = plasticine.splat(fields.image, fields.displacement, padding=padding)
    torch.testing.assert_close(found, expected, **ROUNDING)


def test_inverse_of_simpleitk(fields):
    """Two inverses of one field: apart by what their residuals leave open, and no more."""
    sitk = pytest.importorskip("SimpleITK")
    # Still at the border, as SimpleITK makes its inverse, and gentle enough to have one.
    size = fields.image.shape[2:]
    field = 0.2 * fields.displacement
    for axis, n in enumerate(size, 2):
        window = torch.sin(torch.linspace(0, torch.pi, n, dtype=torch.float64))
        field = field * window.view([-1 if i == axis else 1 for i in range(field.ndim)])
    image = sitk.InvertDisplacementField(
        to_sitk(field),
        maximumNumberOfIterations=200,
        maxErrorToleranceThreshold=1e-4,
        meanErrorToleranceThreshold=0.0,
    )
    array = torch.from_numpy(sitk.GetArrayFromImage(image)).double()
    expected = array.movedim(-1, 0).flip(0)[None]
    assert plasticine.compose(field, expected).abs().max() < 1e-3
    found = plasticine.invert(field, tolerance=1e-4).displacement
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3)
