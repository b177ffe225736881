"""plasticine.smoothness against NumPy, fields whose energy is known, and MONAI."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from comparison import assert_close, leaf
from torch import Tensor

import plasticine
from plasticine.nn import BendingEnergyLoss, DiffusionLoss

OPERATOR = "smoothness"

SCHEMES = ("forward", "central")
SPACING = (0.5, 2.0, 1.25)
SIZES = ((7, 9), (5, 6, 4))


def positions(*size: int) -> Tensor:
    """The place of every voxel, ``(d, *size)``, in units of SPACING."""
    axes = [torch.arange(n, dtype=torch.float64) * h for n, h in zip(size, SPACING, strict=False)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def energy(v: Tensor, served, order: int, scheme: str) -> list[float]:
    """Of a field in units of SPACING."""
    spacing = SPACING[: v.shape[1]]
    found = plasticine.smoothness(
        v.to(served.device), order=order, scheme=scheme, spacing=spacing, backend=served.backend
    )
    assert found.shape == (len(v),)
    return found.tolist()


def by_loops(v: Tensor, order: int, scheme: str) -> Tensor:
    """The definition, place by place, with NumPy."""
    values = v.numpy()
    batch, ndim, *size = values.shape
    total = np.zeros(batch)
    for axes in itertools.product(range(ndim), repeat=order):
        squares: list[np.ndarray] = []
        for place in np.ndindex(*size):
            is_inner = [0 < i < n - 1 for i, n in zip(place, size, strict=True)]
            if scheme == "central" and not all(
                inner or (n < 3 and axis not in axes)
                for axis, (inner, n) in enumerate(zip(is_inner, size, strict=True))
            ):
                continue
            difference = taken(values, place, axes, scheme)
            if difference is not None:
                squares.append((difference / np.prod([SPACING[axis] for axis in axes])) ** 2)
        if squares:
            total += np.mean(squares, 0).sum(1)
    return torch.from_numpy(total)


def taken(
    values: np.ndarray, place: tuple[int, ...], axes: tuple[int, ...], scheme: str
) -> np.ndarray | None:
    """One difference ``(batch, d)`` at a place, None where a voxel of it does not exist."""
    if len(set(axes)) < len(axes):
        stencil = [((axes[0], 1),), ((axes[0], 0),), ((axes[0], -1),)]
        weights = [1.0, -2.0, 1.0]
    else:
        sides = ((1, 0.5), (-1, -0.5)) if scheme == "central" else ((1, 1.0), (0, -1.0))
        chosen = list(itertools.product(sides, repeat=len(axes)))
        stencil = [
            tuple((axis, step) for axis, (step, _) in zip(axes, c, strict=True)) for c in chosen
        ]
        weights = [float(np.prod([weight for _, weight in c])) for c in chosen]
    total = np.zeros(values.shape[:2])
    for steps, weight in zip(stencil, weights, strict=True):
        voxel = list(place)
        for axis, step in steps:
            voxel[axis] += step
        if not all(0 <= i < n for i, n in zip(voxel, values.shape[2:], strict=True)):
            return None
        total += weight * values[(slice(None), slice(None), *voxel)]
    return total


@pytest.mark.parametrize("size", [(5, 4), (1, 6), (2, 3), (4, 3, 5), (2, 2, 2), (3, 1, 4)], ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("order", [1, 2])
def test_equals_the_definition_in_loops(served, generator, order, scheme, size):
    v = torch.randn(2, len(size), *size, generator=generator, dtype=torch.float64)
    found = torch.tensor(energy(v, served, order, scheme), dtype=torch.float64)
    assert_close(found, by_loops(v, order, scheme), torch.float64)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_linear_field_has_the_norm_of_its_matrix_and_does_not_bend(
    served, generator, scheme, size
):
    matrix = torch.randn(len(size), len(size), generator=generator, dtype=torch.float64)
    v = torch.einsum("ij,j...->i...", matrix, positions(*size))[None] + 5
    assert energy(v, served, 1, scheme) == pytest.approx([matrix.square().sum().item()])
    assert energy(v, served, 2, scheme) == pytest.approx([0], abs=1e-20)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_quadratic_field_bends_by_the_norm_of_its_hessians(served, generator, scheme, size):
    """Of ``v_i = p H_i p / 2`` the second derivatives are H_i, mixed ones on both sides."""
    shape = (len(size), len(size), len(size))
    hessian = torch.randn(shape, generator=generator, dtype=torch.float64)
    hessian = hessian + hessian.mT
    place = positions(*size)
    v = torch.einsum("j...,ijk,k...->i...", place, hessian, place)[None] / 2
    assert energy(v, served, 2, scheme) == pytest.approx([hessian.square().sum().item()])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_mixed_terms_count_twice(served, scheme):
    """Of xy the only second derivatives are those along x and y, and along y and x: both 1."""
    y, x = positions(6, 7)
    v = torch.stack([x * y, torch.zeros_like(x)])[None]
    assert energy(v, served, 2, scheme) == pytest.approx([2])


def test_central_differences_do_not_see_what_alternates(served):
    v = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    v[..., ::2] = 1
    assert energy(v, served, 1, "central") == [0]
    assert energy(v, served, 1, "forward") == pytest.approx([2 / SPACING[1] ** 2])


def test_a_large_shift_does_not_drown_the_gradient(served, generator):
    """All is made of differences: in sums of products with 4096 they would be rounding."""
    v = (torch.randn(1, 3, 9, 8, 7, generator=generator) * 64).round() / 64
    gradients = []
    for shifted in (v, v + 4096):
        field = leaf(shifted, device=served.device)
        result = plasticine.smoothness(field, order=2, backend=served.backend)
        gradients.append(torch.autograd.grad(result.sum(), field)[0].cpu())
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


def test_nan_reaches_the_gradient_of_its_neighbours_only(served, generator):
    v = torch.randn(2, 2, 9, 40, generator=generator, dtype=torch.float64)
    v[0, 1, 4, 20] = torch.nan
    field = leaf(v, device=served.device)
    result = plasticine.smoothness(field, backend=served.backend)
    assert result.isnan().tolist() == [True, False]
    (gradient,) = torch.autograd.grad(result.sum(), field)
    touched = torch.zeros(gradient.shape, dtype=torch.bool)
    touched[0, 1, 3:6, 20] = touched[0, 1, 4, 19:22] = True
    assert torch.equal(gradient.isnan().cpu(), touched)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("size", [(5, 8), (3, 3), (6, 4, 9)], ids=str)
@pytest.mark.parametrize("name", ["DiffusionLoss", "BendingEnergyLoss"])
def test_is_monai_s(generator, name, size, normalize):
    """Of 1.6 and later: before, the bending energy was taken two voxels apart."""
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    ours = {"DiffusionLoss": DiffusionLoss, "BendingEnergyLoss": BendingEnergyLoss}[name]
    v = torch.randn(3, len(size), *size, generator=generator)
    for reduction in ("mean", "sum"):
        found, expected = [], []
        for loss, results in ((ours, found), (getattr(losses, name), expected)):
            field = leaf(v)
            value = loss(normalize=normalize, reduction=reduction)(field)
            results += [value.detach(), torch.autograd.grad(value, field)[0]]
        for x, y in zip(found, expected, strict=True):
            assert (x - y).norm() <= 1e-5 * y.norm()


def test_the_modules_without_reduction_give_one_number_a_sample(generator):
    v = torch.randn(3, 2, 6, 7, generator=generator)
    for module in (DiffusionLoss, BendingEnergyLoss):
        each = module(reduction="none")(v)
        assert each.shape == (3,)
        torch.testing.assert_close(each.mean(), module()(v))
        torch.testing.assert_close(module(reduction="sum")(v), each.sum() * 2 * 4 * 5)
    assert repr(DiffusionLoss(True)) == "DiffusionLoss(normalize=True, reduction='mean')"
    with pytest.raises(ValueError, match="reduction must be one of 'none', 'mean', 'sum'"):
        DiffusionLoss(reduction="max")


FIELD = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"order": 3}, ValueError, r"order must be 1 \(diffusion\) or 2 \(bending\), got 3"),
        ({"order": 0}, ValueError, "order must be 1"),
        ({"order": 1.0}, TypeError, "order must be an int, got float"),
        ({"scheme": "backward"}, ValueError, "scheme must be one of 'forward', 'central'"),
        ({"spacing": (1.0,)}, ValueError, r"spacing must be 2 positive.*\(1.0,\)"),
        ({"spacing": (1.0, 0.0)}, ValueError, "spacing must be 2 positive, finite"),
    ],
)
def test_refused_options(options, error, message):
    with pytest.raises(error, match=message):
        plasticine.smoothness(FIELD, **options)
