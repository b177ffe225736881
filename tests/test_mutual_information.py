"""plasticine.mutual_information against its definition, NumPy's histogram and MONAI."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from comparison import leaf
from refusal import refuses
from scipy.interpolate import BSpline
from torch import Tensor

from plasticine import mutual_information
from plasticine.nn import GlobalMutualInformationLoss
from plasticine.ops._random import stratified

ENDS = (-1.0, 1.0)


def random_image(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).mul(2).sub(1).to(dtype)


def joint_distribution(x: np.ndarray, y: np.ndarray, weights: np.ndarray, bins: int) -> np.ndarray:
    """The estimate written from its formula, with SciPy's spline and full matrices."""
    spline = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)

    def window(values: np.ndarray) -> np.ndarray:
        position = 1 + (values + 1) / 2 * (bins - 3)
        return np.nan_to_num(spline(position[:, None] - np.arange(bins)))

    return np.einsum("v,va,vb->ab", weights, window(x), window(y)) / weights.sum()


def entropy(p: np.ndarray) -> float:
    return float(-(p[p > 0] * np.log(p[p > 0])).sum())


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("bins", [5, 16, 32])
@pytest.mark.parametrize("shape", [(17, 13), (6, 5, 7)])
@pytest.mark.parametrize("mask", [None, "bool", "float"])
def test_equals_its_definition(bins, shape, mask, normalized):
    x = random_image(3, 1, *shape, dtype=torch.float64)
    y = (0.5 * x + 0.5 * random_image(3, 1, *shape, seed=1, dtype=torch.float64)).clamp(-1, 1)
    x[0, 0, 0], y[0, 0, 0] = -1.0, 1.0  # the ends of the range
    weights = torch.ones_like(x)
    if mask == "bool":
        weights = (random_image(*x.shape, seed=2) > 0.2).double()
    elif mask == "float":
        weights = random_image(*x.shape, seed=2, dtype=torch.float64).abs()
    expected = []
    for sample in zip(x, y, weights, strict=True):
        p = joint_distribution(*(t.flatten().numpy() for t in sample), bins)
        apart, both = entropy(p.sum(1)) + entropy(p.sum(0)), entropy(p.ravel())
        expected.append(apart / both if normalized else apart - both)
    given = {None: None, "bool": weights.bool(), "float": weights}[mask]
    options = {"bins": bins, "normalized": normalized, "value_range": ENDS}
    measured = mutual_information(x, y, mask=given, **options)
    assert measured.dtype == torch.float64
    assert measured.tolist() == pytest.approx(expected, abs=1e-12)
    single = mutual_information(
        x.float(), y.float(), mask=weights.float() if mask == "float" else given, **options
    )
    assert single.dtype == torch.float32
    assert single.tolist() == pytest.approx(expected, abs=2e-5)


def test_of_two_equal_classes_is_the_entropy():
    # The windows of the two do not meet, so smoothing takes nothing away.
    x = torch.ones(1, 1, 10, 10, dtype=torch.float64)
    x[..., :5] = -1
    assert mutual_information(x, x).item() == pytest.approx(math.log(2), abs=1e-12)
    assert mutual_information(x, -x).item() == pytest.approx(math.log(2), abs=1e-12)
    assert mutual_information(x, x.mT.contiguous()).item() == pytest.approx(0, abs=1e-12)
    x[..., 1:5] = 1
    expected = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
    assert mutual_information(x, x).item() == pytest.approx(expected, abs=1e-12)


def test_agrees_with_a_plain_histogram():
    """Independent noise, a noisy copy and an inverted copy, against NumPy's histogram."""
    x, noise = random_image(1, 1, 256, 256), random_image(1, 1, 256, 256, seed=1)
    found = {}
    for name, y in (("independent", noise), ("noisy", (x + noise) / 2), ("inverse", -x)):
        counts, _, _ = np.histogram2d(x.flatten(), y.flatten(), bins=29, range=[ENDS] * 2)
        p = counts / counts.sum()
        plain = entropy(p.sum(1)) + entropy(p.sum(0)) - entropy(p.ravel())
        found[name] = mutual_information(x, y, value_range=ENDS).item(), plain
    parzen, plain = found["independent"]
    assert 0 <= parzen < plain < 0.02
    parzen, plain = found["noisy"]
    assert parzen == pytest.approx(plain, rel=0.1)
    # A window four bins wide blurs a copy, whose information is the log of the bins.
    parzen, plain = found["inverse"]
    assert plain == pytest.approx(math.log(29), abs=0.01)
    assert math.log(29 / 4) < parzen < plain


@pytest.mark.parametrize("kernel", ["bspline", "gaussian", "mattes"])
def test_contrast_does_not_matter(kernel):
    x, y = random_image(2, 1, 9, 8, 7), random_image(2, 1, 9, 8, 7, seed=1)
    expected = mutual_information(x, x + y, kernel=kernel)
    found = mutual_information(1000 * x - 300, x + y, kernel=kernel)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalized", [False, True])
