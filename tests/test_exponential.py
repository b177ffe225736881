"""plasticine.exponential against its definition, and as the exponential of a field."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import assert_same_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import Exponential
from plasticine.ops.exponential import EXPONENTIAL, EXPONENTIAL_BACKWARD

OPERATOR = "exponential"

SIZES = {
    "2d": (7, 5),
    "2d-long": (5, 67),
    "2d-thin": (1, 9),
    "3d": (5, 4, 7),
    "3d-long": (3, 4, 35),
    "3d-thin": (4, 1, 3),
}


def smooth_velocity(
    generator: torch.Generator, size: tuple[int, ...], *, batch: int = 2, peak: float = 2.0
) -> Tensor:
    """A float64 velocity of a few waves, at most ``peak`` voxels."""
    axes = [torch.linspace(0, 1, n, dtype=torch.float64) for n in size]
    positions = torch.meshgrid(*axes, indexing="ij")
    components = []
    for _ in range(batch * len(size)):
        wave = torch.zeros(size, dtype=torch.float64)
        for position in positions:
            frequency, phase = torch.rand(2, generator=generator, dtype=torch.float64)
            wave += torch.sin(2 * math.pi * (1.5 * frequency * position + phase))
        components.append(wave)
    velocity = torch.stack(components).view(batch, len(size), *size)
    return velocity * (peak / velocity.abs().max())


def test_storing_and_recomputing_are_the_same(served, generator):
    velocity = smooth_velocity(generator, SIZES["3d"]).float().to(served.device).requires_grad_()
    results = []
    for checkpoint in ("store", "recompute"):
        u, inverse = plasticine.exponential(
            velocity, inverse=True, checkpoint=checkpoint, backend=served.backend
        )
        (gradient,) = torch.autograd.grad((u.square() + inverse).sum(), velocity)
        results.append((u, inverse, gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert_same_sums(results[0][2], results[1][2])


def test_what_autograd_keeps(served, generator):
    """ "recompute" keeps the velocity alone, "store" a few displacements beside it."""
    velocity = smooth_velocity(generator, SIZES["3d"]).to(served.device).requires_grad_()
    kept: list[int] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x.numel())
        return x

    def fields(**options: object) -> float:
        kept.clear()
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            plasticine.exponential(velocity, backend=served.backend, **options)
        return sum(kept) / velocity.numel()

    for method in ("euler", "midpoint", "rk4"):
        assert fields(steps=7, method=method, checkpoint="recompute") == 1
    # Euler's first displacement is the scaled velocity.
    assert [fields(steps=n) for n in (0, 1, 2, 4, 5, 7, 12)] == [1, 1, 2, 4, 3, 3, 3]
    assert [fields(steps=n, method="midpoint") for n in (0, 1, 3, 4, 7)] == [1, 2, 4, 3, 3]
    assert fields(steps=3, method="rk4") == 1
    assert fields(steps=7, inverse=True) == 5


def test_without_gradient_nothing_is_stored(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d"]).to(served.device)
    stages = EXPONENTIAL(velocity, 3, "euler", "border", False, False, served.backend)[2]
    assert stages.numel() == 0
    with torch.no_grad():
        result = plasticine.exponential(velocity.requires_grad_(), backend=served.backend)
    assert not result.requires_grad


def test_exp_of_minus_v_is_the_inverse(served, generator):
    velocity = smooth_velocity(generator, (33, 37), batch=1, peak=3.0).to(served.device)
    u, inverse = plasticine.exponential(velocity, inverse=True, backend=served.backend)
    assert torch.equal(inverse, plasticine.exponential(-velocity, backend=served.backend))
    back = plasticine.compose(u, inverse, backend="reference")
    there = plasticine.compose(inverse, u, backend="reference")
    inner = (..., slice(5, -5), slice(5, -5))
    assert u[inner].abs().max() > 1
    assert back[inner].abs().max() < 0.06
    assert there[inner].abs().max() < 0.06


@pytest.mark.parametrize("ndim", [2, 3])
def test_a_linear_field_gives_the_matrix_exponential(served, ndim):
    """v(p) = G (p - c) flows to expm(G) (p - c); interpolation of it is exact."""
    rates = torch.tensor([[-0.05, 0.08, 0.02], [-0.07, 0.03, 0.01], [0.02, -0.03, 0.04]])
    rates = rates[:ndim, :ndim].double()
    size = (21, 23, 19)[:ndim]
    axes = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size]
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    velocity = torch.einsum("ij,j...->i...", rates, position)[None]
    expected = torch.einsum(
        "ij,j...->i...", torch.linalg.matrix_exp(rates) - torch.eye(ndim), position
    )
    inner = (0, slice(None), *[slice(5, -5)] * ndim)
    errors = []
    for steps in (7, 8):
        u = plasticine.exponential(velocity.to(served.device), steps=steps, backend=served.backend)
        errors.append((u.cpu()[inner] - expected[inner[1:]]).abs().max().item())
    assert expected[inner[1:]].abs().max() > 0.5
    assert errors[0] < 5e-3
    # Euler's error is of first order in the first step: it halves with it.
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.05)


def test_fine_integration_of_the_same_field(served, generator):
    """512 steps of Runge-Kutta along each voxel's path through the interpolated velocity."""
    velocity = smooth_velocity(generator, (24, 26), batch=1, peak=2.0)
    position = torch.zeros_like(velocity)
    h = 1 / 512

    def at(displacement: Tensor) -> Tensor:
        return reference.warp(velocity, displacement)

    for _ in range(512):
        k1 = at(position)
        k2 = at(position + h / 2 * k1)
        k3 = at(position + h / 2 * k2)
        k4 = at(position + h * k3)
        position = position + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    u = plasticine.exponential(velocity.to(served.device), backend=served.backend).cpu()
    error = (u - position).abs()
    assert position.abs().max() > 1
    assert error.mean() < 0.02
    assert error.max() < 0.15


