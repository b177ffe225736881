"""plasticine.lncc against NumPy and MONAI: contrast, borders, flat regions, NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparison import assert_close, leaf
from torch import Tensor

import plasticine
from plasticine.reference.lncc import squared_correlation

OPERATOR = "lncc"


def pair(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Two images that have half of their noise in common."""
    x, y, common = torch.randn(3, *shape, generator=generator, dtype=torch.float64).unbind()
    return x + common, y + common


def by_loops(x: Tensor, y: Tensor, window: int) -> Tensor:
    """The definition, window by window: of each the squared coefficient of np.corrcoef."""
    spatial, radius = x.shape[2:], window // 2
    found = np.zeros(x.shape)
    for n, c in np.ndindex(*x.shape[:2]):
        for voxel in np.ndindex(*spatial):
            box = tuple(slice(max(i - radius, 0), i + radius + 1) for i in voxel)
            a, b = (image[n, c].numpy()[box].ravel() for image in (x, y))
            found[(n, c, *voxel)] = np.corrcoef(a, b)[0, 1] ** 2
    return torch.from_numpy(found.reshape(len(x), -1).mean(1))


def value_and_gradients(x: Tensor, y: Tensor, served, window: int = 3) -> list[Tensor]:
    """The result and, of its sum, the gradients, on the CPU."""
    leaves = [leaf(image, device=served.device) for image in (x, y)]
    result = plasticine.lncc(*leaves, window=window, backend=served.backend)
    gradients = torch.autograd.grad(result.sum(), leaves)
    return [result.detach().cpu(), *(gradient.cpu() for gradient in gradients)]


@pytest.mark.parametrize("window", [3, 5, 9])
@pytest.mark.parametrize("size", [(6, 11), (4, 5, 6), (2, 1, 5)], ids=str)
def test_equals_the_definition_in_loops(served, generator, size, window):
    x, y = pair(generator, 2, 2, *size)
    result = plasticine.lncc(
        x.to(served.device), y.to(served.device), window=window, backend=served.backend
    )
    assert result.shape == (2,)
    assert_close(result, by_loops(x, y, window), torch.float64)


@pytest.mark.parametrize("size", [(13, 14), (11, 12, 10)], ids=str)
def test_is_monai_s_away_from_the_border(generator, size):
    """MONAI counts the zeros outside of the image as voxels; its loss is the negative."""
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    loss = losses.LocalNormalizedCrossCorrelationLoss(
        spatial_dims=len(size), kernel_size=5, reduction="none", smooth_nr=0, smooth_dr=1e-12
    )
    images = [leaf(image) for image in pair(generator, 2, 1, *size)]
    inner = (..., *[slice(2, -2)] * len(size))
    found, expected = squared_correlation(*images, 5)[inner], -loss(*images)[inner]
    torch.testing.assert_close(found, expected)
    for x, y in zip(
        torch.autograd.grad(found.sum(), images),
        torch.autograd.grad(expected.sum(), images),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


def test_contrast_does_not_matter(served, generator):
    x, y = pair(generator, 2, 1, 6, 7, 8)
    expected = value_and_gradients(x, y, served)
    found = value_and_gradients(3 * x + 7, 5 - 2 * y, served)
    for a, b, scale in zip(found, expected, (1, 3, -2), strict=True):
        torch.testing.assert_close(a * scale, b)
    same = value_and_gradients(x, 4 - 0.5 * x, served)
    torch.testing.assert_close(same[0], torch.ones(2, dtype=torch.float64))
    assert max(gradient.abs().max() for gradient in same[1:]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_little_contrast_on_a_bright_image_is_seen(served, generator, dtype):
    """In sums of float32 the variance, 1e-8 of the mean square, would be all rounding."""
    x, y = (1000 + 0.1 * image for image in pair(generator, 1, 1, 9, 8, 7))
    x, y = x.to(dtype), y.to(dtype)
    expected = by_loops(x.double() - 1000, y.double() - 1000, 5)
    found = plasticine.lncc(
        x.to(served.device), y.to(served.device), window=5, backend=served.backend
    )
    torch.testing.assert_close(found.cpu(), expected.to(dtype), rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("value", [0.0, 0.1, -1000.1])
def test_flat_regions_count_as_zero_and_pull_nowhere(served, generator, value, dtype):
    x, y = (image.to(dtype) for image in pair(generator, 1, 1, 7, 24))
    flat = torch.full_like(x, value)
    for images in ((flat, flat), (x, flat), (flat, y)):
        for found in value_and_gradients(*images, served, window=5):
            assert not found.any()
    # Noise on the left alone: four voxels on, no window holds any of it.
    half = torch.where(torch.arange(24) < 10, x, flat)
    result, *gradients = value_and_gradients(half, y, served, window=5)
    assert result > 0
    for gradient in gradients:
        assert gradient.isfinite().all()
        assert gradient[..., :10].all()
        assert not gradient[..., 14:].any()


@pytest.mark.parametrize("other_is_flat", [False, True])
def test_nan_reaches_the_voxels_of_its_windows_only(served, generator, other_is_flat):
    x, y = pair(generator, 2, 2, 9, 20)
    y = torch.full_like(y, 2.0) if other_is_flat else y
    expected = value_and_gradients(x, y, served)
    x[0, 1, 4, 10] = torch.nan
    found = value_and_gradients(x, y, served)
    assert found[0].isnan().tolist() == [True, False]
    torch.testing.assert_close(found[0][1], expected[0][1])
    touched = torch.zeros_like(x, dtype=torch.bool)
    touched[0, 1, 2:7, 8:13] = True
    for a, b in zip(found[1:], expected[1:], strict=True):
        assert torch.equal(a.isnan(), touched)
        torch.testing.assert_close(a[~touched], b[~touched])


@pytest.mark.parametrize(
    ("window", "error", "message"),
    [
        (4, ValueError, "window must be odd and 3 or more, got 4"),
        (1, ValueError, "window must be odd and 3 or more, got 1"),
        (-3, ValueError, "window must be 0 or more, got -3"),
        (9.0, TypeError, "window must be an int, got float"),
        (True, TypeError, "window must be an int, got bool"),
    ],
)
def test_windows_without_a_centre_are_refused(window, error, message):
    with pytest.raises(error, match=message):
        plasticine.lncc(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 5, 5), window=window)
