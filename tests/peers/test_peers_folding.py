"""Jacobian and folding numbers of other projects, each from our scheme and region.

One noisy field folds in 9 % or in 28 % of its voxels, depending on who counts: finite differences
and region differ. Here stands which of ours is which of theirs.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import plasticine

ROUNDING = {"rtol": 0, "atol": 1e-9}
SPACING = (0.5, 2.0, 1.25)


def inner(values: Tensor) -> Tensor:
    return values[(..., *[slice(1, -1)] * (values.ndim - 2))]


def sitk_determinant(displacement: Tensor, spacing: tuple[float, ...]) -> Tensor:
    """Of a field in the unit of the spacing."""
    sitk = pytest.importorskip("SimpleITK")
    array = displacement[0].flip(0).movedim(0, -1).contiguous().numpy()
    field = sitk.GetImageFromArray(array, isVector=True)
    field.SetSpacing(spacing[::-1])
    determinant = sitk.DisplacementFieldJacobianDeterminant(field)
    return torch.from_numpy(sitk.GetArrayFromImage(determinant)).double()[None, None]


def continued(displacement: Tensor) -> Tensor:
    """One more voxel on every side, as the outermost one."""
    return F.pad(displacement, (1,) * 6, mode="replicate")


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), SPACING])
def test_simpleitk_jacobian(fields, spacing):
    """Central differences of the field continued by its edge: at the border half of ours."""
    millimetres = fields.displacement * torch.tensor(spacing).view(1, 3, 1, 1, 1)
    expected = sitk_determinant(millimetres, spacing)
    scale = expected.abs().max().item()
    found = plasticine.jacobian_determinant(millimetres, spacing=spacing)
    torch.testing.assert_close(inner(found), inner(expected), rtol=0, atol=1e-5 * scale)
    everywhere = plasticine.jacobian_determinant(continued(millimetres), spacing=spacing)
    torch.testing.assert_close(inner(everywhere), expected, rtol=0, atol=1e-5 * scale)


def test_simpleitk_folding_is_ours_of_the_continued_field(fields):
    expected = (sitk_determinant(fields.displacement, (1.0, 1.0, 1.0)) <= 0).double().mean()
    found = plasticine.folding(continued(fields.displacement), scheme="central", region="interior")
    torch.testing.assert_close(found.fraction[0], expected, **ROUNDING)


def test_voxelmorph_folding_is_central_and_full(fields):
    determinant = pytest.importorskip("voxelmorph.py.utils").jacobian_determinant
    expected = determinant(fields.displacement[0].movedim(0, -1).numpy())
    jacobian = plasticine.jacobian_determinant(fields.displacement, scheme="central")
    torch.testing.assert_close(jacobian[0, 0], torch.from_numpy(expected), **ROUNDING)
    found = plasticine.folding(fields.displacement, scheme="central", region="full")
    assert found.fraction.item() == pytest.approx((expected <= 0).mean(), abs=1e-12)


def test_the_interior_is_voxelmorph_without_its_border(fields):
    determinant = pytest.importorskip("voxelmorph.py.utils").jacobian_determinant
    expected = determinant(fields.displacement[0].movedim(0, -1).numpy())[1:-1, 1:-1, 1:-1]
    found = plasticine.folding(fields.displacement, scheme="central", region="interior")
    assert found.fraction.item() == pytest.approx((expected <= 0).mean(), abs=1e-12)


def one_sided(mapping: NDArray[np.float64], signs: tuple[int, ...]) -> NDArray[np.float64]:
    """The determinant of one-sided differences towards the neighbours ``p + sign e_i``.

    Args:
        mapping: ``(d, *spatial)``, where every voxel goes.
        signs: 1 or -1 for each axis.

    Returns:
        The determinant at every voxel that has these neighbours.
    """
    ndim = len(signs)
    core = tuple(slice(0, -1) if sign > 0 else slice(1, None) for sign in signs)
    columns = []
    for axis, sign in enumerate(signs):
        moved = list(core)
        moved[axis] = slice(1, None) if sign > 0 else slice(0, -1)
        columns.append(sign * (mapping[(slice(None), *moved)] - mapping[(slice(None), *core)]))
    matrices = np.stack(columns, axis=1)
    return np.linalg.det(np.moveaxis(matrices, (0, 1), (-2, -1)).reshape(-1, ndim, ndim)).reshape(
        columns[0].shape[1:]
    )


def mapping_of(displacement: Tensor) -> NDArray[np.float64]:
    field = displacement[0].numpy()
    return np.stack(np.meshgrid(*map(np.arange, field.shape[1:]), indexing="ij")) + field


def test_icon_flips_is_backward_without_the_first_layer(fields):
    """ICON counts the cells whose differences from the last corner turn over."""
    expected = one_sided(mapping_of(fields.displacement), (-1, -1, -1))
    found = plasticine.jacobian_determinant(fields.displacement, scheme="backward")
    torch.testing.assert_close(
        found[0, 0, 1:, 1:, 1:], torch.from_numpy(expected), rtol=0, atol=1e-9
    )
    # In a field that is padded in front, the layer that falls back to the other side goes too.
    count = (expected <= 0).sum()
    full = plasticine.folding(fields.displacement, scheme="backward", region="full")
    first = found[0, 0].clone()
    first[1:, 1:, 1:] = 1
    assert full.folds.item() == count + (first <= 0).sum().item()


def test_icons_own_flips(fields):
    losses = pytest.importorskip("icon_registration.losses")
    size = fields.displacement.shape[2:]
    last = torch.tensor(size).view(1, -1, 1, 1, 1) - 1
    mapping = torch.from_numpy(mapping_of(fields.displacement))[None] / last
    found = plasticine.jacobian_determinant(fields.displacement, scheme="backward")
    expected = (found[0, 0, 1:, 1:, 1:] < 0).double().mean() * 100
    assert losses.flips(mapping, in_percentage=True).item() == pytest.approx(expected.item())


def simplex_volumes(mapping: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The signed volumes of all simplices of the digital definition.

    Liu et al., "On finite difference Jacobian computation in deformable image registration", IJCV
    2024: in 2D the triangles of a pixel and two of its neighbours, one for each choice of forward
    and backward differences; in 3D the tetrahedra of a voxel and three neighbours likewise, and in
    every cell the two tetrahedra that its corner ones leave over, of the corners with an even and
    with an odd sum.
    """
    ndim = len(mapping)
    volumes = [
        one_sided(mapping, signs) / math.factorial(ndim)
        for signs in itertools.product((1, -1), repeat=ndim)
    ]
    if ndim == 2:
        return volumes
    size = np.array(mapping.shape[1:]) - 1
    for corners in (((0, 0, 0), (1, 1, 0), (1, 0, 1), (0, 1, 1)),
                    ((1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0))):  # fmt: skip
        points = [
            mapping[(slice(None), *(slice(c, c + n) for c, n in zip(corner, size, strict=True)))]
            for corner in corners
        ]
        edges = np.stack([point - points[0] for point in points[1:]], axis=1)
        rest = np.linalg.det(np.subtract(corners[1:], corners[0]))
        determinant = np.linalg.det(np.moveaxis(edges, (0, 1), (-2, -1)))
        volumes.append(np.sign(rest) * determinant / 6)
    return volumes


