"""The similarities on PyTorch alone against NumPy, known relations, masks and gradcheck."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from comparison import leaf
from torch import Tensor

import plasticine

FUNCTIONS = (
    plasticine.sum_of_squared_differences,
    plasticine.normalized_gradient_field,
    plasticine.correlation_ratio,
)
SIZES = ((6, 9), (4, 6, 5))


def images(generator: torch.Generator, *size: int) -> tuple[Tensor, Tensor]:
    x, y = torch.rand(2, 2, 3, *size, generator=generator, dtype=torch.float64).unbind()
    return x, y + x**2


def mask_of(generator: torch.Generator, *size: int) -> Tensor:
    return torch.randn(2, 1, *size, generator=generator, dtype=torch.float64).clamp(min=0)


def mean(values: np.ndarray, mask: np.ndarray) -> float:
    return (values * mask).sum() / (mask * np.ones_like(values)).sum()


def squares(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> float:
    return ((x - y) ** 2 * mask).sum()


def cosines(x: np.ndarray, y: np.ndarray, mask: np.ndarray) -> float:
    axes = range(1, x.ndim)
    a, b = (np.stack([np.gradient(image, axis=axis) for axis in axes]) for image in (x, y))
    lengths = [(g**2).sum(0) + 0.1**2 for g in (a, b)]
    return mean((a * b).sum(0) ** 2 / (lengths[0] * lengths[1]), mask)


def ratio(x: np.ndarray, y: np.ndarray, mask: np.ndarray, bins: int = 8) -> float:
    """One minus the variance within the bins, of each channel, with every weight written out."""
    found = []
    for image, other in zip(x, y, strict=True):
        weight = mask[0].ravel()
        values, explained = image.ravel(), other.ravel()
        low, high = values[weight > 0].min(), values[weight > 0].max()
        place = (values - low) / (high - low) * (bins - 1)
        within = 0.0
        for b in range(-1, bins + 1):
            distance = np.abs(place - b)
            near = (4 - 6 * distance**2 + 3 * distance**3) / 6
            far = np.maximum(2 - distance, 0) ** 3 / 6
            share = weight * np.where(distance < 1, near, far)
            if share.sum() > 0:
                centre = (share * explained).sum() / share.sum()
                within += (share * (explained - centre) ** 2).sum()
        centre = (weight * explained).sum() / weight.sum()
        found.append(1 - within / (weight * (explained - centre) ** 2).sum())
    return float(np.mean(found))


CALLS = {
    "sum_of_squared_differences": (plasticine.sum_of_squared_differences, squares, {}),
    "normalized_gradient_field": (plasticine.normalized_gradient_field, cosines, {"epsilon": 0.1}),
    "correlation_ratio": (plasticine.correlation_ratio, ratio, {"bins": 8}),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_equals_numpy(generator, name, size, masked):
    function, by_numpy, options = CALLS[name]
    x, y = images(generator, *size)
    mask = mask_of(generator, *size) if masked else None
    found = function(x, y, mask=mask, **options)
    weights = torch.ones(2, 1, *size) if mask is None else mask
    expected = [by_numpy(x[n].numpy(), y[n].numpy(), weights[n].numpy()) for n in range(2)]
    assert found.shape == (2,)
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_those_of_differences(generator, name, masked):
    function, _, options = CALLS[name]
    x, y = images(generator, 5, 6)
    mask = mask_of(generator, 5, 6) if masked else None
    inputs = [leaf(x[:1]), leaf(y[:1])]
    mask = None if mask is None else mask[:1]
    if name == "correlation_ratio":
        # The range of its bins is not derived.
        x_inner = x[:1].clamp(0.2, 0.8)
        x_inner[..., 0, 0], x_inner[..., 0, 1] = 0.0, 1.0
        if mask is not None:
            mask[..., 0, :2] = 1.0
        fixed = torch.zeros_like(x_inner)
        fixed[..., 1:, :] = 1.0

        def relative(x: Tensor, y: Tensor) -> Tensor:
            return function(fixed * x + (1 - fixed) * x_inner, y, mask=mask, **options)

        inputs[0] = leaf(x_inner)
        torch.autograd.gradcheck(relative, inputs)
        return
    torch.autograd.gradcheck(lambda x, y: function(x, y, mask=mask, **options), inputs)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_loss_is_float32_of_half_images_and_a_batch_of_one_meets_many(generator, function):
    x, y = images(generator, 6, 7)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        found = function(x.to(dtype), y.to(dtype))
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert found.tolist() == pytest.approx(function(x, y).tolist(), rel=3e-2)
    one = function(x[:1], y, mask=torch.ones(1, 1, 6, 7, dtype=torch.bool))
    torch.testing.assert_close(one, function(x[:1].expand(2, -1, -1, -1), y))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert function(x.bfloat16(), y.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_does_not_count_is_not_looked_at(generator, function):
    x, y = images(generator, 6, 9)
    mask = torch.zeros(2, 1, 6, 9, dtype=torch.bool)
    mask[0, ..., :5] = True
    inputs = [leaf(x), leaf(y)]
    found = function(*inputs, mask=mask)
    gradients = torch.autograd.grad(found.sum(), inputs)
    assert found[0] > 0
    assert found[1] == 0
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient[0].any()
        assert not gradient[1].any()
        assert not gradient[0, ..., 6:].any()
    x[..., 8] = torch.nan
    torch.testing.assert_close(function(x, y, mask=mask), found.detach())
    empty = torch.zeros(2, 1, 0, 4)
    assert function(empty, empty).tolist() == [0, 0]


def test_edges_are_alike_whatever_the_contrast(generator):
    x, y = images(generator, 12, 13)
    function = plasticine.normalized_gradient_field
    assert function(100 * x, 7 - 300 * x).tolist() == pytest.approx([1, 1], abs=1e-4)
    torch.testing.assert_close(function(x, -y), function(x, y))
    assert function(x, torch.ones_like(x)).tolist() == [0, 0]


def test_the_correlation_ratio_is_one_of_any_function_and_none_of_noise(generator):
    x = torch.rand(1, 1, 64, 64, generator=generator, dtype=torch.float64)
    noise = torch.randn(1, 1, 64, 64, generator=generator, dtype=torch.float64)
    function = plasticine.correlation_ratio
    assert function(x, (6 * x).sin()).item() > 0.97
    assert function(x, 1000 + (6 * x).sin()).item() > 0.97
    assert function(x, noise).item() < 0.02
    assert function(x, torch.full_like(x, 3.1)).item() == 0
    assert function(torch.ones_like(x), noise).item() == pytest.approx(0, abs=1e-12)


IMAGE = torch.zeros(2, 1, 4, 5)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        *[(f, (IMAGE, IMAGE[..., 1:]), ValueError, "y must have shape of x") for f in FUNCTIONS],
        *[(f, (IMAGE, IMAGE.double()), TypeError, "must have one dtype") for f in FUNCTIONS],
        *[(f, (IMAGE, None), TypeError, "y must be a torch.Tensor") for f in FUNCTIONS],
        *[(f, (IMAGE, IMAGE.long()), TypeError, "must be float32") for f in FUNCTIONS],
        *[(f, (IMAGE[0], IMAGE), ValueError, "must have shape") for f in FUNCTIONS],
        *[(f, (IMAGE[[0, 1, 0]], IMAGE), ValueError, "batch size") for f in FUNCTIONS],
    ],
)
def test_refused_inputs(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


def test_refused_options():
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match="mask must have shape"):
            function(IMAGE, IMAGE, mask=torch.ones(2, 1, 4, 4))
    for epsilon in (0.0, -1.0, math.inf):
        with pytest.raises(ValueError, match="epsilon must be positive and finite"):
            plasticine.normalized_gradient_field(IMAGE, IMAGE, epsilon=epsilon)
    with pytest.raises(ValueError, match="bins must be 2 or more, got 1"):
        plasticine.correlation_ratio(IMAGE, IMAGE, bins=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_background_fills_a_bin_without_rounding(generator, dtype):
    """The correlation ratio of two millions of voxels, most of which are alike."""
    x = torch.rand(1, 1, 128, 128, 128, generator=generator)
    x = (x * (x > 0.7)).to(dtype)
    y = (x * 0.5 + 0.3).to(dtype)
    found = plasticine.correlation_ratio(x, y)
    expected = plasticine.correlation_ratio(x.double(), y.double())
    assert found.dtype == torch.float32
    assert found.item() <= 1
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["sum_of_squared_differences", "normalized_gradient_field"])
def test_what_does_not_count_pulls_nowhere_be_it_nan(generator, name):
    x, y = torch.rand(2, 1, 1, 9, 8, generator=generator)
    mask = torch.ones(1, 1, 9, 8)
    mask[..., :4] = 0
    function = getattr(plasticine, name)
    (expected,) = torch.autograd.grad(function(x.requires_grad_(), y, mask=mask).sum(), x)
    broken = x.detach().clone()
    broken[..., :2] = torch.nan  # no neighbour of it counts
    (gradient,) = torch.autograd.grad(function(broken.requires_grad_(), y, mask=mask).sum(), broken)
    torch.testing.assert_close(gradient[..., 4:], expected[..., 4:])
    assert (gradient[..., :2] == 0).all()
