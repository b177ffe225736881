"""plasticine.exponential against its definition, and as the exponential of a field."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import PADDINGS, ROUNDING, assert_close, assert_same_sums, order_of_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import Exponential
from plasticine.ops._kernels import SHARED_SIZE
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


def by_definition(velocity: Tensor, scale: float, steps: int, padding: str) -> Tensor:
    """Scaling and squaring, with nothing of the library but the reference warp."""
    u = velocity * scale
    for _ in range(steps):
        u = u + reference.warp(u, u, None, "linear", padding)
    return u


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_equals_the_float64_definition(served, generator, size, dtype):
    rounded = smooth_velocity(generator, SIZES[size]).to(dtype)
    for padding in PADDINGS:
        for steps in (1, 4):
            velocity = rounded.to(served.device, copy=True).requires_grad_()
            exact = rounded.to(torch.float64, copy=True).requires_grad_()
            result = plasticine.exponential(
                velocity, steps=steps, padding=padding, backend=served.backend
            )
            expected = by_definition(exact, 0.5**steps, steps, padding)
            assert result.dtype == dtype
            assert_close(result, expected, dtype)
            grad = torch.randn(result.shape, generator=generator).to(dtype)
            result.backward(grad.to(served.device))
            expected.backward(grad.double())
            assert velocity.grad.dtype == dtype
            # Float32 coordinates may fall to the other side of a voxel's centre, where the
            # derivative jumps: few places, and none of them far off.
            error = (velocity.grad.double().cpu() - exact.grad).abs() / exact.grad.abs().max()
            assert error.flatten().quantile(0.95) < 10 * ROUNDING[dtype]
            assert error.max() < (1e-10 if dtype == torch.float64 else 0.2)


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


def test_strides_do_not_matter(served, generator):
    velocity = smooth_velocity(generator, SIZES["3d-long"]).to(served.device)
    grad = torch.randn(velocity.shape, generator=generator, dtype=velocity.dtype).to(served.device)
    expected = plasticine.exponential(velocity.requires_grad_(), backend=served.backend)
    (gradient,) = torch.autograd.grad(expected, velocity, grad)
    larger = torch.full([2 * n for n in velocity.shape], torch.nan, dtype=torch.float64)
    views = [
        velocity.detach().movedim(1, -1).contiguous().movedim(-1, 1),
        larger.to(served.device)[::2, ::2, ::2, ::2, ::2].copy_(velocity.detach()),
    ]
    for view in views:
        assert not view.is_contiguous()
        result = plasticine.exponential(view.requires_grad_(), backend=served.backend)
        assert result.is_contiguous()
        strided_grad = grad.movedim(1, -1).contiguous().movedim(-1, 1)
        (found,) = torch.autograd.grad(result, view, strided_grad)
        assert_close(result, expected, torch.float64)
        assert_close(found, gradient, torch.float64)


def test_a_gradient_that_is_one_expanded_number(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d"]).to(served.device).requires_grad_()
    u = plasticine.exponential(velocity, backend=served.backend)
    (found,) = torch.autograd.grad(u.sum(), velocity, retain_graph=True)
    (expected,) = torch.autograd.grad(u, velocity, torch.ones_like(u))
    assert_same_sums(found, expected)


@pytest.mark.parametrize("shape", [(0, 2, 4, 5), (1, 3, 4, 0, 5), (2, 2, 1, 1)])
def test_empty_tensors_and_axes_of_length_one(served, shape):
    velocity = torch.ones(shape, device=served.device, requires_grad=True)
    for checkpoint in ("store", "recompute"):
        u = plasticine.exponential(velocity, steps=3, checkpoint=checkpoint, backend=served.backend)
        assert torch.equal(u, velocity)
        velocity.grad = None
        u.sum().backward()
        assert velocity.grad.shape == velocity.shape
        assert velocity.grad.isfinite().all()


def test_nan_in_the_velocity_is_seen(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d-long"], peak=0.4).to(served.device)
    expected = plasticine.exponential(velocity, backend=served.backend)
    velocity[0, 0, 2, 3] = torch.nan
    result = plasticine.exponential(velocity, backend=served.backend)
    assert result[0, :, 2, 3].isnan().all()
    # What flows less than a voxel cannot meet it from further than one voxel a squaring.
    assert torch.equal(result[1], expected[1])
    torch.testing.assert_close(result[0, :, :, 15:], expected[0, :, :, 15:])


def test_gradcheck(served, generator):
    for size in ("2d", "3d"):
        velocity = smooth_velocity(generator, SIZES[size], batch=1).to(served.device)
        for padding in PADDINGS:
            for checkpoint in ("store", "recompute"):
                torch.autograd.gradcheck(
                    lambda v, padding=padding, checkpoint=checkpoint: plasticine.exponential(
                        v,
                        steps=3,
                        padding=padding,
                        inverse=True,
                        checkpoint=checkpoint,
                        backend=served.backend,
                    ),
                    velocity.requires_grad_(),
                    fast_mode=True,
                    nondet_tol=order_of_sums(velocity),
                )


def test_the_same_bits_for_any_number_of_threads(native, generator):
    velocity = smooth_velocity(generator, (9, 8, 33), peak=3.0).float().requires_grad_()
    assert velocity.numel() >= SHARED_SIZE
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            u = plasticine.exponential(velocity, backend="cpu")
            runs.append((u, *torch.autograd.grad(u.square().sum(), velocity)))
        finally:
            torch.set_num_threads(before)
    for other in runs[1:]:
        for x, y in zip(runs[0], other, strict=True):
            assert torch.equal(x, y)


def test_opcheck(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d"]).to(served.device)
    for inverse in (False, True):
        options = (3, "midpoint", "border", inverse)
        stages = EXPONENTIAL(velocity, *options, True, served.backend)[2]
        assert stages.shape[0] == (6 if inverse else 3)
        for grads in ((velocity, None), (None, velocity), (velocity, velocity)):
            for kept in (stages if inverse or grads[1] is None else None, None):
                arguments = (*grads, velocity, kept, *options, served.backend)
                torch.library.opcheck(EXPONENTIAL_BACKWARD.overload, arguments)
        leaf = velocity.clone().requires_grad_()
        for store in (True, False):
            arguments = (leaf, *options, store, served.backend)
            torch.library.opcheck(EXPONENTIAL.overload, arguments)


@pytest.mark.parametrize("checkpoint", ["store", "recompute"])
def test_compiles_into_one_graph(served, generator, checkpoint):
    velocity = smooth_velocity(generator, SIZES["2d"]).float().to(served.device).requires_grad_()

    def function(velocity: Tensor) -> Tensor:
        u, inverse = plasticine.exponential(
            velocity, inverse=True, checkpoint=checkpoint, backend=served.backend
        )
        composed = plasticine.compose(u, inverse, backend=served.backend)
        return plasticine.jacobian_determinant(composed, backend=served.backend).sum()

    result = torch.compile(function, fullgraph=True, backend="aot_eager")(velocity)
    expected = function(velocity)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(
        torch.autograd.grad(result, velocity), torch.autograd.grad(expected, velocity)
    )


def test_function_transforms(served, generator):
    velocity = smooth_velocity(generator, SIZES["2d"]).to(served.device)
    for checkpoint in ("store", "recompute"):

        def loss(velocity: Tensor, checkpoint: str = checkpoint) -> Tensor:
            return (
                plasticine.exponential(velocity, checkpoint=checkpoint, backend=served.backend)
                .square()
                .sum()
            )

        leaf = velocity.clone().requires_grad_()
        (expected,) = torch.autograd.grad(loss(leaf), leaf)
        torch.testing.assert_close(torch.func.grad(loss)(velocity), expected)
        per_sample = torch.vmap(torch.func.grad(loss))(velocity[:, None])
        torch.testing.assert_close(per_sample[:, 0], expected)


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
        (None, {}, TypeError, "velocity must be a torch.Tensor, got NoneType"),
        (VELOCITY.int(), {}, TypeError, r"velocity must be float32.*got torch.int32"),
        (VELOCITY[:, :1], {}, ValueError, r"velocity must have shape.*\(2, 1, 4, 5\)"),
        (VELOCITY[0], {}, ValueError, r"velocity must have shape.*\(2, 4, 5\)"),
        (VELOCITY, {"steps": 2.0}, TypeError, "steps must be an int, got float"),
        (VELOCITY, {"steps": True}, TypeError, "steps must be an int, got bool"),
        (VELOCITY, {"steps": -1}, ValueError, "steps must be 0 or more, got -1"),
        (VELOCITY, {"steps": "some"}, ValueError, "steps must be one of 'auto', got 'some'"),
        (VELOCITY, {"method": "heun"}, ValueError, "method must be one of 'euler', 'midpoint', 'r"),
        (VELOCITY, {"padding": "wrap"}, ValueError, "padding must be one of 'zeros'"),
        (VELOCITY, {"checkpoint": True}, ValueError, "checkpoint must be one of 'store'"),
        (VELOCITY, {"backend": "cuda"}, RuntimeError, "cannot serve exponential on cpu"),
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
