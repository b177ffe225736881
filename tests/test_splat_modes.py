"""The cubic modes of plasticine.splat: the adjoint of plasticine.warp in these modes."""

from __future__ import annotations

import functools
import math

import comparison
import pytest
import torch
from comparison import assert_same_sums, order_of_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import Splat
from plasticine.ops._checks import CUBIC_MODES, PADDINGS
from plasticine.ops._kernels import SHARED_SIZE
from plasticine.ops.splat import SPLAT

OPERATOR = "splat"

# Every mode with every value of prefilter that means something there.
MODES = (("cubic", True), ("bspline", False), ("bspline", True))
ROUNDING = comparison.ROUNDING | {torch.float32: 3e-5}
assert_close = functools.partial(comparison.assert_close, rounding=ROUNDING)
# Sizes of the image and of the result.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-long": ((5, 67), (4, 83)),
    "2d-thin": ((1, 9), (5, 1)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-long": ((3, 4, 35), (4, 3, 51)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
}


def make_inputs(
    generator: torch.Generator, size: tuple[int, ...], *, batch: int = 2, channels: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 image, displacement (reaching well outside) and affine near the identity."""
    ndim = len(size)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    affine = torch.eye(ndim, ndim + 1, dtype=torch.float64) + randn(batch, ndim, ndim + 1) * 0.2
    return randn(batch, channels, *size), randn(batch, ndim, *size) * 2.5, affine


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_equals_the_float64_reference(served, generator, size, dtype):
    """Result and all three gradients; every mode and padding, with and without an affine."""
    spatial, target = SIZES[size]
    rounded = [x.to(dtype) for x in make_inputs(generator, spatial)]
    for mode, prefilter in MODES:
        for padding in PADDINGS:
            inputs = [x.to(served.device, copy=True).requires_grad_() for x in rounded]
            exact = [x.to(torch.float64, copy=True).requires_grad_() for x in rounded]
            if padding == "zeros" and prefilter:
                inputs[2] = exact[2] = None
            result = plasticine.splat(
                *inputs[:2],
                affine=inputs[2],
                size=target,
                mode=mode,
                padding=padding,
                prefilter=prefilter,
                backend=served.backend,
            )
            assert result.dtype == dtype
            assert result.is_contiguous()
            expected = reference.splat(*exact, target, mode, padding, prefilter)
            assert_close(result, expected, dtype)

            grad = torch.randn(expected.shape, generator=generator).to(dtype)
            result.backward(grad.to(served.device))
            expected.backward(grad.double())
            for x, y in zip(inputs, exact, strict=True):
                if x is not None:
                    assert x.grad.dtype == dtype
                    assert_close(x.grad, y.grad, dtype)


@pytest.mark.parametrize(("mode", "prefilter"), MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", ["2d", "3d"])
def test_is_the_transposed_matrix_of_warp(served, generator, size, mode, prefilter, padding):
    """The matrix of warp, column by column, from images that are 1 in one voxel."""
    spatial, target = SIZES[size]
    image, displacement, affine = make_inputs(generator, spatial, batch=1, channels=1)
    units = torch.eye(math.prod(target), dtype=torch.float64)
    options = {"mode": mode, "padding": padding, "prefilter": prefilter}
    matrix = plasticine.warp(
        units.view(1, -1, *target), displacement, affine=affine, **options
    ).flatten(2)[0]
    result = plasticine.splat(
        image.to(served.device),
        displacement.to(served.device),
        affine=affine.to(served.device),
        size=target,
        backend=served.backend,
        **options,
    )
    assert_close(result.flatten(), matrix @ image.flatten(), torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_the_adjoint_identity_on_a_grid_of_many_blocks(served, generator, mode, dtype):
    """``<splat(y, u), x> = <y, warp(x, u)>`` where several threads and ranges take part."""
    target = (23, 18, 30)
    image, displacement, affine = (
        x.to(served.device, dtype) for x in make_inputs(generator, (14, 21, 37), batch=1)
    )
    assert displacement.numel() >= SHARED_SIZE
    other = torch.randn(1, 3, *target, generator=generator).to(image)
    for padding in PADDINGS:
        options = {"affine": affine, "mode": mode, "padding": padding, "backend": served.backend}
        pushed = plasticine.splat(image, displacement, size=target, **options)
        pulled = plasticine.warp(other, displacement, **options)
        left = (pushed.double() * other.double()).sum()
        right = (image.double() * pulled.double()).sum()
        size = (image.double() * pulled.double()).abs().sum()
        assert (left - right).abs() < ROUNDING[dtype] * size


@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_what_is_kept(served, generator, mode):
    image, displacement, _ = make_inputs(generator, SIZES["3d-long"][0])
    image, displacement = image.to(served.device), displacement.to(served.device)
    for padding in ("border", "reflection"):
        result = plasticine.splat(
            image, displacement, mode=mode, padding=padding, backend=served.backend
        )
        torch.testing.assert_close(result.sum((2, 3, 4)), image.sum((2, 3, 4)))


def test_prefilter_is_the_adjoint_of_spline_coefficients(served, generator):
    """The splat without it, then the adjoint; at zero displacement both undo each other."""
    image, displacement, _ = (x.to(served.device) for x in make_inputs(generator, SIZES["3d"][0]))
    for padding in PADDINGS:
        still = plasticine.splat(
            image,
            torch.zeros_like(displacement),
            mode="bspline",
            padding=padding,
            backend=served.backend,
        )
        assert_close(still, image, torch.float64)
        sums = plasticine.splat(
            image,
            displacement,
            mode="bspline",
            padding=padding,
            prefilter=False,
            backend=served.backend,
        )
        result = plasticine.splat(
            image, displacement, mode="bspline", padding=padding, backend=served.backend
        )
        expected = reference.spline_coefficients(sums, padding, adjoint=True)
        assert_close(result, expected, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("mode", "prefilter"), MODES)
def test_half_image_with_a_float32_displacement(served, generator, dtype, mode, prefilter):
    image, displacement, affine = make_inputs(generator, SIZES["3d"][0])
    image, displacement, affine = image.to(dtype), displacement.float(), affine.float()
    inputs = [x.to(served.device).requires_grad_() for x in (image, displacement, affine)]
    exact = [x.detach().double().requires_grad_() for x in (image, displacement, affine)]
    result = plasticine.splat(
        *inputs[:2], affine=inputs[2], mode=mode, prefilter=prefilter, backend=served.backend
    )
    expected = reference.splat(*exact, None, mode, "border", prefilter)
    assert result.dtype == dtype
    assert_close(result, expected, dtype)
    weight = torch.randn(expected.shape, generator=generator).to(dtype)
    result.backward(weight.to(served.device))
    expected.backward(weight.double())
    for x, y in zip(inputs, exact, strict=True):
        assert_close(x.grad, y.grad, x.dtype)


@pytest.mark.parametrize("mode", CUBIC_MODES)
@pytest.mark.parametrize("alone", [0, 1, 2])
def test_a_batch_of_one_meets_a_batch_of_many(served, generator, alone, mode):
    inputs = make_inputs(generator, SIZES["2d"][0], batch=3)
    inputs = [x[:1] if i == alone else x for i, x in enumerate(inputs)]
    inputs = [x.to(served.device).requires_grad_() for x in inputs]
    repeated = [x.repeat(3 // x.shape[0], *[1] * (x.dim() - 1)) for x in inputs]
    options = {"mode": mode, "backend": served.backend}
    result = plasticine.splat(*inputs[:2], affine=inputs[2], **options)
    expected = plasticine.splat(*repeated[:2], affine=repeated[2], **options)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    gradients = torch.autograd.grad(result.square().sum(), inputs)
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    for x, y in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(("mode", "prefilter"), MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_nan_coordinate_is_added_nowhere(served, generator, mode, prefilter, padding):
    image, displacement, _ = make_inputs(generator, SIZES["2d-long"][0])
    without = image.clone()
    without[0, :, 2, 3] = 0
    expected = reference.splat(without, displacement, None, None, mode, padding, prefilter)
    displacement[0, 1, 2, 3] = math.nan
    inputs = [x.to(served.device).requires_grad_() for x in (image, displacement)]
    result = plasticine.splat(
        *inputs, mode=mode, padding=padding, prefilter=prefilter, backend=served.backend
    )
    assert_close(result, expected, torch.float64)
    result.square().sum().backward()
    # The gradient to the image is warp, which has no value there, and only there.
    assert inputs[0].grad[0, :, 2, 3].isnan().all()
    assert inputs[0].grad.isnan().sum() == 3
    assert inputs[1].grad.isnan().sum() == 2


@pytest.mark.parametrize(
    ("image_shape", "size"),
    [
        ((0, 2, 4, 5), (4, 5)),
        ((2, 0, 4, 5), (3, 3)),
        ((2, 3, 0, 5), (4, 5)),
        ((2, 3, 0, 5), (0, 5)),
        ((1, 2, 3, 0, 5), (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_empty_tensors(served, image_shape, size, mode):
    ndim = len(size)
    image = torch.ones(image_shape, device=served.device, requires_grad=True)
    displacement = torch.ones(image_shape[0], ndim, *image_shape[2:], device=served.device)
    displacement.requires_grad_()
    result = plasticine.splat(image, displacement, size=size, mode=mode, backend=served.backend)
    assert torch.equal(result, torch.zeros(*image_shape[:2], *size, device=served.device))
    result.sum().backward()
    for x in (image, displacement):
        assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize(("mode", "prefilter"), MODES)
def test_gradcheck(served, generator, mode, prefilter):
    for size in ("2d", "3d"):
        spatial, target = SIZES[size]
        inputs = [x.to(served.device) for x in make_inputs(generator, spatial, batch=1)]
        inputs = [x.requires_grad_() for x in inputs]
        for padding in PADDINGS:
            torch.autograd.gradcheck(
                lambda y, u, a, padding=padding, target=target: plasticine.splat(
                    y,
                    u,
                    affine=a,
                    size=target,
                    mode=mode,
                    padding=padding,
                    prefilter=prefilter,
                    backend=served.backend,
                ),
                inputs,
                fast_mode=True,
                nondet_tol=order_of_sums(inputs[0]),
            )


@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_second_derivatives_are_those_of_warp(served, generator, mode):
    """The gradient to the image is a warp, which differentiates once; what cannot, says so."""
    image, displacement, _ = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"][0]))
    image.requires_grad_()
    torch.autograd.gradgradcheck(
        lambda y: plasticine.splat(y, displacement, mode=mode, backend=served.backend),
        [image],
        fast_mode=True,
        nondet_tol=order_of_sums(image),
    )
    leaf = displacement.clone().requires_grad_()
    result = plasticine.splat(image, leaf, mode=mode, backend=served.backend)
    (gradient,) = torch.autograd.grad(result.square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="second derivative"):
        gradient.sum().backward()


@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_the_same_bits_for_any_number_of_threads(native, generator, mode):
    inputs = [x.float() for x in make_inputs(generator, (13, 11, 37), batch=1)]
    inputs[1][:, :, :5] -= 4  # crowd one border
    assert inputs[1].numel() >= SHARED_SIZE
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            runs.append(plasticine.splat(*inputs[:2], affine=inputs[2], mode=mode, backend="cpu"))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_opcheck_and_compile(served, generator, mode):
    image, displacement, affine = (
        x.to(served.device).requires_grad_() for x in make_inputs(generator, SIZES["2d"][0])
    )
    arguments = (image, displacement, affine, [6, 9], mode, "border", served.backend)
    torch.library.opcheck(SPLAT.overload, arguments)

    def function(image: Tensor, displacement: Tensor) -> Tensor:
        return plasticine.splat(image, displacement * 2, mode=mode, backend=served.backend).sum(2)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    result, expected = compiled(image, displacement), function(image, displacement)
    torch.testing.assert_close(result, expected)
    leaves = (image, displacement)
    gradients = torch.autograd.grad(result.square().sum(), leaves)
    wanted = torch.autograd.grad(expected.square().sum(), leaves)
    for x, y in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_function_transforms(served, generator, mode):
    image, displacement, _ = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"][0]))

    def loss(displacement: Tensor, image: Tensor) -> Tensor:
        splat = plasticine.splat(image, displacement, mode=mode, backend=served.backend)
        return splat.square().sum()

    leaf = displacement.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, image), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(displacement, image), expected)
    per_sample = torch.vmap(torch.func.grad(loss))(displacement[:, None], image[:, None])
    torch.testing.assert_close(per_sample[:, 0], expected)


def test_the_module(served, generator):
    image, displacement, _ = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"][0]))
    module = Splat("bspline", "reflection", prefilter=False, backend=served.backend)
    expected = plasticine.splat(
        image,
        displacement,
        size=(6, 9),
        mode="bspline",
        padding="reflection",
        prefilter=False,
        backend=served.backend,
    )
    assert_same_sums(module(image, displacement, size=(6, 9)), expected)
    assert "mode='bspline', padding='reflection', prefilter=False" in repr(module)


@pytest.mark.parametrize("prefilter", [True, False])
def test_refused_inputs(prefilter):
    image, field = torch.zeros(2, 3, 4, 5), torch.zeros(2, 2, 4, 5)
    options = {"mode": "bspline", "prefilter": prefilter}
    with pytest.raises(TypeError, match="displacement must have the dtype of image"):
        plasticine.splat(image, field.half(), **options)
    with pytest.raises(ValueError, match="same spatial size"):
        plasticine.splat(image, field[..., :4], **options)
    with pytest.raises(ValueError, match="padding must be one of 'zeros'"):
        plasticine.splat(image, field, padding="edge", **options)
    with pytest.raises(RuntimeError, match="cannot serve splat on cpu"):
        plasticine.splat(image, field, backend="triton", **options)
