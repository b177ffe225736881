"""What the search of invert finds on the GPU backends, and what it leaves."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.conformance import OPERATORS


def residual_of(u: Tensor, w: Tensor, padding: str = "border") -> Tensor:
    """The largest |w + u(p + w)| of each sample in float64."""
    u, w = u.double(), w.double()
    norm = (w + reference.warp(u, w, None, "linear", padding)).norm(dim=1)
    return norm.flatten(1).amax(1)


@pytest.mark.parametrize("size", [(1, 9), (11, 13), (5, 6, 7)], ids=str)
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_solves_its_equation(kernel_backend, size, padding):
    (field,) = OPERATORS["invert"].inputs((size, size), {}, torch.float64).values()
    options = {"padding": padding, "backend": kernel_backend}
    found = plasticine.invert(field, tolerance=1e-10, **options)
    assert (found.residual <= 1e-10).all()
    expected = residual_of(field, found.displacement, padding)
    torch.testing.assert_close(found.residual, expected, rtol=1e-6, atol=1e-13)
    assert found.iterations.dtype == torch.int64
    assert 0 < found.iterations.max() < 20
    half = plasticine.invert(field.bfloat16(), tolerance=1e-4, **options)
    assert (half.residual <= 1e-4).all()
    assert half.residual.dtype == torch.float32
    assert (residual_of(field.bfloat16(), half.displacement, padding) <= 3e-2).all()


def test_a_shift_is_undone_at_once(kernel_backend):
    for size in ((6, 7), (3, 4, 5)):
        field = torch.full((1, len(size), *size), 2.25)
        found = plasticine.invert(field, tolerance=0, iterations=10, backend=kernel_backend)
        assert torch.equal(found.displacement, -field)
        assert found.residual.tolist() == found.iterations.tolist() == [0]


@pytest.mark.parametrize("size", [(9, 9), (5, 5, 5)], ids=str)
def test_a_fold_is_left_with_its_residual(kernel_backend, size):
    """Nothing maps there, or several places do: the residual says what was found."""
    generator = torch.Generator().manual_seed(1)
    field = torch.randn(1, len(size), *size, generator=generator, dtype=torch.float64) * 3
    for steps in (7, 0):
        with pytest.warns(RuntimeWarning, match="may fold"):
            found = plasticine.invert(
                field, tolerance=1e-6, iterations=steps, backend=kernel_backend
            )
        assert found.iterations.tolist() == [steps]
        assert found.residual.item() > 1e-6
        torch.testing.assert_close(found.residual, residual_of(field, found.displacement))
    assert torch.equal(found.displacement, -field)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_what_is_not_finite_stays_where_the_search_meets_it(kernel_backend, value, padding):
    for size, voxel in (((9, 9), (4, 4)), ((5, 5, 5), (2, 2, 2))):
        field = torch.full((2, len(size), *size), 0.25)
        field[(0, 0, *voxel)] = value
        options = {"tolerance": 1e-5, "iterations": 20, "padding": padding}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = plasticine.invert(field, **options, backend=kernel_backend)
        assert math.isnan(found.residual[0])
        assert found.residual[1].isfinite()
        undefined = found.displacement.isnan().any(1)
        assert 0 < undefined[0].sum() <= 3 ** len(size)
        assert not undefined[1].any()
