"""An axis so long that float32 rounds the coordinate of its last voxel up, to beyond the axis.

The image is zero but for its last voxels, so that a short image with these voxels, in float64, says
what is expected. NaN lies around it in memory, and what is scattered is counted in full.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import plasticine
from plasticine import reference

LENGTH = 2**24 + 4
TAIL = 8
PADDINGS = ("border", "reflection")
MODES = ("linear", "nearest", "cubic", "bspline")


def test_the_last_voxel_rounds_up():
    assert torch.tensor(float(LENGTH - 1)).item() == LENGTH


def in_a_long_axis(tail: Tensor, axis: int) -> Tensor:
    """A tensor of one row that ends with ``tail``, zero before, with NaN around it in memory."""
    channels = tail.shape[1]
    buffer = torch.zeros(channels, LENGTH + 32)
    buffer[:, :16] = float("nan")
    buffer[:, 16 + LENGTH :] = float("nan")
    buffer[:, 16 + LENGTH - TAIL : 16 + LENGTH] = tail.reshape(channels, TAIL)
    row = buffer[None, :, 16 : 16 + LENGTH]
    return row.unsqueeze(2 if axis == 1 else 3)


def ends(padding: str, channels: int = 1, axis: int = 1) -> tuple[Tensor, Tensor, list[float]]:
    """The image in full and its tail in float64, and where both are sampled, from the tail on."""
    generator = torch.Generator().manual_seed(5)
    values = torch.zeros(1, channels, TAIL, dtype=torch.float64)
    values[..., -3:] = torch.rand(1, channels, 3, generator=generator) + 0.5
    tail = values.unsqueeze(2 if axis == 1 else 3)
    # The last voxel; the one before, which float32 holds, too; and one far outside.
    places = [TAIL - 1.0, TAIL - 2.0] + ([TAIL + 40.0] if padding == "border" else [])
    return in_a_long_axis(tail.float(), axis), tail, places


def displacements(places: list[float], axis: int) -> tuple[Tensor, Tensor]:
    """Those that lead a line of voxels at 0 of the axis to their places, in both images."""
    short = torch.zeros(1, 2, len(places), dtype=torch.float64)
    short[:, axis] = torch.tensor(places, dtype=torch.float64)
    short[:, 1 - axis] = -torch.arange(len(places), dtype=torch.float64)
    short = short.unsqueeze(2 + axis)
    long = short.clone()
    long[:, axis] += LENGTH - TAIL
    return long.float(), short


def assert_ends(found: Tensor, expected: Tensor, axis: int) -> None:
    """That a gradient is what the tail's is, and zero before it."""
    row = found.squeeze(2 if axis == 1 else 3).double()
    wanted = expected.squeeze(2 if axis == 1 else 3)
    torch.testing.assert_close(row[..., -TAIL:], wanted, rtol=1e-5, atol=1e-5)
    assert not row[..., :-TAIL].any()


@pytest.mark.parametrize(("mode", "axis"), [("linear", 0), *((mode, 1) for mode in MODES)])
@pytest.mark.parametrize("padding", PADDINGS)
def test_warp(kernel_backend, mode, padding, axis):
    image, tail, places = ends(padding, axis=axis)
    u, short = displacements(places, axis)
    grad = torch.rand(1, 1, *u.shape[2:], generator=torch.Generator().manual_seed(6))
    options = {"mode": mode, "padding": padding, "prefilter": False}
    image.requires_grad_()
    u.requires_grad_()
    found = plasticine.warp(image, u, **options, backend=kernel_backend)
    leaf = tail.requires_grad_()
    expected = reference.warp(leaf, short, None, mode, padding, prefilter=False)
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-5)

    gradients = torch.autograd.grad(found, (image, u), grad)
    (wanted,) = torch.autograd.grad(expected, leaf, grad.double())
    assert_ends(gradients[0], wanted, axis)
    assert gradients[1].isfinite().all()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("mode", ["linear", "bspline"])
def test_deterministic_scatter(kernel_backend, mode):
    image, tail, places = ends("border")
    u, short = displacements(places, 1)
    grad = torch.rand(1, 1, *u.shape[2:], generator=torch.Generator().manual_seed(6))
    image.requires_grad_()
    options = {"mode": mode, "padding": "border", "prefilter": False}
    found = plasticine.warp(image, u, **options, backend=kernel_backend)
    (gradient,) = torch.autograd.grad(found, image, grad)
    leaf = tail.requires_grad_()
    expected = reference.warp(leaf, short, None, mode, "border", prefilter=False)
    (wanted,) = torch.autograd.grad(expected, leaf, grad.double())
    assert_ends(gradient, wanted, 1)


@pytest.mark.parametrize("padding", PADDINGS)
def test_compose(kernel_backend, padding):
    field, tail, places = ends(padding, channels=2)
    v, short = displacements(places, 1)
    grad = torch.rand(v.shape, generator=torch.Generator().manual_seed(6))
    field.requires_grad_()
    found = plasticine.compose(field, v, padding=padding, backend=kernel_backend)
    leaf = tail.requires_grad_()
    expected = reference.warp(leaf, short, None, "linear", padding)
    # What is added, v itself, is so large that float32 holds no fraction of the sum.
    torch.testing.assert_close(found, (expected.detach() + v).float(), rtol=0, atol=2)
    assert found.isfinite().all()
    (gradient,) = torch.autograd.grad(found, field, grad)
    (wanted,) = torch.autograd.grad(expected, leaf, grad.double())
    assert_ends(gradient, wanted, 1)