def test_is_zero_with_zero_gradient_where_nothing_counts(normalized):
    x = random_image(2, 1, 8, 8).requires_grad_()
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[1] = True
    found = mutual_information(x, x.detach(), mask=mask, normalized=normalized)
    alone = mutual_information(x[1:], x[1:].detach(), normalized=normalized)
    assert found[0] == 0
    assert torch.equal(found[1:], alone)
    found.sum().backward()
    assert (x.grad[0] == 0).all()
    assert x.grad.isfinite().all()
    assert x.grad[1].any()


@pytest.mark.parametrize("kernel", ["bspline", "gaussian"])
@pytest.mark.parametrize("normalized", [False, True])
def test_gradcheck(kernel, normalized):
    x = random_image(2, 1, 4, 3, dtype=torch.float64).requires_grad_()
    y = random_image(2, 1, 4, 3, seed=1, dtype=torch.float64).requires_grad_()
    options = {"bins": 8, "kernel": kernel, "normalized": normalized, "value_range": (-1.1, 1.2)}
    mask = random_image(2, 1, 4, 3, seed=2) > -0.5
    assert torch.autograd.gradcheck(
        lambda a, b: mutual_information(a, b, mask=mask, **options), (x, y)
    )


def test_a_constant_image_has_none():
    x = torch.full((1, 1, 6, 6), 0.25).requires_grad_()
    found = mutual_information(x, random_image(1, 1, 6, 6))
    found.sum().backward()
    assert found.item() == pytest.approx(0, abs=1e-6)
    assert x.grad.isfinite().all()


def test_half_precision_images_are_read_in_float32():
    x, y = (random_image(1, 1, 32, 32, seed=seed).bfloat16() for seed in (0, 1))
    x = x.requires_grad_()
    found = mutual_information(x, y)
    assert found.dtype == torch.float32
    assert found.item() == mutual_information(x.float(), y.float()).item()
    found.sum().backward()
    assert x.grad.dtype == torch.bfloat16


def test_autocast_does_not_lower_its_precision():
    x, y = random_image(1, 1, 32, 32).requires_grad_(), random_image(1, 1, 32, 32, seed=1)
    expected = mutual_information(x, y)
    (gradient,) = torch.autograd.grad(expected.sum(), x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mutual_information(x, y)
        (inside,) = torch.autograd.grad(found.sum(), x)
    assert found.item() == expected.item()
    assert torch.equal(inside, gradient)


def test_compiles_with_sampling_and_a_range_of_its_own():
    x, y = random_image(2, 1, 9, 8, 7).requires_grad_(), random_image(2, 1, 9, 8, 7, seed=1)
    mask = random_image(2, 1, 9, 8, 7, seed=2) > 0

    def function(x: Tensor, y: Tensor) -> Tensor:
        return mutual_information(x, y, mask=mask, sample=0.4, seed=3, normalized=True)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), function(x, y))
    found, expected = (torch.autograd.grad(f(x, y).sum(), x)[0] for f in (compiled, function))
    torch.testing.assert_close(found, expected)


def test_maps():
    x, y = random_image(3, 2, 1, 9, 8), random_image(3, 2, 1, 9, 8, seed=1)
    found = torch.vmap(lambda x, y: mutual_information(x, y, value_range=ENDS))(x, y)
    pairs = zip(x, y, strict=True)
    expected = torch.stack([mutual_information(*pair, value_range=ENDS) for pair in pairs])
    torch.testing.assert_close(found, expected)


# Sampling


@pytest.mark.parametrize(("total", "fraction"), [(1000, 0.25), (997, 0.1), (10, 0.01), (7, 1.0)])
def test_one_of_every_share_is_drawn(total, fraction):
    runs = [stratified(total, fraction, seed, torch.device("cpu")) for seed in range(200)]
    count = max(round(total * fraction), 1)
    edges = torch.arange(count + 1) * total // count
    for drawn in runs:
        assert drawn.shape == (count,)
        assert ((drawn >= edges[:-1]) & (drawn < edges[1:])).all()
    assert torch.equal(runs[3], stratified(total, fraction, 3, torch.device("cpu")))
    # Over the seeds each voxel of a share is as likely as the others.
    mean = torch.stack(runs).double().mean(0) - (edges[:-1] + edges[1:] - 1) / 2
    length = edges.diff().double()
    assert (mean.abs() <= 5 * (length / 12**0.5) / 200**0.5 + 1e-9).all()


