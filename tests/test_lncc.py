"""plasticine.lncc against NumPy and MONAI: contrast, borders, masks, flat regions, NaN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from comparison import assert_close, leaf
from torch import Tensor

import plasticine
from plasticine import nn, reference
from plasticine.ops.lncc import STABILISERS, stabilised_lncc
from plasticine.reference.lncc import correlation, taps_of

OPERATOR = "lncc"


def pair(generator: torch.Generator, *shape: int) -> tuple[Tensor, Tensor]:
    """Two images that have half of their noise in common."""
    x, y, common = torch.randn(3, *shape, generator=generator, dtype=torch.float64).unbind()
    return x + common, y + common


def by_loops(
    x: Tensor, y: Tensor, window: int, kernel: str = "box", mask: Tensor | None = None
) -> Tensor:
    """The definition, window by window, by np.cov: squared correlations, ``(N, C, *spatial)``."""
    spatial, radius, taps = x.shape[2:], window // 2, np.array(taps_of(window, kernel))
    found = np.zeros(x.shape)
    for n, c in np.ndindex(*x.shape[:2]):
        for voxel in np.ndindex(*spatial):
            box = tuple(slice(max(i - radius, 0), i + radius + 1) for i in voxel)
            weight = np.ones([len(range(*s.indices(m))) for s, m in zip(box, spatial, strict=True)])
            for axis, (i, s, m) in enumerate(zip(voxel, box, spatial, strict=True)):
                shape = [-1 if k == axis else 1 for k in range(len(spatial))]
                weight = weight * taps[np.arange(*s.indices(m)) - i + radius].reshape(shape)
            if mask is not None:
                weight = weight * mask[n, 0].numpy()[box]
            a, b = (image[n, c].numpy()[box].ravel() for image in (x, y))
            if (weight > 0).sum() > 1:
                cov = np.cov(a, b, aweights=weight.ravel(), ddof=0)
                found[(n, c, *voxel)] = cov[0, 1] ** 2 / (cov[0, 0] * cov[1, 1])
    return torch.from_numpy(found)


def value_and_gradients(x: Tensor, y: Tensor, served, window: int = 3, **options) -> list[Tensor]:
    """The result and, of its sum, the gradients, on the CPU."""
    leaves = [leaf(image, device=served.device) for image in (x, y)]
    if (mask := options.get("mask")) is not None:
        options["mask"] = mask.to(served.device)
    result = plasticine.lncc(*leaves, window=window, backend=served.backend, **options)
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
    assert_close(result, by_loops(x, y, window).flatten(1).mean(1), torch.float64)


@pytest.mark.parametrize("kernel", ["box", "gaussian"])
@pytest.mark.parametrize("size", [(6, 11), (4, 5, 6)], ids=str)
def test_a_mask_weighs_all_sums(served, generator, size, kernel):
    x, y = pair(generator, 2, 2, *size)
    mask = torch.rand(2, 1, *size, generator=generator, dtype=torch.float64)
    mask = mask.where(mask > 0.2, 0)
    each = by_loops(x, y, 5, kernel, mask)
    expected = (mask * each).flatten(1).sum(1) / (2 * mask.flatten(1).sum(1))
    options = {"window": 5, "kernel": kernel, "mask": mask}
    assert_close(value_and_gradients(x, y, served, **options)[0], expected, torch.float64)


@pytest.mark.parametrize("size", [(7, 12), (6, 7, 9)], ids=str)
def test_a_mask_of_a_part_is_as_that_part_alone(served, generator, size):
    """Whatever lies outside of it: NaN too."""
    x, y = pair(generator, 2, 2, *size)
    part = (..., *[slice(1, n - 2) for n in size])
    mask = torch.zeros(1, 1, *size, dtype=torch.bool)
    mask[part] = True
    x, y = (image.masked_fill(~mask, torch.nan) for image in (x, y))
    found = value_and_gradients(x, y, served, window=5, mask=mask)
    expected = value_and_gradients(x[part], y[part], served, window=5)
    torch.testing.assert_close(found[0], expected[0])
    for a, b in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(a[part], b)
        assert not a.masked_fill(mask, 0).any()


def test_nothing_counts_for_nothing(served, generator):
    x, y = pair(generator, 2, 1, 5, 6, 7)
    mask = torch.stack([torch.zeros(1, 5, 6, 7), torch.ones(1, 5, 6, 7)])
    result, *gradients = value_and_gradients(x, y, served, mask=mask)
    assert result[0] == 0
    assert result[1] > 0
    for gradient in gradients:
        assert not gradient[0].any()
        assert gradient[1].all()


def test_without_the_square_the_sign_is_kept(served, generator):
    x, _ = pair(generator, 2, 1, 6, 7)
    images = torch.cat([2 * x[:1], 3 - x[1:]])
    found = value_and_gradients(x, images, served, squared=False)[0]
    torch.testing.assert_close(found, torch.tensor([1.0, -1.0], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_value_of_halves_is_not_rounded_to_halves(served, generator, dtype):
    x, y = (image.to(dtype) for image in pair(generator, 2, 1, 6, 7))
    result, *gradients = value_and_gradients(x, y, served)
    assert result.dtype == torch.float32
    assert {gradient.dtype for gradient in gradients} == {dtype}
    torch.testing.assert_close(result, reference.lncc(x.float(), y.float(), None, 3))


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("stabiliser", STABILISERS)
def test_what_others_divide_by(served, generator, stabiliser, squared):
    """Every way on every backend, of images of which a part is flat."""
    x, y = pair(generator, 2, 2, 5, 6, 9)
    x[..., :4], y[..., 5:] = 0.5, 0.25
    epsilon, numerator = (0.0, 0.0) if stabiliser == "flat" else (0.3, 0.1 if squared else 0.0)
    runs = []
    for backend, device in ((served.backend, served.device), ("reference", "cpu")):
        leaves = [leaf(image, device=device) for image in (x, y)]
        result = stabilised_lncc(
            *leaves,
            mask=None,
            window=3,
            kernel="box",
            squared=squared,
            border="inside",
            stabiliser=stabiliser,
            epsilon=epsilon,
            numerator=numerator,
            backend=backend,
        )
        runs.append([result, *torch.autograd.grad(result.sum(), leaves)])
    for found, expected in zip(*runs, strict=True):
        torch.testing.assert_close(found.cpu(), expected)


def test_an_offset_is_voxelmorph_s(generator):
    """Its formula, written with convolutions, in the sums of which zeros outside are counted."""
    x, y = (image.float().double() for image in pair(generator, 2, 1, 9, 8, 7))
    ones = torch.ones(1, 1, 5, 5, 5, dtype=torch.float64)

    def window_sum(image: Tensor) -> Tensor:
        return torch.nn.functional.conv3d(image, ones, padding=2)

    mean_x, mean_y, size = window_sum(x) / 125, window_sum(y) / 125, 125
    cross = window_sum(x * y) - mean_y * window_sum(x) - mean_x * window_sum(y)
    cross += mean_x * mean_y * size
    variance_x = window_sum(x * x) - 2 * mean_x * window_sum(x) + mean_x * mean_x * size
    variance_y = window_sum(y * y) - 2 * mean_y * window_sum(y) + mean_y * mean_y * size
    expected = cross * cross / (variance_x * variance_y + 1e-5)
    options = {"border": "zeros", "stabiliser": "offset", "epsilon": 1e-5}
    torch.testing.assert_close(correlation(x, y, None, 5, **options), expected)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kernel", ["rectangular", "gaussian"])
@pytest.mark.parametrize("window", [3, 9])
@pytest.mark.parametrize("size", [(23, 14), (11, 12, 13)], ids=str)
def test_the_module_is_monai_s(generator, size, window, kernel, reduction):
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    arguments = {
        "spatial_dims": len(size),
        "kernel_size": window,
        "kernel_type": kernel,
        "reduction": reduction,
        "smooth_nr": 0.01,
        "smooth_dr": 0.02,
    }
    x, y = (image.float() for image in pair(generator, 2, 2, *size))
    x[..., :5] = 0.25  # variances below the least
    runs = []
    for loss in (
        nn.LocalNormalizedCrossCorrelationLoss(**arguments),
        losses.LocalNormalizedCrossCorrelationLoss(**arguments).double(),
    ):
        dtype = torch.float64 if runs else torch.float32
        leaves = [leaf(image, dtype=dtype) for image in (x, y)]
        result = loss(*leaves)
        grad = torch.rand(result.shape, generator=torch.Generator().manual_seed(3)).to(result)
        runs.append([result, *torch.autograd.grad(result, leaves, grad)])
    for found, expected in zip(*runs, strict=True):
        assert found.shape == expected.shape
        assert (found - expected).norm() <= 1e-4 * expected.norm()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_type": "triangular"}, "one of 'rectangular', 'gaussian', got 'triangular'"),
        ({"spatial_dims": 1}, "spatial_dims must be 2 or 3, got 1"),
        ({"kernel_size": 4}, "kernel_size must be odd and 3 or more, got 4"),
        ({"reduction": "median"}, "reduction must be 'mean', 'sum' or 'none', got 'median'"),
    ],
    ids=str,
)
def test_the_module_says_what_there_is(arguments, message):
    with pytest.raises(ValueError, match=message):
        nn.LocalNormalizedCrossCorrelationLoss(**arguments)


def test_the_module_refuses_other_shapes():
    loss = nn.LocalNormalizedCrossCorrelationLoss()
    with pytest.raises(ValueError, match=r"3 spatial axes, got shapes \(1, 1, 5, 5\)"):
        loss(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 5, 5))


@pytest.mark.parametrize("size", [(13, 14), (11, 12, 10)], ids=str)
def test_is_monai_s_away_from_the_border(generator, size):
    """MONAI counts the zeros outside of the image as voxels; its loss is the negative."""
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    loss = losses.LocalNormalizedCrossCorrelationLoss(
        spatial_dims=len(size), kernel_size=5, reduction="none", smooth_nr=0, smooth_dr=1e-12
    )
    images = [leaf(image) for image in pair(generator, 2, 1, *size)]
    inner = (..., *[slice(2, -2)] * len(size))
    found, expected = correlation(*images, None, 5)[inner], -loss(*images)[inner]
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


@pytest.mark.parametrize(("brightness", "contrast"), [(1000, 0.1), (-1e4, 1)])
def test_little_contrast_on_a_bright_image_is_seen(served, generator, brightness, contrast):
    """In sums of float32 the variance, 1e-8 of the mean square, would be all rounding."""
    x, y = ((brightness + contrast * x).float() for x in pair(generator, 1, 1, 9, 8, 7))
    found = value_and_gradients(x, y, served, window=5)
    exact = [leaf(image.double() - brightness) for image in (x, y)]
    expected = reference.lncc(*exact, None, 5)
    torch.testing.assert_close(found[0], expected.detach().float(), rtol=1e-6, atol=0)
    for a, b in zip(found[1:], torch.autograd.grad(expected.sum(), exact), strict=True):
        assert (a - b).norm() <= 1e-5 * b.norm()


def test_little_contrast_beside_darkness_is_seen(served, generator):
    """Nothing can be subtracted there; a value is rounded by 5e-4 of the contrast itself."""
    x, y = (image.float() for image in pair(generator, 1, 1, 9, 8, 20))
    x[..., 10:] += 1e4
    y[..., 10:] += 1e4
    found = value_and_gradients(x, y, served, window=5)
    exact = [leaf(image.double()) for image in (x, y)]
    expected = reference.lncc(*exact, None, 5)
    torch.testing.assert_close(found[0], expected.detach().float(), rtol=1e-4, atol=0)
    for a, b in zip(found[1:], torch.autograd.grad(expected.sum(), exact), strict=True):
        assert (a - b).norm() <= 5e-3 * b.norm()


@pytest.mark.parametrize("counted", ["inside", "zeros", "mask"])
@pytest.mark.parametrize(
    ("window", "size"),
    [(31, (70, 20)), (31, (2, 20, 36)), (15, (20, 2, 18)), (7, (20, 18, 9)), (41, (5, 6))],
    ids=str,
)
def test_windows_of_any_size_are_as_defined(served, generator, window, size, counted):
    """Of which most are merged from parts: ends and beginnings of blocks of rows."""
    x, y = pair(generator, 1, 1, *size)
    options = {} if counted == "mask" else {"border": counted}
    if counted == "mask":
        mask = torch.rand(1, 1, *size, generator=generator, dtype=torch.float64)
        options["mask"] = mask.where(mask > 0.5, 0)
    found = value_and_gradients(x, y, served, window=window, **options)
    leaves = [leaf(image) for image in (x, y)]
    expected = reference.lncc(*leaves, window=window, **options)
    assert_close(found[0], expected, torch.float64)
    for a, b in zip(found[1:], torch.autograd.grad(expected.sum(), leaves), strict=True):
        assert_close(a / b.abs().max(), b / b.abs().max(), torch.float64)


@pytest.mark.parametrize(
    ("dark", "value_rounding", "gradient_rounding"), [(False, 1e-6, 1e-5), (True, 1e-4, 5e-3)]
)
@pytest.mark.parametrize("size", [(70, 45), (2, 20, 36)], ids=str)
def test_little_contrast_in_large_windows_is_seen(
    served, generator, size, dark, value_rounding, gradient_rounding
):
    """On a bright image; also where, because of a dark voxel, nothing can be subtracted."""
    x, y = ((1e4 + image).float() for image in pair(generator, 1, 1, *size))
    if dark:
        x[..., :1, :1] = y[..., :1, :1] = 0
    found = value_and_gradients(x, y, served, window=31)
    exact = [leaf(image.double() - 1e4) for image in (x, y)]
    expected = reference.lncc(*exact, window=31)
    torch.testing.assert_close(found[0], expected.detach().float(), rtol=value_rounding, atol=0)
    for a, b in zip(found[1:], torch.autograd.grad(expected.sum(), exact), strict=True):
        assert (a - b).norm() <= gradient_rounding * b.norm()


@pytest.mark.parametrize("squared", [True, False])
def test_registration_does_not_stall_on_flat_regions(squared):
    """A blob on a flat background, of which most windows hold nothing, finds its place."""
    z = torch.linspace(-1, 1, 33)
    blob = torch.exp(-((z[:, None] ** 2) + z**2) / 0.02)[None, None]
    blob = blob.where(blob > 0.05, 0.0)
    fixed = blob.roll(3, -1)
    shift = torch.zeros(1, 2, 1, 1, requires_grad=True)
    optimiser = torch.optim.Adam([shift], lr=0.2)
    for _ in range(60):
        warped = plasticine.warp(blob, shift.expand(1, 2, 33, 33))
        loss = -plasticine.lncc(warped, fixed, window=9, squared=squared)
        optimiser.zero_grad()
        loss.sum().backward()
        assert shift.grad.isfinite().all()
        optimiser.step()
    torch.testing.assert_close(
        shift.detach().flatten(), torch.tensor([0.0, -3.0]), atol=0.2, rtol=0
    )


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("squared", [True, False])
def test_dust_is_flat(served, generator, squared, dtype):
    """What interpolation leaves of nothing: its variance has no inverse in float32."""
    x, y = (image.to(dtype) for image in pair(generator, 1, 1, 7, 24))
    dust = torch.where(torch.arange(24) < 10, x, 1e-21 * x)
    for images in ((dust, y), (y, dust), (dust, dust)):
        result, *gradients = value_and_gradients(*images, served, window=5, squared=squared)
        assert result.isfinite().all()
        assert result.abs() > 0
        for gradient in gradients:
            assert gradient.isfinite().all()
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


def test_what_is_no_bool_does_not_say_whether_to_square():
    with pytest.raises(TypeError, match="squared must be a bool, got str"):
        plasticine.lncc(torch.ones(1, 1, 5, 5), torch.ones(1, 1, 5, 5), squared="yes")
