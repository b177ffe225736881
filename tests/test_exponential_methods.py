"""The methods of the exponential, "auto", the pair, and second derivatives."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from comparison import PADDINGS, assert_close, assert_same_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.ops._exponential_steps import LIMITS, enough_steps

OPERATOR = "exponential"

METHODS = ("euler", "midpoint", "rk4")
SIZES = {"2d": (7, 5), "2d-long": (5, 67), "2d-thin": (1, 9), "3d": (5, 4, 7), "3d-thin": (4, 1, 3)}


def smooth_velocity(
    generator: torch.Generator, size: tuple[int, ...], *, batch: int = 2, peak: float = 2.0
) -> Tensor:
    """A float64 velocity of a few waves, at most ``peak`` voxels a component."""
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


def by_definition(velocity: Tensor, steps: int, method: str, padding: str) -> Tensor:
    """One step of the textbook's method, then squarings, with nothing but the reference warp."""
    h = 0.5**steps

    def at(displacement: Tensor) -> Tensor:
        return reference.warp(velocity, displacement, None, "linear", padding)

    k1 = velocity
    k2 = at(h / 2 * k1)
    if method == "euler":
        u = h * k1
    elif method == "midpoint":
        u = h * k2
    else:
        k3 = at(h / 2 * k2)
        k4 = at(h * k3)
        u = h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    for _ in range(steps):
        u = u + reference.warp(u, u, None, "linear", padding)
    return u


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", SIZES)
def test_the_definition_is_the_textbooks(generator, method, size):
    velocity = smooth_velocity(generator, SIZES[size])
    for padding, steps in itertools.product(PADDINGS, (0, 1, 3)):
        leaves = [velocity.clone().requires_grad_() for _ in range(2)]
        result = reference.exponential(leaves[0], steps, method, padding)
        expected = by_definition(leaves[1], steps, method, padding)
        assert_close(result, expected, torch.float64)
        grad = torch.randn(result.shape, generator=generator, dtype=torch.float64)
        for x in (result, expected):
            x.backward(grad)
        assert_close(leaves[0].grad, leaves[1].grad, torch.float64)


@pytest.mark.parametrize("method", METHODS)
def test_any_number_of_squarings_from_what_is_kept(served, generator, method):
    """The backward pass plans its memory by the number of stages: each plan, against autograd."""
    velocity = smooth_velocity(generator, SIZES["2d"]).to(served.device)
    for steps in range(12):
        exact = velocity.clone().requires_grad_()
        expected = reference.exponential(exact, steps, method, "reflection")
        grad = torch.randn(velocity.shape, generator=generator, dtype=torch.float64)
        (wanted,) = torch.autograd.grad(expected, exact, grad.to(served.device))
        found = []
        for checkpoint in ("store", "recompute"):
            leaf = velocity.clone().requires_grad_()
            u = plasticine.exponential(
                leaf,
                steps=steps,
                method=method,
                padding="reflection",
                checkpoint=checkpoint,
                backend=served.backend,
            )
            found += torch.autograd.grad(u, leaf, grad.to(served.device))
        torch.testing.assert_close(found[0], wanted, rtol=1e-9, atol=1e-9)
        assert_same_sums(found[0], found[1])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [0, 1, 3])
