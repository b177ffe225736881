"""plasticine.gaussian_smooth against SciPy and a matrix, at its edges, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import assert_close, leaf
from torch import Tensor

import plasticine

OPERATOR = "gaussian_smooth"
# Wider than the image is, of one voxel each side, and none; per axis and for all.
CASES = [
    ((9, 41), 1.7),
    ((9, 41), (0.0, 4.2)),
    ((70, 5), (6.0, 0.3)),
    ((1, 6), 2.0),
    ((2, 3), 9.0),
    ((20, 21, 35), 1.7),
    ((13, 4, 7), (2.5, 0.0, 0.4)),
    ((3, 1, 5), (8.0, 8.0, 2.0)),
]


def widths_of(sigma: float | tuple[float, ...], ndim: int) -> tuple[float, ...]:
    return sigma if isinstance(sigma, tuple) else (sigma,) * ndim


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def smoothing_matrix(size: int, sigma: float) -> Tensor:
    """The map along one axis, weight by weight."""
    matrix = torch.zeros(size, size, dtype=torch.float64)
    radius = max(1, round(3 * sigma)) if sigma else 0
    weights = {k: math.exp(-0.5 * (k / sigma) ** 2) if sigma else 1.0 for k in range(radius + 1)}
    total = sum(weights[abs(k)] for k in range(-radius, radius + 1))
    for voxel in range(size):
        for k in range(-radius, radius + 1):
            matrix[voxel, min(max(voxel + k, 0), size - 1)] += weights[abs(k)] / total
    return matrix


@pytest.mark.parametrize(("size", "sigma"), CASES, ids=str)
def test_equals_scipy(served, generator, size, sigma):
    ndimage = pytest.importorskip("scipy.ndimage")
    images = noise(generator, 2, 1, *size)
    expected = images.clone()
    for axis, width in enumerate(widths_of(sigma, len(size)), 2):
        if width:
            radius = max(1, round(3 * width))
            options = {"axis": axis, "mode": "nearest", "radius": radius}
            smooth = ndimage.gaussian_filter1d(expected.numpy(), width, **options)
            expected = torch.from_numpy(smooth)
    result = plasticine.gaussian_smooth(images.to(served.device), sigma, backend=served.backend)
    torch.testing.assert_close(result.cpu(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("size", "sigma"), CASES, ids=str)
def test_the_gradient_is_that_of_the_matrix(served, generator, size, sigma):
    images, grad = (noise(generator, 1, 2, *size) for _ in range(2))
    expected = grad
    for axis, width in enumerate(widths_of(sigma, len(size)), 2):
        matrix = smoothing_matrix(size[axis - 2], width)
        expected = torch.tensordot(expected, matrix, ([axis], [0])).movedim(-1, axis)
    variable = leaf(images.to(served.device))
    result = plasticine.gaussian_smooth(variable, sigma, backend=served.backend)
    (found,) = torch.autograd.grad(result, variable, grad.to(served.device))
    torch.testing.assert_close(found.cpu(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [(40, 40), (9, 20, 40)], ids=str)
def test_a_constant_stays_and_a_voxel_spreads_to_its_variance(served, size):
    image = torch.zeros(1, 2, *size, dtype=torch.float64)
    image[0, 0] = 3
    image[0, 1, ..., 20] = 1
    sigma = (*[1.0] * (len(size) - 1), 2.0)
    result = plasticine.gaussian_smooth(image.to(served.device), sigma, backend=served.backend)
    torch.testing.assert_close(result[:, :1].cpu(), image[:, :1])
    place = torch.arange(40, dtype=torch.float64) - 20
    row = result[0, 1].flatten(0, -2)[0].cpu()
    assert (row * place**2).sum() == pytest.approx(4, rel=0.03)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_reaches_its_windows_and_no_further(served, generator, value):
    images = noise(generator, 2, 2, 12, 13, 20).to(served.device)
    sigma = (1.0, 0.5, 1.4)
    windows = tuple(
        slice(place - round(3 * width), place + round(3 * width) + 1)
        for place, width in zip((5, 6, 9), sigma, strict=True)
    )
    expected = plasticine.gaussian_smooth(images, sigma, backend=served.backend)
    images[0, 1, 5, 6, 9] = value
    variable = leaf(images)
    result = plasticine.gaussian_smooth(variable, sigma, backend=served.backend)
    touched = torch.zeros_like(images, dtype=torch.bool)
    touched[0, 1][windows] = True
    assert torch.equal(result.isfinite(), ~touched)
    assert torch.equal(result[~touched], expected[~touched])
    (found,) = torch.autograd.grad(result, variable, images)
    assert torch.equal(found.isfinite(), ~touched)


def test_sigma_of_zero_is_a_copy(served, generator):
    images = noise(generator, 1, 1, 3, 4).to(served.device)
    result = plasticine.gaussian_smooth(images, 0, backend=served.backend)
    assert torch.equal(result, images)
    assert result.data_ptr() != images.data_ptr()


@pytest.mark.parametrize("sigma", [1e-3, 1e-300, 3000.0])
def test_widths_next_to_none_and_far_beyond_the_image(served, generator, sigma):
    images = noise(generator, 1, 1, 3, 4).to(served.device)
    result = plasticine.gaussian_smooth(images, (0, sigma), backend=served.backend)
    expected = images.cpu() @ smoothing_matrix(4, sigma).T if sigma > 1 else images.cpu()
    assert_close(result, expected, torch.float64)


def test_large_windows_in_a_large_image(native, generator):
    """More rows than a tile has, and planes than a task."""
    images = torch.randn(1, 2, 37, 90, 61, generator=generator)
    for sigma in (1.7, (9.0, 12.0, 15.0)):
        expected = plasticine.gaussian_smooth(images.double(), sigma, backend="reference")
        result = plasticine.gaussian_smooth(images, sigma, backend="cpu")
        assert_close(result, expected, torch.float32)
        half = plasticine.gaussian_smooth(images.half(), sigma, backend="cpu")
        assert_close(half, expected, torch.float16)


@pytest.mark.parametrize("sigma", [1.7, (0.4, 0.0, 6.0)], ids=str)
def test_the_same_bits_however_planes_are_shared_out(native, generator, sigma):
    """Few channels are cut into more parts where there are more threads."""
    images = leaf(torch.randn(1, 1, 70, 37, 45, generator=generator))
    before, runs = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        try:
            result = plasticine.gaussian_smooth(images, sigma, backend="cpu")
            runs.append([result, *torch.autograd.grad(result, images, images.detach())])
        finally:
            torch.set_num_threads(before)
    for other in runs[1:]:
        assert all(torch.equal(x, y) for x, y in zip(runs[0], other, strict=True))


@pytest.mark.parametrize(
    ("sigma", "error", "message"),
    [
        (-1.0, ValueError, "sigma must be from 0 to 65536 voxels; got -1.0"),
        (math.nan, ValueError, "got nan"),
        (math.inf, ValueError, "got inf"),
        ((1.0, 2.0, 3.0), ValueError, r"or 2, one per spatial axis, got \(1.0, 2.0, 3.0\)"),
        ("wide", TypeError, "sigma must be a number, or 2, .*'wide'"),
        (None, TypeError, "sigma must be a number, or 2, .*None"),
        (("a", "b"), TypeError, "sigma must be a number, or 2"),
    ],
)
def test_refuses(sigma, error, message):
    with pytest.raises(error, match=message):
        plasticine.gaussian_smooth(torch.zeros(1, 1, 4, 4), sigma)
