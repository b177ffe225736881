"""plasticine.spline_coefficients against its definition, against SciPy, and at its edges."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import PADDINGS
from torch import Tensor

import plasticine

OPERATOR = "spline_coefficients"


def make_image(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("padding", "mode", "size"),
    [
        ("reflection", "mirror", (7, 5)),
        ("reflection", "mirror", (4, 3, 35)),
        ("reflection", "mirror", (2, 9)),
        # On shorter lines SciPy's own coefficients miss the image: by 2e-7 on five voxels.
        ("border", "reflect", (37, 70)),
        ("border", "reflect", (20, 21, 35)),
    ],
)
def test_equals_scipy(served, generator, padding, mode, size):
    ndimage = pytest.importorskip("scipy.ndimage")
    image = make_image(generator, 1, 1, *size)
    expected = ndimage.spline_filter(image[0, 0].numpy(), order=3, mode=mode)
    result = plasticine.spline_coefficients(
        image.to(served.device), padding=padding, backend=served.backend
    )
    # SciPy sums its filter's start as far as its own tolerance asks.
    torch.testing.assert_close(result[0, 0].cpu(), torch.from_numpy(expected), rtol=0, atol=1e-9)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_fills_its_channel_and_no_other(served, generator, value):
    image = make_image(generator, 2, 2, 5, 6, 20).to(served.device)
    expected = plasticine.spline_coefficients(image, backend=served.backend)
    image[0, 1, 2, 3, 4] = value
    result = plasticine.spline_coefficients(image, backend=served.backend)
    touched = torch.zeros_like(result, dtype=torch.bool)
    touched[0, 1] = True
    assert torch.equal(result.isfinite(), ~touched)
    assert torch.equal(result[~touched], expected[~touched])
    if math.isnan(value):
        assert torch.equal(result.isnan(), touched)


@pytest.mark.parametrize("padding", PADDINGS)
def test_differentiable_any_number_of_times(served, generator, padding):
    image = make_image(generator, 1, 2, 4, 5).to(served.device).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return plasticine.spline_coefficients(x, padding=padding, backend=served.backend)

    torch.autograd.gradcheck(function, image)
    torch.autograd.gradgradcheck(function, image)
