"""plasticine.compose against its definition by warp, and as a composition of maps."""

from __future__ import annotations

import pytest
import torch
from comparison import assert_close
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import Compose

OPERATOR = "compose"

# Sizes of u and of v.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-same-long": ((5, 67), (5, 67)),
    "2d-thin": ((1, 9), (5, 1)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-same-long": ((3, 4, 35), (3, 4, 35)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
}


def make_inputs(
    generator: torch.Generator, sizes: tuple[tuple[int, ...], tuple[int, ...]], batch: int = 2
) -> list[Tensor]:
    ndim = len(sizes[0])
    return [
        torch.randn(batch, ndim, *size, generator=generator, dtype=torch.float64) * 2
        for size in sizes
    ]


def test_warping_twice_is_warping_by_the_composition(served):
    """Exactly so where the field is linear, and interpolation therefore exact."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (6, 7)], indexing="ij")
    y, x = axes
    u = torch.stack([0.1 * y - 0.2 * x + 0.3, 0.05 * y + 0.1 * x - 0.4])[None]
    v = torch.stack([-0.1 * x + 0.2, 0.2 * y - 0.1])[None] * 0.5
    image = (2 * y - 3 * x + 1)[None, None]
    u, v, image = (t.to(served.device) for t in (u, v, image))
    composed = plasticine.compose(u, v, backend=served.backend)
    once = plasticine.warp(image, composed, backend="reference")
    twice = plasticine.warp(plasticine.warp(image, u, backend="reference"), v, backend="reference")
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(once[inner], twice[inner])


def test_identity_on_either_side(served, generator):
    u = make_inputs(generator, SIZES["2d-same-long"])[0].to(served.device)
    identity = torch.zeros_like(u)
    assert torch.equal(plasticine.compose(u, identity, backend=served.backend), u)
    assert torch.equal(plasticine.compose(identity, u, backend=served.backend), u)


def test_one_field_with_itself(served, generator):
    """A tensor on both sides receives both gradients."""
    u = make_inputs(generator, SIZES["2d-same-long"])[0]
    one = u.to(served.device, copy=True).requires_grad_()
    plasticine.compose(one, one, backend=served.backend).square().sum().backward()
    two = u.clone().requires_grad_()
    (reference.warp(two, two) + two).square().sum().backward()
    assert_close(one.grad, two.grad, torch.float64)


def test_the_module(served, generator):
    u, v = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"]))
    module = Compose("reflection", backend=served.backend)
    expected = plasticine.compose(u, v, padding="reflection", backend=served.backend)
    assert torch.equal(module(u, v), expected)
    assert "padding='reflection'" in repr(module)
    with pytest.raises(ValueError, match="padding must be one of"):
        Compose("wrap")


FIELD = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((FIELD.half(), FIELD), {}, TypeError, "u torch.float16 and v torch.float32"),
        ((FIELD, torch.zeros(2, 3, 4, 5)), {}, ValueError, r"v must have shape.*\(2, 3, 4, 5\)"),
        ((FIELD, torch.zeros(2, 3, 4, 5, 6)), {}, ValueError, "same number of spatial axes"),
        ((FIELD, torch.zeros(3, 2, 4, 5)), {}, ValueError, r"batch size.*\(2, 2, 4, 5\).*\(3, 2"),
        ((FIELD[:, :, :0], FIELD), {}, ValueError, "u has no voxels to sample"),
    ],
)
def test_refused_inputs(arguments, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.compose(*arguments, **options)
