"""Many gradients in one pass, by autograd's own vmap: is_grads_batched, vectorize and others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd.functional import hessian, jacobian

import plasticine

OPERATOR = "warp_double_backward"

Function = Callable[..., Tensor]
BATCH = 3


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def make_inputs(generator: torch.Generator, names: str) -> list[Tensor]:
    """Float64 inputs of two samples, one a letter: image, field, small field, affine."""
    made = {
        "i": lambda: randn(generator, 2, 2, 3, 4),
        "u": lambda: randn(generator, 2, 2, 3, 4),
        "s": lambda: randn(generator, 2, 2, 3, 4) * 0.1,
        "a": lambda: torch.eye(2, 3, dtype=torch.float64) + randn(generator, 2, 2, 3) * 0.1,
    }
    return [made[name]().requires_grad_() for name in names]


def operators(backend: str) -> dict[str, tuple[str, Function]]:
    """Every differentiable public operator: its inputs' letters, and itself."""

    def both_ways(velocity: Tensor) -> Tensor:
        return torch.cat(
            plasticine.exponential(velocity, steps=2, inverse=True, backend=backend), 1
        )

    def warp_of(mode: str) -> Function:
        return lambda image, u, affine=None: plasticine.warp(
            image, u, affine=affine, mode=mode, backend=backend
        )

    def splat_of(mode: str) -> Function:
        return lambda image, u: plasticine.splat(image, u, mode=mode, backend=backend)

    def exponential_of(checkpoint: str) -> Function:
        return lambda v: plasticine.exponential(v, steps=2, checkpoint=checkpoint, backend=backend)

    return {
        "warp": ("iu", warp_of("linear")),
        "warp with affine": ("iua", warp_of("linear")),
        "warp nearest": ("i", lambda image: warp_of("nearest")(image, torch.full_like(image, 0.6))),
        "warp cubic": ("iu", warp_of("cubic")),
        "warp bspline": ("iu", warp_of("bspline")),
        "splat": ("iu", splat_of("linear")),
        "splat cubic": ("iu", splat_of("cubic")),
        "spline_coefficients": (
            "i",
            lambda image: plasticine.spline_coefficients(image, backend=backend),
        ),
        "compose": ("uu", lambda u, v: plasticine.compose(u, v, backend=backend)),
        "exponential": ("u", exponential_of("store")),
        "exponential recomputed": ("u", exponential_of("recompute")),
        "exponential and inverse": ("u", both_ways),
        "warp_exponential": (
            "iu",
            lambda image, v: plasticine.warp_exponential(image, v, steps=2, backend=backend),
        ),
        "invert": ("s", lambda u: plasticine.invert(u, backend=backend).displacement),
        "jacobian_determinant": (
            "u",
            lambda u: plasticine.jacobian_determinant(u, backend=backend),
        ),
    }


ALL = tuple(operators("auto"))
# Those whose gradient can be differentiated again.
TWICE = tuple(
    name for name in ALL if name not in ("warp cubic", "warp bspline", "splat cubic", "invert")
)


@pytest.mark.parametrize("name", ALL)
def test_batched_gradients_are_those_of_one_by_one(served, generator, name):
    letters, function = operators(served.backend)[name]
    inputs = make_inputs(generator, letters)
    result = function(*inputs)
    gradients = randn(generator, BATCH, *result.shape)
    found = torch.autograd.grad(result, inputs, gradients, retain_graph=True, is_grads_batched=True)
    for i, gradient in enumerate(gradients):
        expected = torch.autograd.grad(result, inputs, gradient, retain_graph=True)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one[i], other)


@pytest.mark.parametrize("name", TWICE)
def test_batched_gradients_can_be_differentiated(generator, name):
    letters, function = operators("auto")[name]
    inputs = make_inputs(generator, letters)
    result = function(*inputs)
    gradients = randn(generator, BATCH, *result.shape).requires_grad_()

    def penalty(found: list[Tensor]) -> Tensor:
        return sum((x.square().sum() for x in found), torch.zeros(()))

    variables = [gradients, *inputs]
    batched = torch.autograd.grad(
        result, inputs, gradients, is_grads_batched=True, create_graph=True
    )
    found = torch.autograd.grad(penalty(batched), variables, allow_unused=True)
    each = [
        torch.autograd.grad(result, inputs, gradient, create_graph=True) for gradient in gradients
    ]
    total = sum(penalty(list(one)) for one in each)
    expected = torch.autograd.grad(total, variables, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", TWICE)
def test_second_derivatives_are_batched(generator, name):
    letters, function = operators("auto")[name]
    inputs = make_inputs(generator, letters)
    result = function(*inputs)
    first = torch.autograd.grad(result, inputs, result.detach(), create_graph=True)
    directions = [randn(generator, BATCH, *x.shape) for x in first]
    given = [(x, y) for x, y in zip(first, directions, strict=True) if x.requires_grad]
    if not given:  # linear in its input
        return
    recorded = [x for x, _ in given]
    found = torch.autograd.grad(
        recorded, inputs, [y for _, y in given],
        retain_graph=True, allow_unused=True, is_grads_batched=True,
    )  # fmt: skip
    for i in range(BATCH):
        expected = torch.autograd.grad(
            recorded, inputs, [y[i] for _, y in given], retain_graph=True, allow_unused=True
        )
        for one, other in zip(found, expected, strict=True):
            assert (one is None) == (other is None)
            if one is not None:
                torch.testing.assert_close(one[i], other)


@pytest.mark.parametrize("name", ALL)
def test_jacobian_in_one_pass(served, generator, name):
    letters, function = operators(served.backend)[name]
    inputs = tuple(x[:1].detach() for x in make_inputs(generator, letters))
    found = jacobian(function, inputs, vectorize=True)
    expected = jacobian(function, inputs)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["warp", "compose", "exponential", "jacobian_determinant"])
def test_hessian_in_one_pass(generator, name):
    letters, function = operators("auto")[name]
    inputs = tuple(x[:1].detach() for x in make_inputs(generator, letters))

    def energy(*inputs: Tensor) -> Tensor:
        return function(*inputs).pow(3).sum()

    found, expected = hessian(energy, inputs, vectorize=True), hessian(energy, inputs)
    for row, expected_row in zip(found, expected, strict=True):
        for one, other in zip(row, expected_row, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", ["warp", "warp with affine", "compose"])
def test_tangents_are_batched(served, generator, name):
    letters, function = operators(served.backend)[name]
    inputs = tuple(x[:1].detach() for x in make_inputs(generator, letters))
    found = jacobian(function, inputs, vectorize=True, strategy="forward-mode")
    for one, other in zip(found, jacobian(function, inputs), strict=True):
        torch.testing.assert_close(one, other)

    def energy(*inputs: Tensor) -> Tensor:
        return function(*inputs).pow(3).sum()

    found = hessian(energy, inputs, vectorize=True, outer_jacobian_strategy="forward-mode")
    for row, expected_row in zip(found, hessian(energy, inputs), strict=True):
        for one, other in zip(row, expected_row, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("name", [name for name in ALL if name != "invert"])
def test_gradcheck_of_batched_gradients(generator, name):
    letters, function = operators("auto")[name]
    inputs = make_inputs(generator, letters)
    torch.autograd.gradcheck(function, inputs, check_batched_grad=True, fast_mode=True)
    if name in TWICE:
        torch.autograd.gradgradcheck(function, inputs, check_batched_grad=True, fast_mode=True)
