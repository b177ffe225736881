"""plasticine.warp against its float64 reference, and against torch.grid_sample."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from comparison import PADDINGS, ROUNDING, assert_close, leaf
from torch import Tensor

import plasticine
from plasticine import reference

OPERATOR = "warp"

MODES = ("linear", "nearest")
# Image and output sizes: odd, unequal, rows longer than a SIMD register, axes of length 1.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-long": ((5, 67), (4, 83)),
    "2d-thin": ((1, 9), (5, 1)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-long": ((3, 4, 35), (4, 3, 51)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
}

# grid_sample recovers integers and ties exactly on these: size - 1 is a power of two.
POWER_OF_TWO_SIZES = (
    ((9, 5), (6, 11)),
    ((5, 65), (4, 83)),
    ((5, 3, 9), (3, 6, 5)),
    ((3, 5, 33), (4, 3, 51)),
)


def grid_sample(image: Tensor, displacement: Tensor, mode: str, padding: str) -> Tensor:
    """The pipeline that warp replaces."""
    axes = [torch.arange(n, dtype=image.dtype) for n in displacement.shape[2:]]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    last = torch.tensor(image.shape[2:], dtype=image.dtype).sub(1)
    grid = (identity + displacement).movedim(1, -1) * 2 / last - 1
    mode = "bilinear" if mode == "linear" else mode
    return F.grid_sample(image, grid.flip(-1), mode, padding, align_corners=True)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_smooth_fields_equal_the_float64_reference(served, generator, dtype, padding):
    """Neighbours side by side, well inside the image and at its edge."""
    for size in ((21, 70), (9, 8, 40)):
        mode = "bilinear" if len(size) == 2 else "trilinear"
        for channels, spread in itertools.product((1, len(size)), (0.2, 2.0)):
            coarse = torch.randn(2, len(size), *[3] * len(size), generator=generator) * spread
            displacement = F.interpolate(coarse, size, mode=mode, align_corners=True)
            # Exact coordinates, away from where the derivative jumps.
            displacement = displacement.mul(16).round().add(0.5).div(16)
            image = torch.randn(2, channels, *size, generator=generator)
            rounded = [x.to(dtype) for x in (image, displacement)]
            inputs = [leaf(x, device=served.device) for x in rounded]
            exact = [leaf(x, dtype=torch.float64) for x in rounded]
            result = plasticine.warp(*inputs, padding=padding, backend=served.backend)
            expected = reference.warp(*exact, padding=padding)
            assert_close(result, expected, dtype)
            grad = torch.randn(expected.shape, generator=generator).to(dtype)
            result.backward(grad.to(served.device))
            expected.backward(grad.double())
            for x, y in zip(inputs, exact, strict=True):
                assert_close(x.grad, y.grad, dtype)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_nearest_copies_voxels_as_they_are(served, generator, dtype, padding):
    """Locations side by side and apart, half way between voxels, beyond the image and nowhere."""
    for size in ((9, 40), (5, 7, 33)):
        image = torch.randn(2, 3, *size, generator=generator).to(dtype)
        for spread in (0.0, 0.3, 8.0):
            offsets = torch.randn(2, len(size), *size, generator=generator) * spread
            displacement = (offsets * 4).round().div(4).add(0.5).to(dtype)
            displacement[0, 0, ..., 3] = torch.nan
            inputs = (image.to(served.device), displacement.to(served.device))
            result = plasticine.warp(
                *inputs, mode="nearest", padding=padding, backend=served.backend
            )
            exact = (image.double(), displacement.double())
            expected = reference.warp(*exact, mode="nearest", padding=padding)
            torch.testing.assert_close(
                result.double().cpu(), expected, rtol=0, atol=0, equal_nan=True
            )


@pytest.mark.parametrize("sizes", POWER_OF_TWO_SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_grid_sample_with_its_gradients(
    served, generator, warp_inputs, sizes, mode, padding
):
    image, displacement, _ = warp_inputs(sizes)
    # Half of the coordinates are exact integers and ties, where conventions show.
    displacement[:, :, ::2] = displacement[:, :, ::2].mul(2).round().div(2)
    inputs = [leaf(x, device=served.device) for x in (image, displacement)]
    exact = [leaf(x) for x in (image, displacement)]
    result = plasticine.warp(*inputs, mode=mode, padding=padding, backend=served.backend)
    expected = grid_sample(*exact, mode, padding)
    assert_close(result, expected, torch.float64)
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    result.backward(grad.to(served.device))
    expected.backward(grad)
    assert_close(inputs[0].grad, exact[0].grad, torch.float64)
    assert_close(inputs[1].grad, exact[1].grad, torch.float64)


def test_the_identity_copies(served, warp_inputs):
    image = warp_inputs(SIZES["3d-long"])[0].to(served.device)
    displacement = image.new_zeros(2, 3, *image.shape[2:])
    for mode in MODES:
        for padding in PADDINGS:
            result = plasticine.warp(
                image, displacement, mode=mode, padding=padding, backend=served.backend
            )
            assert torch.equal(result, image)


def test_component_i_moves_along_axis_i(served):
    image = torch.arange(24.0, device=served.device).view(1, 1, 2, 3, 4)
    displacement = torch.zeros(1, 3, 2, 3, 4, device=served.device)
    displacement[:, 1] = 1
    result = plasticine.warp(image, displacement, padding="zeros", backend=served.backend)
    assert torch.equal(result[0, 0, :, :2], image[0, 0, :, 1:])
    assert torch.equal(result[0, 0, :, 2], torch.zeros(2, 4, device=served.device))


# Against other programs


def test_equals_simpleitk(served, warp_inputs):
    sitk = pytest.importorskip("SimpleITK")
    image, displacement, _ = warp_inputs(((7, 8, 9), (7, 8, 9)), batch=1, channels=1)
    displacement *= 0.5
    moving = sitk.GetImageFromArray(image[0, 0].numpy())
    # ITK orders components x, y, z.
    field = displacement[0].flip(0).movedim(0, -1).contiguous().numpy()
    transform = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(field, isVector=True))
    resampled = sitk.Resample(moving, transform, sitk.sitkLinear, math.nan)
    expected = torch.from_numpy(sitk.GetArrayFromImage(resampled))
    result = plasticine.warp(
        image.to(served.device), displacement.to(served.device), backend=served.backend
    )[0, 0].cpu()
    inside = expected.isfinite()  # ITK's own boundary rule is another
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(result[inside], expected[inside])
