"""plasticine.spline_coefficients against its definition, against SciPy, and at its edges."""

from __future__ import annotations

import functools
import math

import comparison
import pytest
import torch
from comparison import PADDINGS
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.ops._kernels import SHARED_SIZE
from plasticine.ops.spline_coefficients import SPLINE_COEFFICIENTS

OPERATOR = "spline_coefficients"

ROUNDING = comparison.ROUNDING | {torch.float32: 2e-6}
assert_close = functools.partial(comparison.assert_close, rounding=ROUNDING)
# Odd sizes, axes of one and two voxels, more lines than are solved at once.
SIZES = ((7, 5), (1, 9), (2, 1), (37, 70), (4, 3, 35), (1, 2, 3), (5, 67, 1), (3, 18, 6))


def make_image(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_equals_the_float64_reference(served, generator, dtype, size, padding):
    image = make_image(generator, 2, 3, *size).to(dtype)
    leaf = image.to(served.device, copy=True).requires_grad_()
    exact = image.double().requires_grad_()
    result = plasticine.spline_coefficients(leaf, padding=padding, backend=served.backend)
    expected = reference.spline_coefficients(exact, padding)
    assert result.dtype == dtype
    assert result.is_contiguous()
    assert_close(result, expected, dtype)
    grad = make_image(generator, *image.shape).to(dtype)
    (found,) = torch.autograd.grad(result, leaf, grad.to(served.device))
    (gradient,) = torch.autograd.grad(expected, exact, grad.double())
    assert found.dtype == dtype
    assert_close(found, gradient, dtype)


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


def test_strides_do_not_matter(served, generator):
    image = make_image(generator, 2, 3, 5, 6, 20).to(served.device)
    expected = plasticine.spline_coefficients(image, backend=served.backend)
    larger = torch.full([2 * n for n in image.shape], math.nan, dtype=image.dtype)
    views = [
        image.movedim(1, -1).contiguous().movedim(-1, 1),
        image.transpose(2, 4).contiguous().transpose(2, 4),
        larger.to(served.device)[::2, ::2, ::2, ::2, ::2].copy_(image),
    ]
    for view in views:
        assert not view.is_contiguous()
        result = plasticine.spline_coefficients(view, backend=served.backend)
        assert result.is_contiguous()
        assert_close(result, expected.cpu(), torch.float64)
    one = image[:1, :, :1].expand(2, -1, 4, -1, -1)
    result = plasticine.spline_coefficients(one, backend=served.backend)
    expected = plasticine.spline_coefficients(one.contiguous(), backend=served.backend)
    assert_close(result, expected.cpu(), torch.float64)


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


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (2, 0, 4, 5), (2, 2, 0, 5), (1, 3, 2, 3, 0)])
def test_empty_tensors(served, shape):
    image = torch.ones(shape, device=served.device, requires_grad=True)
    result = plasticine.spline_coefficients(image, backend=served.backend)
    assert result.shape == shape
    result.sum().backward()
    assert image.grad.shape == shape


@pytest.mark.parametrize("padding", PADDINGS)
def test_differentiable_any_number_of_times(served, generator, padding):
    image = make_image(generator, 1, 2, 4, 5).to(served.device).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return plasticine.spline_coefficients(x, padding=padding, backend=served.backend)

    torch.autograd.gradcheck(function, image)
    torch.autograd.gradgradcheck(function, image)


def test_the_same_bits_for_any_number_of_threads(native, generator):
    image = make_image(generator, 1, 2, 17, 18, 33).float()
    assert image.numel() >= SHARED_SIZE
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            runs.append(plasticine.spline_coefficients(image, backend="cpu"))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_opcheck(served, generator):
    for adjoint in (False, True):
        image = make_image(generator, 2, 1, 5, 6).to(served.device).requires_grad_()
        arguments = (image, "border", adjoint, served.backend)
        torch.library.opcheck(SPLINE_COEFFICIENTS.overload, arguments)


def test_compiles_into_one_graph(served, generator):
    image = make_image(generator, 2, 1, 5, 6).to(served.device).requires_grad_()

    def function(x: Tensor) -> Tensor:
        return plasticine.spline_coefficients(x * 2, backend=served.backend).square().sum((2, 3))

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    result, expected = compiled(image), function(image)
    torch.testing.assert_close(result, expected)
    (found,) = torch.autograd.grad(result.sum(), image)
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), image)[0])


def test_function_transforms(served, generator):
    image = make_image(generator, 3, 1, 5, 6).to(served.device)

    def loss(x: Tensor) -> Tensor:
        return plasticine.spline_coefficients(x, backend=served.backend).square().sum()

    leaf = image.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(image), expected)
    per_sample = torch.vmap(torch.func.grad(loss))(image[:, None])
    torch.testing.assert_close(per_sample[:, 0], expected)
    tangent = make_image(generator, *image.shape).to(served.device)
    _, along = torch.func.jvp(
        lambda x: plasticine.spline_coefficients(x, backend=served.backend), (image,), (tangent,)
    )
    torch.testing.assert_close(
        along, plasticine.spline_coefficients(tangent, backend=served.backend)
    )


IMAGE = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("image", "options", "error", "message"),
    [
        ("i", {}, TypeError, "image must be a torch.Tensor, got str"),
        (IMAGE.long(), {}, TypeError, r"image must be float32.*got torch.int64"),
        (IMAGE[0], {}, ValueError, r"image must have shape \(N, C, y, x\).*got shape \(3, 4, 5\)"),
        (IMAGE, {"padding": "mirror"}, ValueError, "padding must be one of 'zeros', 'border'"),
        (IMAGE, {"backend": "cuda"}, RuntimeError, "cannot serve spline_coefficients on cpu"),
    ],
)
def test_refused_inputs(image, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.spline_coefficients(image, **options)