def published_volume(displacement: Tensor) -> float:
    """Non-diffeomorphic volume (area) in voxels: what is turned over, of the two ways to cut."""
    volumes = simplex_volumes(mapping_of(displacement))
    return sum(np.maximum(-volume, 0).sum() for volume in volumes) / 2


def test_the_published_simplices_fill_the_grid_twice():
    for size in ((4, 5), (3, 4, 5)):
        still = torch.zeros(1, len(size), *size, dtype=torch.float64)
        total = sum(volume.sum() for volume in simplex_volumes(mapping_of(still)))
        assert total == pytest.approx(2 * math.prod(n - 1 for n in size))


def test_published_non_diffeomorphic_volume(fields):
    expected = published_volume(fields.displacement)
    found = plasticine.folding(fields.displacement).non_diffeomorphic_volume.item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert (expected == 0) == (fields.name == "smooth")


def test_published_non_diffeomorphic_area(generator):
    field = torch.randn(1, 2, 23, 19, generator=generator, dtype=torch.float64)
    found = plasticine.folding(field).non_diffeomorphic_volume.item()
    assert found == pytest.approx(published_volume(field), rel=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
def test_no_volume_is_turned_over_where_every_determinant_is_positive(generator, ndim):
    """Digitally diffeomorphic: all simplices keep their orientation."""
    size = (9, 8, 7)[:ndim]
    noise = torch.randn(1, ndim, *size, generator=generator, dtype=torch.float64)
    verdicts = set()
    for amplitude in (0.01, 0.05, 0.1, 0.2, 0.4, 0.8):
        field = amplitude * noise
        volumes = simplex_volumes(mapping_of(field))
        diffeomorphic = all((volume > 0).all() for volume in volumes)
        found = plasticine.folding(field).non_diffeomorphic_volume.item()
        assert (found == 0) == diffeomorphic
        verdicts.add(diffeomorphic)
    assert verdicts == {True, False}


@pytest.mark.parametrize("ndim", [2, 3])
def test_central_differences_do_not_see_a_checkerboard(ndim):
    """The paper's case: each voxel passes its neighbour, and no central difference sees it."""
    size = (8, 8, 8)[:ndim]
    parity = sum(torch.meshgrid(*[torch.arange(n) for n in size], indexing="ij")) % 2
    field = torch.zeros(1, ndim, *size, dtype=torch.float64)
    field[0, 0] = torch.where(parity == 0, 0.7, -0.7)
    central = plasticine.folding(field, scheme="central", region="interior")
    assert central.folds.item() == 0
    assert central.non_diffeomorphic_volume.item() == pytest.approx(published_volume(field))
    assert central.non_diffeomorphic_volume.item() > 0
    assert plasticine.folding(field, scheme="forward").folds.item() > 0


def test_one_field_folds_differently_for_each_who_counts(generator):
    """Why scheme and region stand with every number."""
    noise = torch.randn(1, 3, 24, 24, 24, generator=generator, dtype=torch.float64) * 0.4
    fractions = {
        (scheme, region): plasticine.folding(noise, scheme=scheme, region=region).fraction.item()
        for scheme in ("central", "forward", "backward")
        for region in ("full", "interior")
    }
    assert len(set(fractions.values())) == len(fractions)
    assert fractions["forward", "full"] > 2 * fractions["central", "full"]
