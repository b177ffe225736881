"""plasticine.warp_exponential against its definition, and against the two operators it fuses."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import WarpExponential

OPERATOR = "warp_exponential"

METHODS = ("euler", "midpoint", "rk4")
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
        (IMAGE, VELOCITY.double(), {}, TypeError, "velocity must have the dtype of image"),
        (IMAGE, VELOCITY.half(), {}, TypeError, "velocity must have the dtype of image"),
        (IMAGE, VELOCITY, {"steps": 1.5}, TypeError, "steps must be an int, got float"),
        (IMAGE, VELOCITY, {"mode": "cubic"}, ValueError, "mode must be one of 'linear', 'nearest'"),
    ],
)
def test_refused_inputs(image, velocity, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.warp_exponential(image, velocity, **options)
