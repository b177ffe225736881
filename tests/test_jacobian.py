"""plasticine.jacobian_determinant against numpy, known maps, and SimpleITK."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparison import assert_close
from torch import Tensor

import plasticine

OPERATOR = "jacobian"

SCHEMES = ("central", "forward", "backward")
SIZES = {
    "2d": (7, 5),
    "2d-long": (5, 67),
    "2d-thin": (1, 9),
    "2d-two": (2, 2),
    "3d": (5, 4, 7),
    "3d-long": (3, 2, 35),
    "3d-thin": (4, 1, 3),
}
SPACING = (0.5, 2.0, 1.25)


def make_field(generator: torch.Generator, size: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randn(batch, len(size), *size, generator=generator, dtype=torch.float64)


def by_loops(field: Tensor, scheme: str, spacing: tuple[float, ...]) -> Tensor:
    """The definition, voxel by voxel."""
    values = field.numpy()
    batch, ndim, *size = values.shape
    result = np.empty((batch, 1, *size))
    for n in range(batch):
        for voxel in np.ndindex(*size):
            matrix = np.eye(ndim)
            for axis in range(ndim):
                below, above = list(voxel), list(voxel)
                has_next, has_previous = voxel[axis] + 1 < size[axis], voxel[axis] > 0
                if scheme == "central" or (scheme == "forward") == has_next or not has_previous:
                    above[axis] += has_next
                if scheme == "central" or (scheme == "backward") == has_previous or not has_next:
                    below[axis] -= has_previous
                if scheme == "forward" and has_next:
                    below = list(voxel)
                if scheme == "backward" and has_previous:
                    above = list(voxel)
                distance = (above[axis] - below[axis]) * spacing[axis]
                if distance:
                    index = (n, slice(None))
                    difference = values[(*index, *above)] - values[(*index, *below)]
                    matrix[:, axis] += difference / distance
            result[(n, 0, *voxel)] = np.linalg.det(matrix)
    return torch.from_numpy(result)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_equals_the_definition_in_loops(served, generator, size, scheme):
    field = make_field(generator, SIZES[size])
    for spacing in (None, SPACING[: len(SIZES[size])]):
        result = plasticine.jacobian_determinant(
            field.to(served.device), scheme=scheme, spacing=spacing, backend=served.backend
        )
        assert result.shape == (2, 1, *SIZES[size])
        assert result.is_contiguous()
        expected = by_loops(field, scheme, spacing or (1.0,) * field.shape[1])
        assert_close(result, expected, torch.float64)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_an_affine_displacement_has_its_determinant_everywhere(served, generator, ndim, scheme):
    matrix = torch.randn(ndim, ndim, generator=generator, dtype=torch.float64)
    size = (5, 6, 4)[:ndim]
    axes = [torch.arange(n, dtype=torch.float64) * h for n, h in zip(size, SPACING, strict=False)]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    field = torch.einsum("ij,j...->i...", matrix - torch.eye(ndim), position)[None]
    result = plasticine.jacobian_determinant(
        field.to(served.device), scheme=scheme, spacing=SPACING[:ndim], backend=served.backend
    )
    torch.testing.assert_close(result.cpu(), torch.linalg.det(matrix).expand(1, 1, *size))


def test_nan_reaches_its_neighbours_only(served, generator):
    field = make_field(generator, SIZES["2d-long"]).to(served.device)
    expected = plasticine.jacobian_determinant(field, backend=served.backend)
    field[0, 0, 2, 30] = torch.nan
    result = plasticine.jacobian_determinant(field, backend=served.backend)
    touched = torch.zeros_like(result, dtype=torch.bool)
    for y, x in ((1, 30), (3, 30), (2, 29), (2, 31)):
        touched[0, 0, y, x] = True
    assert torch.equal(result.isnan(), touched)
    torch.testing.assert_close(result[~touched], expected[~touched])


def test_equals_simpleitk_inside(served, generator):
    """In the interior; at the border ITK replicates the edge, and we take one-sided differences."""
    sitk = pytest.importorskip("SimpleITK")
    spacing = (1.5, 2.0, 0.75)
    field = make_field(generator, (6, 7, 8), batch=1)
    vectors = field[0].flip(0).movedim(0, -1).contiguous().numpy()
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetSpacing(spacing[::-1])
    expected = torch.from_numpy(
        sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    )
    result = plasticine.jacobian_determinant(
        field.to(served.device), spacing=spacing, backend=served.backend
    )
    inner = (slice(1, -1),) * 3
    torch.testing.assert_close(
        result[0, 0].cpu()[inner].float(), expected[inner].float(), rtol=1e-4, atol=1e-4
    )


FIELD = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("field", "options", "error", "message"),
    [
        (FIELD, {"spacing": (1.0,)}, ValueError, r"spacing must be 2 positive.*\(1.0,\)"),
        (FIELD, {"spacing": (1.0, 0.0)}, ValueError, "spacing must be 2 positive, finite"),
        (FIELD, {"spacing": (1.0, float("nan"))}, ValueError, "spacing must be 2 positive"),
        (FIELD, {"spacing": 2.0}, TypeError, "spacing must be 2 numbers or None, got 2.0"),
    ],
)
def test_refused_inputs(field, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.jacobian_determinant(field, **options)