def test_some_voxels_say_what_all_say():
    x = random_image(1, 1, 64, 64, 16)
    y = (x + 0.5 * random_image(1, 1, 64, 64, 16, seed=1)).sin()
    mask = random_image(1, 1, 64, 64, 16, seed=2) > -0.5
    options = {"mask": mask, "bins": 16, "value_range": (-1.5, 1.5)}
    expected = mutual_information(x, y, **options)
    x.requires_grad_()
    runs = torch.cat([mutual_information(x, y, sample=0.2, seed=s, **options) for s in range(5)])
    assert runs.unique().numel() == 5
    torch.testing.assert_close(runs.mean(), expected[0], rtol=0.03, atol=0)
    (gradient,) = torch.autograd.grad(runs[0], x)
    runs = stratified(x.numel() // 32, 0.2, 0, x.device)
    drawn = (32 * runs[:, None] + torch.arange(32)).flatten()
    expected = torch.zeros(x.numel(), dtype=torch.bool)
    expected[drawn[mask.flatten()[drawn]]] = True
    assert torch.equal(gradient.flatten() != 0, expected)
    every = mutual_information(x, y, sample=1.0, **options)
    torch.testing.assert_close(every, mutual_information(x, y, **options))


@pytest.mark.parametrize("sample", [0.0, -1.0, 1.5, math.nan])
def test_refuses_to_draw_nothing_or_more_than_all(sample):
    x = random_image(1, 1, 8, 8)
    refuses(ValueError, "sample must be above 0", mutual_information, x, x, sample=sample)


@pytest.mark.parametrize("kernel", ["bspline", "gaussian", "mattes"])
@pytest.mark.parametrize("normalized", [False, True])
def test_differentiates_twice_and_forward(kernel, normalized):
    x, y = (random_image(1, 1, 5, 6, seed=seed).double() for seed in (0, 1))
    mask = random_image(1, 1, 5, 6, seed=2) > -0.5
    options = {"kernel": kernel, "normalized": normalized, "bins": 7, "value_range": (-0.9, 0.8)}

    def function(x, y):
        return mutual_information(x, y, mask=mask, **options)

    how = {"inputs": (leaf(x), leaf(y)), "fast_mode": True}
    assert torch.autograd.gradcheck(function, check_forward_ad=True, **how)
    assert torch.autograd.gradgradcheck(function, check_fwd_over_rev=True, **how)


# MONAI


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("kernel", ["gaussian", "b-spline"])
@pytest.mark.parametrize("bins", [23, 32])
@pytest.mark.parametrize("shape", [(2, 1, 24, 25), (3, 2, 9, 10, 11)], ids=str)
def test_the_module_is_monai_s(shape, kernel, bins, reduction):
    losses = pytest.importorskip("monai.losses", reason="MONAI is not installed")
    x = random_image(*shape).add(1).div(2)
    y = (x + 0.3 * random_image(*shape, seed=1)).clamp(-0.1, 1.1)
    arguments = {"kernel_type": kernel, "num_bins": bins, "reduction": reduction}
    arguments |= {"sigma_ratio": 0.4} if bins == 32 else {}
    runs = []
    for make in (GlobalMutualInformationLoss, losses.GlobalMutualInformationLoss):
        leaves = leaf(x), leaf(y)
        loss = make(**arguments)(*leaves)
        gradients = torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)
        runs.append([loss.detach(), *gradients])
    torch.testing.assert_close(runs[0][0], runs[1][0], rtol=1e-4, atol=0)
    for image, found, expected in zip((x, y), runs[0][1:], runs[1][1:], strict=True):
        compared = torch.ones_like(image, dtype=torch.bool)
        if kernel == "b-spline":  # its gradient runs through the extremes
            compared = (image != image.min()) & (image != image.max())
        scale = expected[compared].abs().max().item()
        torch.testing.assert_close(
            found[compared], expected[compared], rtol=1e-4, atol=1e-4 * scale
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kernel_type": "bspline"}, "kernel_type must be one of 'gaussian', 'b-spline'"),
        ({"reduction": "max"}, "reduction must be one of 'mean'"),
        ({"num_bins": -1}, "num_bins must be 0 or more"),
    ],
)
def test_the_module_refuses_other_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        GlobalMutualInformationLoss(**arguments)


@pytest.mark.parametrize("kernel", ["bspline", "gaussian", "mattes"])
@pytest.mark.parametrize("scale", [1e-41, 1e-38, 1e-30, 1e30, 3e38])
def test_the_unit_of_an_image_does_not_matter(native, generator, scale, kernel):
    """Down to numbers that float32 holds without a leading 1, and up to its largest."""
    x = ((2 * torch.rand(1, 1, 40, 41, generator=generator) - 1) * scale).requires_grad_()
    y = (torch.rand(1, 1, 40, 41, generator=generator) + x.detach() / scale).requires_grad_()
    found = mutual_information(x, y, kernel=kernel, backend="cpu")
    exact = [image.detach().double().requires_grad_() for image in (x, y)]
    expected = mutual_information(*exact, kernel=kernel, backend="reference")
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-5)
    gradients = torch.autograd.grad(found.sum(), [x, y])
    wanted = torch.autograd.grad(expected.sum(), exact, materialize_grads=True)
    for gradient, right in zip(gradients, wanted, strict=True):
        largest = right.abs().max().item()
        if largest < torch.finfo(torch.float32).max:
            assert (gradient.double() - right).abs().max().item() <= 1e-4 * largest
