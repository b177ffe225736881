"""The operator behind plasticine.warp's cubic modes: gradients, transforms, threads, its module."""

from __future__ import annotations

import pytest
import torch

import plasticine
from plasticine.nn import Warp

OPERATOR = "warp"

# Sizes of the image and of the result.
SIZES = {"2d": ((7, 5), (6, 9)), "3d-small": ((2, 2, 2), (3, 4, 5))}


def test_coordinates_beyond_32_bits(native):
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


def test_the_module(served, warp_inputs):
    image, displacement, affine = (x.to(served.device) for x in warp_inputs(SIZES["2d"]))
    module = Warp("bspline", "zeros", prefilter=False, backend=served.backend)
    expected = plasticine.warp(
        image,
        displacement,
        affine=affine,
        mode="bspline",
        padding="zeros",
        prefilter=False,
        backend=served.backend,
    )
    assert torch.equal(module(image, displacement, affine), expected)
    assert "mode='bspline', padding='zeros', prefilter=False" in repr(module)
    assert "prefilter" not in repr(Warp("cubic"))


def test_float32_coefficients_of_a_half_image_only(warp_inputs):
    image, displacement, _ = warp_inputs(SIZES["2d"])
    with pytest.raises(TypeError, match=r"displacement torch.float16 and image torch.float32"):
        plasticine.warp(image.float(), displacement.half(), mode="bspline")