def test_the_pair_is_both_of_its_parts(served, generator, method, steps):
    velocity = smooth_velocity(generator, SIZES["3d"]).to(served.device).requires_grad_()
    options = {"steps": steps, "method": method, "backend": served.backend}
    pair = plasticine.exponential(velocity, inverse=True, **options)
    single = plasticine.exponential(velocity, **options)
    other = plasticine.exponential(-velocity, **options)
    assert torch.equal(pair[0], single)
    assert torch.equal(pair[1], other)
    grads = torch.randn(2, *velocity.shape, generator=generator, dtype=torch.float64)
    grads = grads.to(served.device)
    (first,) = torch.autograd.grad(single, velocity, grads[0])
    (second,) = torch.autograd.grad(other, velocity, grads[1])
    for checkpoint in ("store", "recompute"):
        pair = plasticine.exponential(velocity, inverse=True, checkpoint=checkpoint, **options)
        found = [
            torch.autograd.grad(pair[0], velocity, grads[0], retain_graph=True)[0],
            torch.autograd.grad(pair[1], velocity, grads[1], retain_graph=True)[0],
            torch.autograd.grad(pair, velocity, (grads[0], grads[1]))[0],
        ]
        for x, y in zip(found, (first, second, first + second), strict=True):
            torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_a_better_start_is_more_exact(served, generator, method):
    """A linear field's flow is the matrix exponential; each method keeps its order."""
    rates = torch.tensor([[-0.15, 0.2], [-0.2, 0.1]], dtype=torch.float64)
    axes = [torch.arange(41, dtype=torch.float64) - 20] * 2
    position = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    velocity = torch.einsum("ij,j...->i...", rates, position)[None].to(served.device)
    flow = torch.linalg.matrix_exp(rates) - torch.eye(2)
    inner = (slice(None), slice(15, -15), slice(15, -15))
    expected = torch.einsum("ij,j...->i...", flow, position)[inner]

    def error(steps: int) -> float:
        u = plasticine.exponential(velocity, steps=steps, method=method, backend=served.backend)
        return (u[0].cpu()[inner] - expected).abs().max().item()

    order = {"euler": 1, "midpoint": 2, "rk4": 4}[method]
    assert error(2) / error(3) == pytest.approx(2**order, rel=0.25)


@pytest.mark.parametrize("method", METHODS)
def test_auto_takes_the_steps_of_the_greatest_speed(served, generator, method):
    unit = smooth_velocity(generator, SIZES["3d"]).to(served.device)
    unit = unit / torch.linalg.vector_norm(unit, dim=1).max()
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        for speed in (0.0, 0.5, 3.0, 9.0, 40.0):
            velocity = (unit * speed).to(dtype)
            velocity[0] *= 0.1  # the whole batch counts
            found = plasticine.exponential(
                velocity, steps="auto", method=method, backend=served.backend
            )
            steps = enough_steps(speed, method)
            expected = plasticine.exponential(
                velocity, steps=steps, method=method, backend=served.backend
            )
            assert torch.equal(found, expected)
    assert list(LIMITS[method]) == sorted(LIMITS[method])
    assert enough_steps(LIMITS[method][1], method) == 1
    assert enough_steps(LIMITS[method][1] * 1.001, method) == 2
    assert enough_steps(math.inf, method) == len(LIMITS[method])


def test_auto_leaves_aside_what_is_not_finite(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d"], peak=3.0).to(served.device)
    expected = plasticine.exponential(velocity, steps="auto", backend=served.backend)
    for value in (torch.nan, torch.inf, -torch.inf):
        spoilt = velocity.clone()
        spoilt[0, 1, 0, 0] = value
        found = plasticine.exponential(spoilt, steps="auto", backend=served.backend)
        assert torch.equal(found[1], expected[1])
        nothing = torch.full_like(velocity, value)
        found = plasticine.exponential(nothing, steps="auto", backend=served.backend)
        assert not found.isfinite().any()
    empty = velocity[:0]
    assert plasticine.exponential(empty, steps="auto", backend=served.backend).shape == empty.shape
    huge = torch.full_like(velocity, 1e30).float()
    assert plasticine.exponential(huge, steps="auto", backend=served.backend).shape == huge.shape


def test_auto_where_code_is_transformed(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d"]).to(served.device)

    def function(velocity: Tensor) -> Tensor:
        u = plasticine.exponential(2 * velocity, steps="auto", backend=served.backend)
        return u.square().sum()

    compiled = torch.compile(function, backend="aot_eager")
    for factor in (0.1, 1.0, 3.0):
        leaf = (factor * velocity).requires_grad_()
        (expected,) = torch.autograd.grad(function(leaf), leaf)
        torch.testing.assert_close(torch.autograd.grad(compiled(leaf), leaf)[0], expected)
        torch.testing.assert_close(torch.func.grad(function)(leaf.detach()), expected)
    with pytest.raises(RuntimeError, match=r"torch\.vmap does not allow"):
        torch.vmap(function)(velocity[:, None])
    with pytest.raises(torch._dynamo.exc.Unsupported):
        torch.compile(function, backend="aot_eager", fullgraph=True)(velocity)
