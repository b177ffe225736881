"""plasticine.joint_histogram against SciPy and NumPy: windows, ranges, masks, NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from comparison import assert_close, leaf
from torch import Tensor

import plasticine

OPERATOR = "joint_histogram"
KERNELS = ("bspline", "gaussian", "mattes")
# The bins at the ends of the range of values, but for their distance from the last bin.
FIRST = {"bspline": 1, "gaussian": 0, "mattes": 2}


def images(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Two images of the same noise and other noise."""
    x, y = torch.rand(2, *shape, generator=generator, dtype=torch.float64).unbind()
    return x, (x + y) / 2


def windows(values: np.ndarray, ends: tuple[float, float], bins: int, kernel: str) -> np.ndarray:
    """What each bin gets of each value, by SciPy's splines and softmax."""
    interpolate = pytest.importorskip("scipy.interpolate")
    special = pytest.importorskip("scipy.special")
    first = FIRST.get(kernel, 2)  # "nearest" is the other window of "mattes"
    position = first + (np.clip(values, *ends) - ends[0]) / (ends[1] - ends[0]) * (
        bins - 1 - 2 * first
    )
    distance = position[:, None] - np.arange(bins)
    if kernel == "gaussian":
        return special.softmax(-2 * distance**2, axis=1)
    degree = 0 if kernel == "nearest" else 3
    half = (degree + 1) / 2
    spline = interpolate.BSpline.basis_element(
        np.linspace(-half, half, degree + 2), extrapolate=False
    )
    return np.nan_to_num(spline(distance))


@pytest.mark.parametrize("bins", [9, 32])
@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("masked", [False, True])
def test_equals_scipy_s_windows(served, generator, kernel, bins, masked):
    x, y = images(generator, 2, 2, 5, 13)
    mask = torch.rand(2, 1, 5, 13, generator=generator, dtype=torch.float64)
    ends = (0.1, 0.85)
    found = plasticine.joint_histogram(
        x.to(served.device),
        y.to(served.device),
        bins=bins,
        kernel=kernel,
        mask=mask.to(served.device) if masked else None,
        value_range=ends,
        backend=served.backend,
    )
    counts = mask.expand_as(x).flatten(1).numpy() if masked else np.ones((2, x[0].numel()))
    expected = np.stack(
        [
            (windows(a, ends, bins, kernel) * n[:, None]).T
            @ windows(b, ends, bins, "nearest" if kernel == "mattes" else kernel)
            for a, b, n in zip(x.flatten(1).numpy(), y.flatten(1).numpy(), counts, strict=True)
        ]
    )
    torch.testing.assert_close(found.cpu(), torch.from_numpy(expected), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_range_of_its_own_is_that_of_what_counts(served, generator, kernel):
    """In each sample: the same as for a range that is given, which holds no gradient."""
    x, y = (image.to(served.device) for image in images(generator, 2, 1, 6, 7))
    y = 3 * y - 100
    mask = (torch.rand(2, 1, 6, 7, generator=generator) > 0.3).to(served.device)
    mask[0, 0, 0, 0] = False
    x[0, 0, 0, 0] = 50.0
    ends = torch.stack(
        [
            torch.stack([image[n][mask[n]].aminmax()[i] for i in (0, 1)])
            for n in (0, 1)
            for image in (x, y)
        ]
    ).view(2, 2, 2)
    options = {"bins": 11, "kernel": kernel, "mask": mask, "backend": served.backend}
    runs = []
    for value_range in (None, ends):
        leaves = leaf(x), leaf(y)
        found = plasticine.joint_histogram(*leaves, value_range=value_range, **options)
        runs.append([found, *torch.autograd.grad(found.square().sum(), leaves)])
    for own, given in zip(*runs, strict=True):
        assert torch.equal(own, given)
    assert runs[0][0].sum((1, 2)).allclose(mask.sum((1, 2, 3)).double())
    assert runs[0][1][0, 0, 0, 0] == 0


def test_values_beyond_the_range_are_clamped_and_pull_nowhere(served, generator):
    x, y = (leaf(image, device=served.device) for image in images(generator, 1, 1, 8, 9))
    options = {"value_range": (0.3, 0.6), "bins": 8, "backend": served.backend}
    found = plasticine.joint_histogram(x, y, **options)
    clamped = plasticine.joint_histogram(x.clamp(0.3, 0.6), y.clamp(0.3, 0.6), **options)
    assert_close(found, clamped, torch.float64)
    gradients = torch.autograd.grad(found.square().sum(), (x, y))
    for image, gradient in zip((x, y), gradients, strict=True):
        inside = (image > 0.3) & (image < 0.6)
        assert inside.any()
        assert torch.equal(gradient != 0, inside)


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_image_of_one_value_has_one_bin_s_windows(served, kernel):
    """Its range is empty: everything lies in the first bin of it, and pulls nowhere."""
    x = torch.full((1, 1, 5, 6), 7.25, device=served.device, requires_grad=True)
    found = plasticine.joint_histogram(x, x, bins=9, kernel=kernel, backend=served.backend)
    other = torch.zeros(1, 1, 5, 6, device=served.device)
    expected = plasticine.joint_histogram(
        other, other, bins=9, kernel=kernel, value_range=(0, 1), backend=served.backend
    )
    torch.testing.assert_close(found, expected)
    (gradient,) = torch.autograd.grad(found.square().sum(), x)
    assert not gradient.any()


@pytest.mark.parametrize("value", [0.0, 0.1, 0.37, 1.0])
def test_a_large_background_is_counted_to_the_last_voxel(native, value):
    """In sums of float32 its voxels would stop counting, or count too much."""
    x = torch.full((1, 1, 1200, 1201), value)
    found = plasticine.joint_histogram(x, x, value_range=(0.0, 1.0), backend="cpu").double()
    alone = plasticine.joint_histogram(
        x[..., :1, :1].double(), x[..., :1, :1].double(), value_range=(0.0, 1.0), backend="cpu"
    )
    torch.testing.assert_close(found, alone * x.numel(), rtol=0, atol=1e-6 * x.numel())


@pytest.mark.parametrize("kernel", KERNELS)
def test_nan_takes_its_sample_unless_it_does_not_count(served, generator, kernel):
    x, y = (image.to(served.device) for image in images(generator, 2, 1, 6, 7))
    mask = torch.ones_like(x)
    mask[0, 0, 2, 3] = 0
    options = {"bins": 8, "kernel": kernel, "backend": served.backend}
    expected = plasticine.joint_histogram(x, y, mask=mask, **options)
    x[0, 0, 2, 3] = math.nan
    hidden = leaf(x)
    found = plasticine.joint_histogram(hidden, y, mask=mask, **options)
    assert torch.equal(found, expected)
    assert torch.autograd.grad(found.square().sum(), hidden)[0].isfinite().all()
    found = plasticine.joint_histogram(x, y, **options)
    assert found[0].isnan().all()
    assert found[1].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 3e38])
