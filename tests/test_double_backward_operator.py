"""The operators of second derivatives: dispatcher, opcheck, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from double_backward import assert_close, make_inputs, second

import plasticine
from plasticine.ops.compose import COMPOSE_BACKWARD
from plasticine.ops.warp import WARP_BACKWARD, WARP_DOUBLE_BACKWARD

OPERATOR = "warp_double_backward"

SIZES = {"2d": ((7, 5), (6, 9))}
"""Of the image and of the result."""


def test_a_third_derivative_is_refused(served, generator):
    inputs, _ = make_inputs(generator, SIZES["2d"], device=served.device)
    field = inputs[2].requires_grad_()
    image = inputs[1]
    for result in (
        plasticine.warp(image, field, backend=served.backend),
        plasticine.compose(image[:, :2], field, backend=served.backend),
    ):
        (first,) = torch.autograd.grad(result.pow(3).sum(), field, create_graph=True)
        (again,) = torch.autograd.grad(first.square().sum(), field, create_graph=True)
        assert again.requires_grad
        with pytest.raises(RuntimeError, match=r"plasticine\.warp and .* have no third derivative"):
            again.sum().backward()


def test_gradients_only_where_asked(served, generator):
    inputs, directions = make_inputs(generator, SIZES["2d"], device=served.device)
    arguments = (*inputs, "linear", "border", False, served.backend)
    everything = WARP_DOUBLE_BACKWARD(*directions, *arguments, [True] * 4)
    for wanted in range(4):
        needs = [i == wanted for i in range(4)]
        results = WARP_DOUBLE_BACKWARD(*directions, *arguments, needs)
        assert_close(results[wanted], everything[wanted], torch.float64)
        assert all(x.numel() == 0 for i, x in enumerate(results) if i != wanted)


def test_opcheck(served, generator):
    inputs, directions = make_inputs(
        generator, SIZES["2d"], batch=1, channels=2, device=served.device
    )
    options = ("linear", "border", False, served.backend)
    torch.library.opcheck(
        WARP_DOUBLE_BACKWARD.overload, (*directions, *inputs, *options, [True] * 4)
    )
    torch.library.opcheck(
        WARP_DOUBLE_BACKWARD.overload,
        (None, directions[1], None, *inputs[:3], None, *options, [True, False, True, False]),
    )
    leaves = [x.requires_grad_() for x in inputs]
    torch.library.opcheck(
        WARP_BACKWARD.overload, (*leaves, "linear", "border", served.backend, [True] * 3)
    )
    torch.library.opcheck(
        COMPOSE_BACKWARD.overload,
        (leaves[0], leaves[1][..., :5, :], leaves[2], "border", served.backend, [True, True]),
    )


def test_the_dispatcher_and_the_direct_call_agree(served, generator):
    inputs, directions = make_inputs(generator, SIZES["2d"], device=served.device)
    direct = second(directions, inputs, served.backend)
    leaves = [x.requires_grad_() for x in inputs]
    gradients = torch.ops.plasticine.warp_backward(
        *leaves, "linear", "border", served.backend, [True] * 3
    )
    dispatched = torch.autograd.grad(gradients, leaves, directions)
    for x, y in zip(direct, dispatched, strict=True):
        assert_close(x, y, torch.float64)


def test_a_backend_by_name_is_not_replaced(generator):
    """Automatic choice falls back to the reference; a name is an order."""
    inputs, directions = make_inputs(generator, SIZES["2d"])
    with pytest.raises(RuntimeError, match="'cuda' cannot serve warp_double_backward on cpu"):
        WARP_DOUBLE_BACKWARD(*directions, *inputs, "linear", "border", False, "cuda", [True] * 4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({7: "cubic"}, ValueError, "mode must be one of 'linear', 'nearest'"),
        ({8: "edge"}, ValueError, "padding must be one of"),
        ({0: torch.zeros(2, 3, 7, 4)}, ValueError, r"grad must have shape \(2, 3, 7, 5\)"),
        ({1: torch.zeros(2, 2, 6, 9)}, TypeError, "grad must have dtype torch.float64"),
        ({6: None}, ValueError, "a direction of affine was given, but no affine"),
        ({9: True}, ValueError, "as many channels as displacement"),
    ],
)
def test_refused_inputs(generator, change, error, message):
    inputs, directions = make_inputs(generator, SIZES["2d"])
    arguments = [*directions, *inputs, "linear", "border", False, "auto", [True] * 4]
    for index, value in change.items():
        arguments[index] = value
    with pytest.raises(error, match=message):
        torch.ops.plasticine.warp_double_backward(*arguments)
