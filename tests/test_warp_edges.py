"""plasticine.warp at its edges: NaN, far away, empty, beyond 32 bits."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import PADDINGS, assert_close, away_from, leaf
from torch import Tensor

import plasticine
from plasticine import reference

OPERATOR = "warp"

MODES = ("linear", "nearest")
# Of image and output.
SIZES = {
    "2d-long": ((5, 67), (4, 83)),
    "3d-long": ((3, 4, 35), (4, 3, 51)),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("sizes", [SIZES["2d-long"], SIZES["3d-long"]], ids=["2d", "3d"])
def test_nan_and_infinite_displacements(served, warp_inputs, mode, padding, sizes):
    """They change the result and the gradients at their own voxels, and nothing else."""
    image, displacement, _ = warp_inputs(sizes)
    clean = displacement.clone()
    ndim = len(sizes[1])
    nan = (0, slice(None), *[1] * ndim)
    above = (1, slice(None), *[2] * ndim)
    below = (1, slice(None), *[1] * ndim)
    displacement[nan][0] = math.nan
    displacement[above] = math.inf
    displacement[below] = -math.inf

    def run(field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        inputs = [leaf(x, dtype=torch.float32, device=served.device) for x in (image, field)]
        result = plasticine.warp(*inputs, mode=mode, padding=padding, backend=served.backend)
        grad = torch.ones_like(result)
        for place in (nan, above, below):
            # The three voxels ask for nothing in the clean run, so that the two are comparable.
            grad[place] = 0 if field is clean else 1
        gradients = torch.autograd.grad(result, inputs, grad)
        return tuple(x.cpu() for x in (result.detach(), *gradients))

    result, grad_image, grad_displacement = run(displacement)
    expected, expected_image, expected_displacement = run(clean)
    assert result[nan].isnan().all()
    if mode == "linear":
        assert grad_displacement[nan].isnan().all()
    else:
        assert not grad_displacement.any()
    last = tuple(n - 1 for n in sizes[0])
    first = (0,) * ndim
    for place, corner in ((above, last), (below, first)):
        if padding == "zeros":
            assert torch.equal(result[place], torch.zeros(3))
        elif padding == "border":
            assert torch.equal(result[place], image[(1, slice(None), *corner)].float())
            expected_image[(1, slice(None), *corner)] += 1
        else:
            assert result[place].isnan().all()
        if padding != "reflection" and mode == "linear":
            assert torch.equal(grad_displacement[place], torch.zeros(ndim))
    assert_close(grad_image, expected_image, torch.float32)
    others = away_from(result, (nan, above, below))
    for x, y in ((result, expected), (grad_displacement, expected_displacement)):
        torch.testing.assert_close(x.movedim(1, -1)[others], y.movedim(1, -1)[others])


def test_zeros_outside_are_zero_whatever_the_image_holds(served):
    image = torch.full((1, 2, 4, 33), math.nan, device=served.device)
    image[:, 1] = math.inf
    image.requires_grad_()
    displacement = torch.full((1, 2, 4, 33), 50.0, device=served.device, requires_grad=True)
    result = plasticine.warp(image, displacement, padding="zeros", backend=served.backend)
    assert torch.equal(result, torch.zeros_like(result))
    result.sum().backward()
    assert torch.equal(image.grad, torch.zeros_like(image))
    assert torch.equal(displacement.grad, torch.zeros_like(displacement))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_huge_displacements(served, warp_inputs, mode, padding):
    """Far beyond the range of an index; finite, and equal to the reference."""
    image = warp_inputs(SIZES["2d-long"])[0]
    displacement = torch.zeros(2, 2, 4, 83, dtype=torch.float64)
    displacement[0, 0] = 2.0**40
    displacement[0, 1] = -(2.0**70)
    displacement[1, 0] = -(2.0**31) - 0.5
    displacement[1, 1] = 2.0**62
    result = plasticine.warp(
        image.to(served.device),
        displacement.to(served.device),
        mode=mode,
        padding=padding,
        backend=served.backend,
    )
    expected = reference.warp(image, displacement, None, mode, padding)
    if padding != "reflection":  # there the position is lost to rounding, by each in its own way
        assert_close(result, expected, torch.float64)
    assert result.isfinite().all()


def test_coordinates_beyond_32_bits(native):
    """An image of one voxel seen 3 * 2**33 times: indices that need 64 bits, hardly any memory."""
    image = torch.full((1, 1, 1, 1), 7.0, dtype=torch.float64).expand(1, 1, 3, 2**33)
    displacement = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    places = [[2.0**31, 2.0**32 + 0.25, 2.0**33 - 4], [2.0**33 - 0.5, 2.0**34, -(2.0**33)]]
    displacement[0, 1] = torch.tensor(places, dtype=torch.float64)
    displacement.requires_grad_()
    result = plasticine.warp(image, displacement, padding="zeros", backend="cpu")
    assert result.flatten().tolist() == [7, 7, 7, 3.5, 0, 0]
    (gradient,) = torch.autograd.grad(result.sum(), displacement)
    assert gradient[0, 1].flatten().tolist() == [0, 0, 0, -7, 0, 0]


def test_cubic_coordinates_beyond_32_bits(native):
    """An image of one voxel seen 3 * 2**33 times: indices that need 64 bits, hardly any memory."""
    image = torch.full((1, 1, 1, 1), 7.0, dtype=torch.float64).expand(1, 1, 3, 2**33)
    displacement = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    places = [[2.0**31, 2.0**32 + 0.25, 2.0**33 - 4], [2.0**33 - 0.5, 2.0**34, -(2.0**33)]]
    displacement[0, 1] = torch.tensor(places, dtype=torch.float64)
    result = plasticine.warp(image, displacement, mode="cubic", backend="cpu")
    torch.testing.assert_close(result, torch.full_like(result, 7.0))
    displacement.requires_grad_()
    result = plasticine.warp(image, displacement, mode="cubic", padding="zeros", backend="cpu")
    assert result[0, 0, 1, 1:].tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(result.sum(), displacement)
    assert gradient.isfinite().all()