@pytest.mark.parametrize("where", [(), (0, 0, 2, 3)], ids=["everywhere", "once"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_range_that_is_none(served, generator, kernel, where, value, dtype):
    """Of the image itself: its ends are then NaN, infinite, or one value."""
    x, y = (image.to(served.device, dtype) for image in images(generator, 1, 1, 6, 7))
    x[where] = value
    options = {"bins": 8, "kernel": kernel}
    for first, second in ((x, y), (y, x)):
        pair = leaf(first), leaf(second)
        found = plasticine.joint_histogram(*pair, backend=served.backend, **options)
        gradients = torch.autograd.grad(found.sum(), pair)
        expected = plasticine.joint_histogram(first, second, backend="reference", **options)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)
        if expected.isfinite().all():
            assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"bins": 4}, ValueError, "bins must be from 5 to 1024 with kernel='bspline', got 4"),
        ({"bins": 5, "kernel": "mattes"}, ValueError, "from 6 to 1024"),
        ({"bins": 1, "kernel": "gaussian"}, ValueError, "from 2 to 1024"),
        ({"bins": 1025}, ValueError, "got 1025"),
        ({"bins": 8.0}, TypeError, "bins must be an int, got float"),
        ({"sigma": 0.1}, ValueError, "sigma must be from 0.25 to 1.0 bins, got 0.1"),
        ({"value_range": (1.0, 1.0)}, ValueError, "value_range must rise"),
        ({"value_range": 3}, TypeError, "two numbers or None, got 3"),
        ({"value_range": torch.ones(1, 2)}, ValueError, r"\(N or 1, 2, 2\), got \(1, 2\)"),
        ({"mask": torch.ones(1, 2, 5, 5)}, ValueError, "mask must have shape"),
    ],
)
def test_refuses_what_it_cannot_bin(options, error, message):
    with pytest.raises(error, match=message):
        plasticine.joint_histogram(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 5, 5), **options)
