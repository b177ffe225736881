"""An axis so long that float32 rounds the coordinate of its last voxel up, to beyond the axis.

The image is zero but for its last voxels, so that a short image with these voxels, in float64, says
what is expected. NaN lies around it in memory, and what is scattered is counted in full.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _compose_backends, _warp_backends
from plasticine.ops._warp_double_backward_backends import DOUBLE_BACKWARD

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
    found = _warp_backends.FORWARD[kernel_backend](image, u, None, mode, padding)
    leaf = tail.requires_grad_()
    expected = reference.warp(leaf, short, None, mode, padding, prefilter=False)
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-5, atol=1e-5)

    needs = (True, True, False)
    gradients = _warp_backends.BACKWARD[kernel_backend](grad, image, u, None, mode, padding, needs)
    (wanted,) = torch.autograd.grad(expected, leaf, grad.double())
    assert_ends(gradients[0], wanted, axis)
    assert gradients[1].isfinite().all()


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("mode", ["linear", "bspline"])
def test_deterministic_scatter(kernel_backend, mode):
    image, tail, places = ends("border")
    u, short = displacements(places, 1)
    grad = torch.rand(1, 1, *u.shape[2:], generator=torch.Generator().manual_seed(6))
    needs = (True, False, False)
    backward = _warp_backends.BACKWARD[kernel_backend]
    gradient = backward(grad, image, u, None, mode, "border", needs)[0]
    leaf = tail.requires_grad_()
    expected = reference.warp(leaf, short, None, mode, "border", prefilter=False)
    (wanted,) = torch.autograd.grad(expected, leaf, grad.double())
    assert_ends(gradient, wanted, 1)


@pytest.mark.parametrize("padding", PADDINGS)
def test_compose(kernel_backend, padding):
    field, tail, places = ends(padding, channels=2)
    v, short = displacements(places, 1)
    grad = torch.rand(v.shape, generator=torch.Generator().manual_seed(6))
    found = _compose_backends.FORWARD[kernel_backend](field, v, padding)
    leaf = tail.requires_grad_()
    expected = reference.warp(leaf, short, None, "linear", padding)
    # What is added, v itself, is so large that float32 holds no fraction of the sum.
    torch.testing.assert_close(found, (expected.detach() + v).float(), rtol=0, atol=2)
    assert found.isfinite().all()
    backward = _compose_backends.BACKWARD[kernel_backend]
    gradient = backward(grad, field, v, padding, (True, False))[0]
    (wanted,) = torch.autograd.grad(expected, leaf, grad.double())
    assert_ends(gradient, wanted, 1)


@pytest.mark.parametrize("padding", PADDINGS)
def test_double_backward(kernel_backend, padding):
    serve: Callable[..., tuple[Tensor | None, ...]] = DOUBLE_BACKWARD[kernel_backend]
    image, tail, places = ends(padding)
    u, short = displacements(places, 1)
    generator = torch.Generator().manual_seed(6)
    grad = torch.rand(1, 1, *u.shape[2:], generator=generator)
    along = torch.rand(u.shape, generator=generator)
    needs = (True, True, True, False)

    def run(serve: Callable[..., tuple[Tensor | None, ...]], *tensors: Tensor) -> list[Tensor]:
        upstream, values, field, direction = tensors
        given = (values, direction, None)
        found = serve(given, upstream, values, field, None, "linear", padding, False, needs)
        return [x for x in found[:3] if x is not None]

    found = run(serve, grad, image, u, along)
    exact = run(reference.warp_double_backward, grad.double(), tail, short, along.double())
    torch.testing.assert_close(found[0].double(), exact[0], rtol=1e-5, atol=1e-5)
    assert_ends(found[1], exact[1], 1)
    torch.testing.assert_close(found[2].double(), exact[2], rtol=1e-5, atol=1e-5)
