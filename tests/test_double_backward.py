"""The second derivatives of warp and compose: the definition's own, which serve every backend."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import PADDINGS, ROUNDING, assert_close
from torch import Tensor

from plasticine import reference
from plasticine.conformance import SIZES, Maker


def make_inputs(size: str = "2d", **shape: int) -> tuple[list[Tensor], list[Tensor]]:
    """Float64 gradient, image, displacement and affine, and directions of the last three."""
    make = Maker(SIZES[size], **shape)

    def fields() -> list[Tensor]:
        return [make.image(make.source), make.vectors(make.grid, 2.5), make.affine()]

    return [make.image(make.grid), *fields()], fields()


WARP = torch.ops.plasticine.warp_double_backward
COMPOSE = torch.ops.plasticine.compose_double_backward


def arguments(directions, inputs, padding="border", mode="linear", needs=(True,) * 4):
    needs = [need and x is not None for need, x in zip(needs, inputs, strict=True)]
    return (*directions, *inputs, mode, padding, "auto", needs)


def by_autograd(directions, inputs, mode, padding, add=False) -> list[Tensor | None]:
    """The same from the definition of the warp alone, in float64."""
    leaves = [None if x is None else x.double().detach().requires_grad_() for x in inputs]
    grad, *others = leaves
    result = reference.warp(*others, mode, padding)
    result = result + others[1] if add else result
    variables = [x for x in others if x is not None]
    first = torch.autograd.grad(result, variables, grad, create_graph=True, materialize_grads=True)
    along = dict(zip([id(x) for x in others], directions, strict=True))
    given = [
        (x, along[id(v)].double())
        for x, v in zip(first, variables, strict=True)
        if along[id(v)] is not None and x.requires_grad
    ]
    found = torch.autograd.grad(
        [x for x, _ in given], [grad, *variables], [y for _, y in given], materialize_grads=True
    )
    results = iter(found)
    return [None if x is None else next(results) for x in leaves]


@pytest.mark.parametrize("size", ["2d", "2d-thin", "3d", "3d-thin"])
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
@pytest.mark.parametrize("given", [(0, 1, 2), (0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
def test_is_autograd_through_the_definition(size, dtype, given):
    """Of some directions and of all, with an affine and without, and every mode that has them."""
    for padding in PADDINGS:
        inputs, directions = ([x.to(dtype) for x in xs] for xs in make_inputs(size))
        mode = "nearest" if padding == "zeros" and 0 in given else "linear"
        directions = [x if i in given else None for i, x in enumerate(directions)]
        if 2 not in given:
            inputs[3] = None
        found = WARP(*arguments(directions, inputs, padding, mode=mode))
        expected = by_autograd(directions, inputs, mode, padding)
        for x, y in zip(found, expected, strict=True):
            assert x.dtype == dtype
            if y is not None:
                assert x.is_contiguous()
                assert_close(x, y, dtype, {k: 2.5 * v for k, v in ROUNDING.items()})


def test_compose_is_a_warp_that_adds():
    inputs, directions = make_inputs("3d")
    inputs[3] = directions[2] = None
    found = COMPOSE(*directions[:2], *inputs[:3], "border", "auto", [True] * 3)
    expected = by_autograd(directions, inputs, "linear", "border", add=True)
    for x, y in zip(found, expected[:3], strict=True):
        assert_close(x, y, torch.float64)


def test_only_what_is_asked_for():
    inputs, directions = make_inputs()
    everything = WARP(*arguments(directions, inputs))
    for wanted in range(4):
        needs = tuple(i == wanted for i in range(4))
        results = WARP(*arguments(directions, inputs, needs=needs))
        assert_close(results[wanted], everything[wanted], torch.float64)
        assert all(x.numel() == 0 for i, x in enumerate(results) if i != wanted)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_image_with_a_float32_displacement(dtype):
    inputs, directions = make_inputs("3d")
    dtypes = (dtype, dtype, torch.float32, torch.float32)
    inputs = [x.to(t) for x, t in zip(inputs, dtypes, strict=True)]
    directions = [x.to(t) for x, t in zip(directions, dtypes[1:], strict=True)]
    found = WARP(*arguments(directions, inputs))
    expected = by_autograd(directions, inputs, "linear", "border")
    for x, y, precision in zip(found, expected, dtypes, strict=True):
        assert x.dtype == precision
        assert_close(x, y, precision, {k: 2.5 * v for k, v in ROUNDING.items()})


@pytest.mark.parametrize("shapes", [((0, 2, 4, 5), (0, 2, 4, 5)), ((2, 3, 4, 5), (2, 2, 0, 5))])
def test_empty_tensors(shapes):
    image, displacement = (torch.ones(shape) for shape in shapes)
    grad = torch.ones(*image.shape[:2], *displacement.shape[2:])
    inputs = [grad, image, displacement, torch.ones(len(image), 2, 3)]
    directions = [torch.ones_like(x) for x in inputs[1:]]
    for x, y in zip(WARP(*arguments(directions, inputs)), inputs, strict=True):
        assert torch.equal(x, torch.zeros_like(y))


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stays_where_it_is_met(padding, value):
    inputs, directions = make_inputs("2d-long")
    inputs[3] = directions[2] = None
    clean = [None if x is None else x.clone() for x in inputs]
    inputs[2][0, 0, 1, 1] = value
    for xs in (inputs, clean):
        xs[0][0, :, 1, 1] = 0  # it asks the image for nothing
    found, expected = (WARP(*arguments(directions, xs, padding)) for xs in (inputs, clean))
    if math.isnan(value):
        assert found[0][0, :, 1, 1].isnan().all()
        assert found[2][0, :, 1, 1].isnan().all()
    elif padding != "reflection":
        assert found[0][0, :, 1, 1].isfinite().all()
    assert_close(found[1], expected[1], torch.float64)
    others = torch.ones_like(inputs[0][:, 0], dtype=torch.bool)
    others[0, 1, 1] = False
    for i in (0, 2):
        x, y = (results[i].movedim(1, -1)[others] for results in (found, expected))
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({7: "cubic"}, RuntimeError, "no second derivative in mode 'cubic'"),
        ({8: "edge"}, ValueError, "padding must be one of"),
        ({0: torch.zeros(2, 3, 7, 4)}, ValueError, r"grad must have shape \(2, 3, 7, 5\)"),
        ({1: torch.zeros(2, 2, 6, 9)}, TypeError, "grad must have dtype torch.float64"),
        ({6: None}, ValueError, "a direction of affine was given, but no affine"),
    ],
)
def test_refused_inputs(change, error, message):
    given = list(arguments(*reversed(make_inputs())))
    for index, value in change.items():
        given[index] = value
    with pytest.raises(error, match=message):
        WARP(*given)
