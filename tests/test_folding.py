"""plasticine.folding against the Jacobian, plain loops over simplices, and known maps."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

import plasticine

OPERATOR = "folding"

SCHEMES = ("central", "forward", "backward")
SIZES = {
    "2d": (7, 5),
    "2d-long": (5, 67),
    "2d-thin": (1, 9),
    "2d-two": (2, 2),
    "3d": (5, 4, 7),
    "3d-long": (3, 4, 35),
    "3d-thin": (4, 1, 3),
}
SPACING = (0.5, 2.0, 1.25)


def make_field(generator: torch.Generator, size: tuple[int, ...], batch: int = 2) -> Tensor:
    return torch.randn(batch, len(size), *size, generator=generator, dtype=torch.float64) * 0.7


def volume_by_loops(field: np.ndarray, spacing: tuple[float, ...]) -> float:
    """Non-diffeomorphic volume of one sample, from each simplex at rest and moved."""
    ndim, *size = field.shape
    if ndim == 2:
        cuts = [
            [((0, 0), (0, 1), (1, 1)), ((0, 0), (1, 0), (1, 1))],
            [((0, 1), (0, 0), (1, 0)), ((0, 1), (1, 1), (1, 0))],
        ]
    else:
        cuts = []
        for parity in (0, 1):
            corners = [c for c in itertools.product((0, 1), repeat=3) if sum(c) % 2 == parity]
            others = [c for c in itertools.product((0, 1), repeat=3) if sum(c) % 2 != parity]
            cut = [
                (corner, *[c for c in others if sum(a != b for a, b in zip(c, corner)) == 1])  # noqa: B905
                for corner in corners
            ]
            cuts.append([*cut, tuple(others)])
    total = 0.0
    for cell in np.ndindex(*[n - 1 for n in size]):
        for cut in cuts:
            assert sum(_volume(simplex) for simplex in cut) == pytest.approx(1)
            for simplex in cut:
                rest = np.array([np.add(cell, corner) for corner in simplex], dtype=float)
                moved = np.array([v + field[(slice(None), *v.astype(int))] / spacing for v in rest])
                at_rest, signed = (np.linalg.det(x[1:] - x[0]) for x in (rest, moved))
                if signed * at_rest < 0:
                    total += abs(signed) / math.factorial(ndim)
    return total / 2


def _volume(simplex: tuple[tuple[int, ...], ...]) -> float:
    vertices = np.array(simplex, dtype=float)
    return abs(np.linalg.det(vertices[1:] - vertices[0])) / math.factorial(vertices.shape[1])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("region", ["full", "interior"])
def test_statistics_of_the_jacobian(served, generator, size, scheme, region):
    field = make_field(generator, SIZES[size])
    spacing = SPACING[: field.shape[1]]
    found = plasticine.folding(
        field.to(served.device),
        scheme=scheme,
        region=region,
        spacing=spacing,
        backend=served.backend,
    )
    jacobian = plasticine.jacobian_determinant(
        field, scheme=scheme, spacing=spacing, backend="reference"
    )
    if region == "interior":
        inner = [slice(1, -1) if n > 2 else slice(None) for n in SIZES[size]]
        jacobian = jacobian[(..., *inner)]
    jacobian = jacobian.flatten(1)
    folds = (jacobian <= 0).sum(1)
    assert found.folds.dtype == torch.int64
    assert torch.equal(found.folds.cpu(), folds)
    for actual, expected in (
        (found.fraction, folds / jacobian.shape[1]),
        (found.minimum, jacobian.min(1).values),
        (found.maximum, jacobian.max(1).values),
        (found.sd_log_jacobian, torch.log(jacobian.clip(1e-9)).std(1, correction=0)),
    ):
        assert actual.device.type == served.device
        torch.testing.assert_close(actual.cpu(), expected.double())
    assert (found.scheme, found.region) == (scheme, region)


@pytest.mark.parametrize("size", SIZES)
def test_non_diffeomorphic_volume(served, generator, size):
    field = make_field(generator, SIZES[size])
    spacing = SPACING[: field.shape[1]]
    found = plasticine.folding(field.to(served.device), spacing=spacing, backend=served.backend)
    expected = [volume_by_loops(sample.numpy(), spacing) for sample in field]
    if min(SIZES[size]) > 1:
        assert max(expected) > 0
    torch.testing.assert_close(
        found.non_diffeomorphic_volume.cpu(), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_known_maps(served, ndim):
    size = (4, 5, 6)[:ndim]
    still = torch.zeros(1, ndim, *size, device=served.device)
    found = plasticine.folding(still, backend=served.backend)
    assert (found.folds.item(), found.fraction.item()) == (0, 0.0)
    assert (found.minimum.item(), found.maximum.item()) == (1.0, 1.0)
    assert (found.sd_log_jacobian.item(), found.non_diffeomorphic_volume.item()) == (0.0, 0.0)

    mirrored = still.clone()
    mirrored[0, 0] = (-2.0 * torch.arange(size[0])).view(-1, *[1] * (ndim - 1))
    found = plasticine.folding(mirrored, backend=served.backend)
    assert found.folds.item() == math.prod(size)
    assert (found.minimum.item(), found.maximum.item()) == (-1.0, -1.0)
    cells = math.prod(n - 1 for n in size)
    assert found.non_diffeomorphic_volume.item() == pytest.approx(cells)

    flattened = still.clone()
    flattened[0, 0] = (-1.0 * torch.arange(size[0])).view(-1, *[1] * (ndim - 1))
    found = plasticine.folding(flattened, backend=served.backend)
    assert found.folds.item() == math.prod(size)  # a volume of 0 cannot be undone either
    assert (found.minimum.item(), found.maximum.item()) == (0.0, 0.0)


@pytest.mark.parametrize("size", [(6, 7), (6, 7, 5)], ids=str)
def test_nan_is_never_counted_as_free_of_folds(served, size):
    ndim = len(size)
    field = torch.zeros(2, ndim, *size, device=served.device)
    field[(0, 1, *[3] * ndim)] = torch.nan
    found = plasticine.folding(field, backend=served.backend)
    # J is NaN at the neighbours, which difference across the voxel: two along each axis.
    assert found.folds.tolist() == [2 * ndim, 0]
    assert found.fraction.tolist() == [2 * ndim / math.prod(size), 0]
    assert found.minimum.isnan().tolist() == [True, False]
    assert found.maximum.isnan().tolist() == [True, False]
    assert found.sd_log_jacobian.isnan().tolist() == [True, False]
    assert found.non_diffeomorphic_volume.isnan().tolist() == [True, False]


def test_empty_tensors(served):
    field = torch.zeros(0, 2, 4, 5, device=served.device)
    none = plasticine.folding(field, backend=served.backend)
    assert none.folds.shape == none.minimum.shape == (0,)
    field = torch.zeros(2, 3, 4, 0, 5, device=served.device)
    empty = plasticine.folding(field, backend=served.backend)
    assert empty.folds.tolist() == [0, 0]
    for name in ("fraction", "minimum", "maximum", "sd_log_jacobian"):
        assert getattr(empty, name).isnan().all()
    assert empty.non_diffeomorphic_volume.tolist() == [0.0, 0.0]


def test_it_does_not_track_gradients(served, generator):
    field = make_field(generator, SIZES["2d"]).to(served.device).requires_grad_()
    found = plasticine.folding(field, backend=served.backend)
    assert not found.minimum.requires_grad
    assert not found.non_diffeomorphic_volume.requires_grad


def test_the_text_names_scheme_and_region(served, generator):
    field = make_field(generator, SIZES["2d"]).to(served.device)
    text = str(
        plasticine.folding(field, scheme="forward", region="interior", backend=served.backend)
    )
    assert "forward differences, interior region" in text
    assert "sample 1:" in text
    assert "non-diffeomorphic volume" in text


def test_a_spacing_of_another_dimension_is_refused():
    with pytest.raises(ValueError, match=r"spacing must be 2 positive.*\(1, 1, 1\)"):
        plasticine.folding(torch.zeros(2, 2, 4, 5), spacing=(1, 1, 1))
