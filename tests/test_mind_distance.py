"""plasticine.mind_distance against its descriptors in plain PyTorch, and what it does not see."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from comparison import assert_close, leaf
from torch import Tensor

import plasticine
from plasticine.structure import MIND

OPERATOR = "mind_distance"
SIZES = [(11, 13), (6, 7, 9)]


def pair(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, *shape, generator=generator, dtype=torch.float64).unbind()
    return x, y


def distance(served, x: Tensor, y: Tensor, mask: Tensor | None = None, **options) -> Tensor:
    mask = None if mask is None else mask.to(served.device)
    x, y = x.to(served.device), y.to(served.device)
    return plasticine.mind_distance(x, y, mask=mask, backend=served.backend, **options).cpu()


def by_scipy(image: np.ndarray, dilation: int, sigma: float) -> np.ndarray:
    """The descriptor of one image, by SciPy's filters: shifts along the axes, Gaussians cut."""
    ndimage = pytest.importorskip("scipy.ndimage")
    steps = [step * dilation for step in np.vstack([np.eye(image.ndim), -np.eye(image.ndim)])]
    points = [np.zeros(image.ndim), *steps]
    moved = [ndimage.shift(image, -step, order=0, mode="nearest") for step in points]
    distances = []
    for a in range(len(points)):
        for b in range(a):
            if b == 0 or (points[a] + points[b]).any():  # not opposite
                squared = (moved[a] - moved[b]) ** 2
                how = {"mode": "nearest", "radius": max(1, round(3 * sigma))}
                distances.append(ndimage.gaussian_filter(squared, sigma, **how))
    found = np.stack(distances)
    variance = found.mean(0)
    return np.exp(-found / np.maximum(variance, 1e-3 * variance.mean()))


@pytest.mark.parametrize(("dilation", "sigma"), [(1, 0.8), (2, 0.5), (3, 1.1)])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_that_of_descriptors_by_scipy(served, generator, size, dilation, sigma):
    x, y = pair(generator, 1, 1, *size)
    x[..., : size[-1] // 2] *= 1e-2  # where the image's mean counts
    found = distance(served, x, y, dilations=[dilation], sigma=sigma, kind="squared")
    difference = by_scipy(x[0, 0].numpy(), dilation, sigma) - by_scipy(
        y[0, 0].numpy(), dilation, sigma
    )
    assert found.item() == pytest.approx((difference**2).mean(), rel=1e-9)


@pytest.mark.parametrize("kind", ["charbonnier", "squared"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_that_of_the_structure_maps(served, generator, size, kind):
    """plasticine.structure.MIND and plain PyTorch, with their gradients and a mask."""
    x, y = (leaf(image) for image in pair(generator, 2, 1, *size))
    mask = torch.rand(2, 1, *size, generator=generator) > 0.3
    structure = MIND(len(size))
    difference = structure.compute(x) - structure.compute(y)
    counted = difference.square()
    counted = counted.add(0.05**2).sqrt() if kind == "charbonnier" else counted
    counted = counted.mean(1, keepdim=True)
    expected = (counted * mask).flatten(1).sum(1) / mask.flatten(1).sum(1)
    found = distance(served, x, y, mask, kind=kind, epsilon=0.05)
    assert_close(found, expected, torch.float64)
    for a, b in zip(
        torch.autograd.grad(found.sum(), (x, y)),
        torch.autograd.grad(expected.sum(), (x, y)),
        strict=True,
    ):
        assert_close(a, b, torch.float64)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_contrast_and_its_inversion_do_not_matter(served, generator, size):
    x, y = pair(generator, 2, 1, *size)
    expected = distance(served, x, y)
    torch.testing.assert_close(distance(served, 3 * x + 7, 5 - 0.2 * y), expected)
    assert expected.min() > 0.05


@pytest.mark.parametrize("kind", ["charbonnier", "squared"])
def test_an_image_is_no_way_from_itself(served, generator, kind):
    x = leaf(pair(generator, 2, 1, 8, 9)[0])
    found = distance(served, x, 2 - x.detach(), kind=kind, epsilon=1e-2)
    smallest = 1e-2 if kind == "charbonnier" else 0.0
    torch.testing.assert_close(found, torch.full((2,), smallest, dtype=torch.float64))
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert gradient.abs().max() < 1e-12


def test_nothing_shows_in_flat_images(served, generator):
    """A descriptor of 1, whatever rounding leaves of the noise; finite gradients."""
    x = leaf(torch.full((1, 1, 9, 10), 0.3, dtype=torch.float32))
    same = distance(served, x, torch.full_like(x, -2.0), kind="squared")
    assert same.item() == 0
    y = torch.randn(1, 1, 9, 10, generator=generator)
    found = distance(served, x, y)
    assert found > 0.1
    (gradient,) = torch.autograd.grad(found.sum(), x)
    assert not gradient.any()


def test_a_mask_chooses(served, generator):
    """The mean over the voxels that count, each as much as it does; none: 0, without a pull."""
    x, y = (leaf(image) for image in pair(generator, 2, 1, 7, 12))
    left = torch.zeros(1, 1, 7, 12, dtype=torch.bool)
    left[..., :5] = True
    whole = distance(served, x, y)
    parts = distance(served, x, y, left), distance(served, x, y, ~left)
    torch.testing.assert_close(parts[0] * 5 / 12 + parts[1] * 7 / 12, whole)
    torch.testing.assert_close(distance(served, x, y, 0.25 + left.double() * 0), whole)
    nothing = torch.ones(2, 1, 7, 12)
    nothing[1] = 0
    found = distance(served, x, y, nothing)
    assert found[1] == 0
    for gradient in torch.autograd.grad(found.sum(), (x, y)):
        assert gradient[0].any()
        assert not gradient[1].any()


def test_channels_are_images_of_their_own(served, generator):
    x, y = pair(generator, 1, 3, 6, 9)
    each = [distance(served, x[:, c : c + 1], y[:, c : c + 1]) for c in range(3)]
    torch.testing.assert_close(distance(served, x, y), torch.stack(each).mean(0))


def test_a_sample_knows_nothing_of_the_others(served, generator):
    """All voxels of one depend on its mean variance: what is not finite is everywhere in it."""
    x, y = pair(generator, 2, 1, 8, 10)
    expected = distance(served, x, y)
    x[0, 0, 3, 3] = math.nan
    leaves = leaf(x), leaf(y)
    found = distance(served, *leaves)
    assert found.isnan().tolist() == [True, False]
    torch.testing.assert_close(found[1], expected[1])
    for gradient in torch.autograd.grad(found.sum(), leaves):
        assert gradient[1].isfinite().all()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"dilations": ()}, ValueError, r"dilations must be one or more numbers .*, got \[\]"),
        ({"dilations": (1, 0)}, ValueError, "dilations must be one or more"),
        ({"dilations": (1.5,)}, TypeError, "dilations must be an int, got float"),
        ({"sigma": 0}, ValueError, "sigma must be positive and finite"),
        ({"sigma": math.inf}, ValueError, "sigma must be positive and finite"),
        ({"epsilon": 0.0}, ValueError, "epsilon must be positive and finite"),
    ],
    ids=str,
)
def test_options_that_make_no_descriptor_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        plasticine.mind_distance(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 5, 5), **options)
