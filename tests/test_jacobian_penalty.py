"""plasticine.jacobian_penalty against NumPy, known maps and what it is to push back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from comparison import assert_close, leaf
from torch import Tensor

import plasticine

OPERATOR = "jacobian_penalty"

KINDS = ("hinge", "log")
SIZES = ((7, 9), (1, 6), (4, 37), (5, 6, 4))
SPACING = (0.5, 2.0, 1.25)


def scaling(factor: float, ndim: int) -> Tensor:
    """The displacement of a map that multiplies axis 0 by a factor, which is its determinant."""
    size = (6, 5, 4)[:ndim]
    u = torch.zeros(1, ndim, *size, dtype=torch.float64)
    u[:, 0] = (factor - 1) * torch.arange(size[0]).double().view(-1, *[1] * (ndim - 1))
    return u


def paid(u: Tensor, served, **options) -> float:
    found = plasticine.jacobian_penalty(u.to(served.device), backend=served.backend, **options)
    assert found.shape == (1,)
    return found.item()


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", ["central", "forward", "backward"])
@pytest.mark.parametrize("kind", KINDS)
def test_is_the_mean_of_what_numpy_makes_of_the_determinants(served, generator, kind, scheme, size):
    u = 0.7 * torch.randn(2, len(size), *size, generator=generator, dtype=torch.float64)
    options = {"scheme": scheme, "spacing": SPACING[: len(size)]}
    jacobian = plasticine.jacobian_determinant(u, backend="reference", **options).numpy()
    threshold = 0.3
    if kind == "hinge":
        each = np.maximum(threshold - jacobian, 0)
    else:
        slope = 2 * math.log(threshold) / threshold
        line = math.log(threshold) ** 2 + slope * (jacobian - threshold)
        each = np.where(jacobian > threshold, np.log(np.maximum(jacobian, threshold)) ** 2, line)
    assert (jacobian < threshold).any() or len(size) == 2
    found = plasticine.jacobian_penalty(
        u.to(served.device), threshold=threshold, kind=kind, backend=served.backend, **options
    )
    expected = torch.from_numpy(each.reshape(2, -1).mean(1))
    assert_close(found, expected, torch.float64)


@pytest.mark.parametrize("ndim", [2, 3])
def test_known_determinants(served, ndim):
    for factor in (-0.5, 0.0, 0.05, 0.5, 1.0, 3.0):
        u = scaling(factor, ndim)
        hinge = max(0.05 - factor, 0.0)
        assert paid(u, served) == pytest.approx(hinge, abs=1e-12)
        if factor >= 0.05:
            logarithm = paid(u, served, kind="log")
            assert logarithm == pytest.approx(math.log(factor) ** 2, abs=1e-12)
    assert paid(scaling(2.0, ndim), served, threshold=2.5) == pytest.approx(0.5)
    assert paid(scaling(-0.25, ndim), served, threshold=0.0) == pytest.approx(0.25)


@pytest.mark.parametrize("kind", KINDS)
def test_folds_pay_more_the_deeper_they_are_and_are_pushed_back(served, kind):
    """A step against the gradient raises the determinants, from however far below 0."""
    before = paid(scaling(0.05, 2), served, kind=kind)
    for factor in (0.0, -0.5, -2.0, -8.0):
        now = paid(scaling(factor, 2), served, kind=kind)
        assert now > before + 0.04
        before = now
        u = leaf(scaling(factor, 2), device=served.device)
        result = plasticine.jacobian_penalty(u, kind=kind, backend=served.backend)
        (gradient,) = torch.autograd.grad(result.sum(), u)
        after = (u - 0.01 * gradient).detach()
        moved = plasticine.jacobian_determinant(after).mean()
        assert moved > plasticine.jacobian_determinant(u).mean() + 1e-4


@pytest.mark.parametrize("size", [(9, 40), (5, 6, 33)], ids=str)
def test_a_single_fold_pulls_at_its_neighbours_alone(served, generator, size):
    """Elsewhere a hinge has no gradient, whichever rows the fold's are shared with."""
    u = 0.01 * torch.randn(2, len(size), *size, generator=generator, dtype=torch.float64)
    middle = tuple(n // 2 for n in size)
    u[(1, len(size) - 1, *middle)] -= 3
    fields = [leaf(u, device=served.device), leaf(u)]
    found = [
        torch.autograd.grad(
            plasticine.jacobian_penalty(field, threshold=0.3, backend=backend).sum(), field
        )[0].cpu()
        for field, backend in zip(fields, (served.backend, "reference"), strict=True)
    ]
    assert found[0][1].any()
    assert not found[0][0].any()
    assert_close(found[0], found[1], torch.float64)
    assert torch.equal(found[0] != 0, found[1] != 0)


def test_nan_pays_nan_in_its_sample_alone(served, generator):
    u = 0.1 * torch.randn(2, 2, 6, 7, generator=generator, dtype=torch.float64)
    u[0, 0, 3, 3] = torch.nan
    for kind in KINDS:
        found = plasticine.jacobian_penalty(u.to(served.device), kind=kind, backend=served.backend)
        assert found.isnan().tolist() == [True, False]


FIELD = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "log", "threshold": 0.0}, ValueError, "between 0 and 1 for kind='log', got 0.0"),
        ({"kind": "log", "threshold": 1}, ValueError, "between 0 and 1 for kind='log', got 1.0"),
        ({"threshold": math.nan}, ValueError, "threshold must be finite, got nan"),
        ({"threshold": "much"}, TypeError, "threshold must be a number, got str"),
        ({"threshold": None}, TypeError, "threshold must be a number, got NoneType"),
        ({"spacing": (1.0,)}, ValueError, r"spacing must be 2 positive.*\(1.0,\)"),
    ],
)
def test_refused_options(options, error, message):
    with pytest.raises(error, match=message):
        plasticine.jacobian_penalty(FIELD, **options)
