"""plasticine.warp_exponential against its definition, and against the two operators it fuses."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from comparison import PADDINGS, order_of_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import WarpExponential
from plasticine.ops._kernels import SHARED_SIZE
from plasticine.ops.warp_exponential import WARP_EXPONENTIAL, WARP_EXPONENTIAL_BACKWARD

OPERATOR = "warp_exponential"

METHODS = ("euler", "midpoint", "rk4")
ROUNDING = {
    torch.float64: 1e-12,
    torch.float32: 2e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}
# Of the velocity, and of the image.
SIZES = {
    "2d": ((7, 5), (7, 5)),
    "2d-long": ((5, 67), (6, 60)),
    "3d": ((5, 4, 7), (5, 4, 7)),
    "3d-other": ((3, 4, 35), (4, 3, 36)),
    "3d-thin": ((4, 1, 3), (4, 1, 3)),
}


def inputs(generator: torch.Generator, size: str, *, batch: int = 2) -> tuple[Tensor, Tensor]:
    """A smooth float64 image of two channels, and a smooth velocity of up to about two voxels."""
    spatial, image_spatial = SIZES[size]
    mode = "bilinear" if len(spatial) == 2 else "trilinear"

    def smooth(channels: int, target: tuple[int, ...]) -> Tensor:
        coarse_size = (batch, channels, *[3] * len(target))
        coarse = torch.randn(coarse_size, generator=generator, dtype=torch.float64)
        return F.interpolate(coarse, target, mode=mode, align_corners=True)

    return smooth(2, image_spatial), smooth(len(spatial), spatial)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_equals_the_float64_definition(served, generator, method, size, dtype):
    rounded = [x.to(dtype) for x in inputs(generator, size)]
    for mode, steps, padding in itertools.product(("linear", "nearest"), (0, 1, 4), PADDINGS):
        leaves = [x.to(served.device, copy=True).requires_grad_() for x in rounded]
        exact = [x.to(torch.float64, copy=True).requires_grad_() for x in rounded]
        other = PADDINGS[PADDINGS.index(padding) - 1]
        result = plasticine.warp_exponential(
            *leaves,
            steps=steps,
            method=method,
            mode=mode,
            padding=padding,
            field_padding=other,
            backend=served.backend,
        )
        expected = reference.warp_exponential(*exact, steps, method, mode, padding, other)
        assert result.dtype == dtype
        error = (result.detach().double().cpu() - expected.detach()).abs()
        scale = 10 * ROUNDING[dtype] * max(1.0, expected.abs().max().item())
        # In nearest mode a coordinate may round to the other neighbour.
        assert error.flatten().quantile(0.97 if mode == "nearest" else 1.0) <= scale
        grad = torch.randn(result.shape, generator=generator).to(dtype)
        result.backward(grad.to(served.device))
        expected.backward(grad.double())
        assert leaves[0].grad.dtype == dtype
        assert leaves[1].grad.dtype == dtype
        if mode == "nearest":
            assert not leaves[1].grad.any()
            continue
        for x, y in zip(leaves, exact, strict=True):
            difference = (x.grad.double().cpu() - y.grad).abs() / y.grad.abs().max().clamp_min(1e-9)
            assert difference.flatten().quantile(0.9) < 10 * ROUNDING[dtype]
            assert difference.max() < (1e-9 if dtype == torch.float64 else 0.3)


@pytest.mark.parametrize("method", METHODS)
def test_equals_the_two_operators(served, generator, method):
    image, velocity = (x.to(served.device) for x in inputs(generator, "3d"))
    for steps, checkpoint in itertools.product((0, 1, 2, 3, 5, 8), ("store", "recompute")):
        leaves = image.clone().requires_grad_(), velocity.clone().requires_grad_()
        options = {"steps": steps, "method": method, "backend": served.backend}
        result = plasticine.warp_exponential(*leaves, checkpoint=checkpoint, **options)
        u = plasticine.exponential(leaves[1], **options)
        expected = plasticine.warp(leaves[0], u, backend=served.backend)
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
        grad = torch.randn(result.shape, generator=generator, dtype=torch.float64)
        grad = grad.to(served.device)
        found = torch.autograd.grad(result, leaves, grad)
        wanted = torch.autograd.grad(expected, leaves, grad)
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)
        (alone,) = torch.autograd.grad(
            plasticine.warp_exponential(image, leaves[1], checkpoint=checkpoint, **options),
            leaves[1],
            grad,
        )
        # On a GPU the order in which its atomics add shows in the last bits.
        atol = 0 if alone.is_cpu else 1e-11
        torch.testing.assert_close(alone, found[1], rtol=0, atol=atol)


def test_a_float32_velocity_with_a_half_image_and_broadcast_batches(served, generator):
    image, velocity = (x.float().to(served.device) for x in inputs(generator, "2d"))
    options = {"steps": 3, "backend": served.backend}
    expected = plasticine.warp_exponential(image.half().float(), velocity, **options)
    found = plasticine.warp_exponential(image.half(), velocity, **options)
    torch.testing.assert_close(found.float(), expected, rtol=0, atol=2e-3)
    for pair in ((image[:1], velocity), (image, velocity[:1])):
        leaves = [x.clone().requires_grad_() for x in pair]
        result = plasticine.warp_exponential(*leaves, **options)
        full = plasticine.warp_exponential(*(x.expand(2, *x.shape[1:]) for x in pair), **options)
        assert torch.equal(result, full)
        result.sum().backward()
        assert [x.grad.shape for x in leaves] == [x.shape for x in pair]


def test_strided_empty_and_nan(served, generator):
    image, velocity = (x.to(served.device) for x in inputs(generator, "3d-other"))
    options = {"steps": 3, "backend": served.backend}
    expected = plasticine.warp_exponential(image, velocity, **options)
    strided = [x.movedim(1, -1).contiguous().movedim(-1, 1) for x in (image, velocity)]
    result = plasticine.warp_exponential(*strided, **options)
    assert result.is_contiguous()
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-12)
    for shape in ((0, 2, 4, 5), (2, 2, 0, 5)):
        leaves = [torch.ones(shape, device=served.device, requires_grad=True) for _ in range(2)]
        plasticine.warp_exponential(*leaves, **options).sum().backward()
        assert [x.grad.shape for x in leaves] == [shape, shape]
    spoilt = velocity.clone()
    spoilt[0, 0, 1, 1, 1] = torch.nan
    result = plasticine.warp_exponential(image, spoilt, **options)
    assert result[0, :, 1, 1, 1].isnan().all()
    assert torch.equal(result[1], expected[1])
    spoilt_image = image.clone()
    spoilt_image[0, 0] = torch.inf
    result = plasticine.warp_exponential(spoilt_image, velocity, **options)
    assert torch.equal(result[0, 1], expected[0, 1])
    u = plasticine.exponential(velocity, steps=3)
    torch.testing.assert_close(
        result, reference.warp(spoilt_image, u), rtol=0, atol=1e-12, equal_nan=True
    )


@pytest.mark.parametrize("method", METHODS)
def test_gradcheck_twice(served, generator, method):
    image, velocity = (x.to(served.device) for x in inputs(generator, "2d", batch=1))
    for padding in PADDINGS:

        def function(image: Tensor, velocity: Tensor, padding: str = padding) -> Tensor:
            return plasticine.warp_exponential(
                image,
                velocity,
                steps=2,
                method=method,
                padding=padding,
                field_padding=padding,
                backend=served.backend,
            )

        leaves = image.requires_grad_(), velocity.requires_grad_()
        torch.autograd.gradcheck(function, leaves, fast_mode=True, nondet_tol=order_of_sums(image))
        torch.autograd.gradgradcheck(
            function, leaves, fast_mode=True, nondet_tol=order_of_sums(image)
        )


def test_opcheck(served, generator):
    image, velocity = (x.to(served.device) for x in inputs(generator, "2d"))
    options = (3, "midpoint", "linear", "zeros", "border")
    stages = WARP_EXPONENTIAL(image, velocity, *options, True, served.backend)[1]
    assert stages.shape[0] == 3
    for kept, needs in itertools.product((stages, None), ([True, True], [False, True])):
        arguments = (image, image, velocity, kept, *options, served.backend, needs)
        torch.library.opcheck(WARP_EXPONENTIAL_BACKWARD.overload, arguments)
    leaves = image.clone().requires_grad_(), velocity.clone().requires_grad_()
    for store in (True, False):
        arguments = (*leaves, *options, store, served.backend)
        torch.library.opcheck(WARP_EXPONENTIAL.overload, arguments)


@pytest.mark.parametrize("checkpoint", ["store", "recompute"])
def test_compiles_and_maps(served, generator, checkpoint):
    image, velocity = (x.float().to(served.device) for x in inputs(generator, "2d"))

    def function(image: Tensor, velocity: Tensor) -> Tensor:
        return (
            plasticine.warp_exponential(
                image, velocity, steps=4, checkpoint=checkpoint, backend=served.backend
            )
            .square()
            .sum()
        )

    leaves = image.requires_grad_(), velocity.requires_grad_()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")(*leaves)
    expected = torch.autograd.grad(function(*leaves), leaves)
    torch.testing.assert_close(torch.autograd.grad(compiled, leaves), expected)
    mapped = torch.vmap(torch.func.grad(function, argnums=(0, 1)))(
        image.detach()[:, None], velocity.detach()[:, None]
    )
    torch.testing.assert_close(tuple(x[:, 0] for x in mapped), expected)
    one = torch.vmap(torch.func.grad(function, argnums=1), in_dims=(None, 0))(
        image.detach()[:1], velocity.detach()[:, None]
    )
    assert one.shape == velocity[:, None].shape


def test_the_same_bits_for_any_number_of_threads(native, generator):
    image = torch.rand(1, 1, 9, 16, 33, generator=generator).requires_grad_()
    velocity = torch.randn(1, 3, 9, 16, 33, generator=generator).requires_grad_()
    assert velocity.numel() >= SHARED_SIZE
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            result = plasticine.warp_exponential(image, velocity, backend="cpu")
            runs.append((result, *torch.autograd.grad(result.sum(), (image, velocity))))
        finally:
            torch.set_num_threads(before)
    for other in runs[1:]:
        for x, y in zip(runs[0], other, strict=True):
            assert torch.equal(x, y)


def test_auto_and_the_module(served, generator):
    image, velocity = (x.to(served.device) for x in inputs(generator, "2d"))
    for options in ({"steps": "auto"}, {"steps": 2, "method": "midpoint", "mode": "nearest"}):
        options |= {"field_padding": "zeros", "backend": served.backend}
        module = WarpExponential(**options)
        expected = plasticine.warp_exponential(image, velocity, **options)
        assert torch.equal(module(image, velocity), expected)
        assert f"steps={options['steps']!r}" in repr(module)
    with pytest.raises(ValueError, match="mode must be one of 'linear', 'nearest', got 'cubic'"):
        WarpExponential(mode="cubic")


IMAGE = torch.zeros(2, 1, 4, 5)
VELOCITY = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("image", "velocity", "options", "error", "message"),
    [
        (None, VELOCITY, {}, TypeError, "image must be a torch.Tensor"),
        (IMAGE, VELOCITY.int(), {}, TypeError, r"velocity must be float32.*got torch.int32"),
        (IMAGE, VELOCITY.double(), {}, TypeError, "velocity must have the dtype of image"),
        (IMAGE, VELOCITY.half(), {}, TypeError, "velocity must have the dtype of image"),
        (IMAGE, VELOCITY[:, :1], {}, ValueError, r"velocity must have shape"),
        (IMAGE[0], VELOCITY, {}, ValueError, r"image must have shape"),
        (IMAGE, VELOCITY, {"steps": 1.5}, TypeError, "steps must be an int, got float"),
        (IMAGE, VELOCITY, {"method": "heun"}, ValueError, "method must be one of"),
        (IMAGE, VELOCITY, {"mode": "cubic"}, ValueError, "mode must be one of 'linear', 'nearest'"),
        (IMAGE, VELOCITY, {"padding": "wrap"}, ValueError, "padding must be one of"),
        (IMAGE, VELOCITY, {"field_padding": "wrap"}, ValueError, "field_padding must be one of"),
        (IMAGE, VELOCITY, {"checkpoint": "all"}, ValueError, "checkpoint must be one of"),
        (IMAGE, VELOCITY, {"backend": "cuda"}, RuntimeError, "cannot serve warp_exponential"),
    ],
)
def test_refused_inputs(image, velocity, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.warp_exponential(image, velocity, **options)