def test_no_steps_is_the_first_order(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d"]).to(served.device).requires_grad_()
    u, inverse = plasticine.exponential(velocity, steps=0, inverse=True, backend=served.backend)
    assert torch.equal(u, velocity)
    assert torch.equal(inverse, -velocity)
    (gradient,) = torch.autograd.grad((2 * u + inverse).sum(), velocity)
    assert torch.equal(gradient, torch.ones_like(velocity))


def test_nan_in_the_velocity_is_seen(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d-long"], peak=0.4).to(served.device)
    expected = plasticine.exponential(velocity, backend=served.backend)
    velocity[0, 0, 2, 3] = torch.nan
    result = plasticine.exponential(velocity, backend=served.backend)
    assert result[0, :, 2, 3].isnan().all()
    # What flows less than a voxel cannot meet it from further than one voxel a squaring.
    assert torch.equal(result[1], expected[1])
    torch.testing.assert_close(result[0, :, :, 15:], expected[0, :, :, 15:])


def test_the_module(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d"]).to(served.device)
    module = Exponential(steps=5, padding="zeros", inverse=True, backend=served.backend)
    expected = plasticine.exponential(
        velocity, steps=5, padding="zeros", inverse=True, backend=served.backend
    )
    for x, y in zip(module(velocity), expected, strict=True):
        assert torch.equal(x, y)
    assert "steps=5" in repr(module)
    with pytest.raises(ValueError, match="padding must be one of"):
        Exponential(padding="wrap")


VELOCITY = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("velocity", "options", "error", "message"),
    [
        (VELOCITY, {"steps": 2.0}, TypeError, "steps must be an int, got float"),
        (VELOCITY, {"steps": True}, TypeError, "steps must be an int, got bool"),
        (VELOCITY, {"steps": -1}, ValueError, "steps must be 0 or more, got -1"),
        (VELOCITY, {"steps": "some"}, ValueError, "steps must be one of 'auto', got 'some'"),
        (VELOCITY, {"checkpoint": True}, ValueError, "checkpoint must be one of 'store'"),
    ],
)
def test_refused_inputs(velocity, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.exponential(velocity, **options)


def test_the_operator_itself_refuses_what_does_not_fit():
    with pytest.raises(TypeError, match="velocity must be float32 or float64 here"):
        EXPONENTIAL.overload(VELOCITY.half(), 1, "euler", "border", False, False, "auto")
    options = (3, "euler", "border", False, "auto")
    with pytest.raises(ValueError, match=r"stages must have shape \(2, 2, 2, 4, 5\)"):
        EXPONENTIAL_BACKWARD.overload(VELOCITY, None, VELOCITY, VELOCITY, *options)
    with pytest.raises(ValueError, match=r"grad must have shape \(2, 2, 4, 5\)"):
        EXPONENTIAL_BACKWARD.overload(VELOCITY[:1], None, VELOCITY, None, *options)
