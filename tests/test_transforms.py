"""The operators under torch.func: vmap over any axes, nested, over gradients, forward mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from comparison import order_of_sums
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import plasticine
from plasticine.ops._operator import map_over_batch

OPERATOR = "warp_double_backward"

IN_DIMS = [(0, 0, 0), (1, -1, 2), (None, 0, None), (0, None, None), (-2, None, 1), (0, -1, None)]


# Where the tensors are made: with the backend under test, where it takes them.
DEVICE = "cpu"


@pytest.fixture(autouse=True)
def _on_its_device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "served" in request.fixturenames:
        monkeypatch.setattr(request.module, "DEVICE", request.getfixturevalue("served").device)


def warp_of(backend: str, **options: Any) -> Callable[..., Tensor]:
    def function(image: Tensor, displacement: Tensor, affine: Tensor | None = None) -> Tensor:
        return plasticine.warp(image, displacement, affine=affine, backend=backend, **options)

    return function


def energy_of(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *inputs: function(*inputs).pow(3).sum()


def field_operators(backend: str) -> dict[str, Callable[[Tensor], Tensor]]:
    """Of one field, which vmap maps; those with two take it twice."""
    return {
        "compose": lambda u: plasticine.compose(u, u, backend=backend),
        "exponential": lambda u: plasticine.exponential(u, steps=3, backend=backend),
        "recomputed": lambda u: plasticine.exponential(
            u, steps=3, checkpoint="recompute", backend=backend
        ),
        "jacobian": lambda u: plasticine.jacobian_determinant(u, backend=backend),
        "folding": lambda u: plasticine.folding(u, backend=backend).minimum,
    }


def small(generator: torch.Generator, samples: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 image, displacement and affine."""

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE)

    affine = torch.eye(2, 3, dtype=torch.float64, device=DEVICE) + randn(samples, 2, 3) * 0.1
    return randn(samples, 2, 4, 5), randn(samples, 2, 3, 4), affine


def mapped(
    generator: torch.Generator, in_dims: tuple[int | None, ...], samples: int, size: int = 3
) -> tuple[list[Tensor], list[list[Tensor]]]:
    """Inputs with a mapped axis where ``in_dims`` has one, and the inputs of each map."""
    inputs: list[Tensor] = []
    each: list[list[Tensor]] = [[] for _ in range(size)]
    for index, axis in enumerate(in_dims):
        parts = [small(generator, samples)[index] for _ in range(size)]
        if axis is None:
            parts = parts[:1] * size
        inputs.append(parts[0] if axis is None else torch.stack(parts, axis))
        for one, part in zip(each, parts, strict=True):
            one.append(part)
    return inputs, each


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
@pytest.mark.parametrize("samples", [1, 2])
def test_warp_over_any_axes(served, generator, in_dims, samples):
    inputs, each = mapped(generator, in_dims, samples)
    for mode in ("linear", "nearest"):
        warp = warp_of(served.backend, mode=mode)
        result = vmap(warp, in_dims=in_dims, out_dims=1)(*inputs)
        torch.testing.assert_close(result, torch.stack([warp(*one) for one in each], 1))


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
def test_gradients_over_any_axes(served, generator, in_dims):
    inputs, each = mapped(generator, in_dims, samples=2)
    gradient = grad(energy_of(warp_of(served.backend)), (0, 1, 2))
    results = vmap(gradient, in_dims=in_dims)(*inputs)
    for i, result in enumerate(results):
        expected = torch.stack([gradient(*one)[i] for one in each])
        torch.testing.assert_close(result, expected)


@pytest.mark.parametrize("in_dims", IN_DIMS, ids=str)
def test_second_derivatives_over_any_axes(served, generator, in_dims):
    inputs, each = mapped(generator, in_dims, samples=2)
    energy = energy_of(warp_of(served.backend))

    def penalty(*inputs: Tensor) -> Tensor:
        return sum(x.square().sum() for x in grad(energy, (0, 1, 2))(*inputs))

    gradient = grad(penalty, (0, 1, 2))
    results = vmap(gradient, in_dims=in_dims)(*inputs)
    for i, result in enumerate(results):
        expected = torch.stack([gradient(*one)[i] for one in each])
        torch.testing.assert_close(result, expected)


def test_nested_maps(served, generator):
    images, fields = (torch.stack([x, x.flip(-1), 2 * x]) for x in small(generator)[:2])
    warp = warp_of(served.backend)
    result = vmap(vmap(warp, in_dims=(None, 0)), in_dims=(0, None))(images, fields)
    expected = torch.stack([torch.stack([warp(i, u) for u in fields]) for i in images])
    torch.testing.assert_close(result, expected)
    gradient = grad(energy_of(warp), 1)
    result = vmap(vmap(gradient, in_dims=(None, 0)), in_dims=(0, None))(images, fields)
    expected = torch.stack([torch.stack([gradient(i, u) for u in fields]) for i in images])
    torch.testing.assert_close(result, expected)


def test_a_batch_of_one_inside_a_map(served, generator):
    image = small(generator)[0]
    fields = torch.stack([small(generator, 3)[1] for _ in range(4)])
    warp = warp_of(served.backend)
    result = vmap(warp, in_dims=(None, 0))(image, fields)
    torch.testing.assert_close(result, torch.stack([warp(image, u) for u in fields]))


def test_a_gradient_of_a_map(served, generator):
    """The transform below a map keeps its own rule."""
    image, field, _ = small(generator)
    fields = torch.stack([field, field.flip(-1), 2 * field])
    energy = energy_of(warp_of(served.backend))

    def total(image: Tensor, fields: Tensor) -> Tensor:
        return vmap(energy, in_dims=(None, 0))(image, fields).sum()

    found = grad(total, (0, 1))(image, fields)
    each = [grad(energy, (0, 1))(image, u) for u in fields]
    torch.testing.assert_close(found[0], sum(x for x, _ in each))
    torch.testing.assert_close(found[1], torch.stack([x for _, x in each]))


def test_what_is_not_mapped_is_not_copied():
    image, fields = torch.rand(1, 2, 4, 5), torch.rand(3, 1, 2, 4, 5)
    seen = []

    def execute(*arguments: Tensor) -> Tensor:
        seen.extend(arguments)
        return arguments[0]

    class Info:
        batch_size = 3

    map_over_batch(Info(), (None, 0, None), (image, fields, execute), 2)
    assert seen[0].shape == (3, 2, 4, 5)
    assert seen[0].stride(0) == 0
    assert [x.data_ptr() for x in seen] == [image.data_ptr(), fields.data_ptr()]


@pytest.mark.parametrize("name", ["compose", "exponential", "recomputed", "jacobian", "folding"])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_field_operators_under_maps(served, generator, name, axis):
    function = field_operators(served.backend)[name]
    fields = torch.stack([small(generator, 2)[1] for _ in range(3)])
    moved = fields.movedim(0, axis)
    result = vmap(function, in_dims=axis)(moved)
    torch.testing.assert_close(result, torch.stack([function(u) for u in fields]))
    nested = vmap(vmap(function), in_dims=1)(torch.stack([fields, 2 * fields], 1))
    torch.testing.assert_close(nested[0], result)
    if name == "folding":
        return
    gradient = grad(energy_of(function))
    expected = torch.stack([gradient(u) for u in fields])
    torch.testing.assert_close(vmap(gradient, in_dims=axis)(moved), expected)
    total = grad(lambda u: vmap(energy_of(function), in_dims=axis)(u).sum())(moved)
    torch.testing.assert_close(total.movedim(axis, 0), expected)


@pytest.mark.parametrize("name", ["compose", "jacobian"])
def test_second_derivatives_of_field_operators_under_maps(generator, name):
    energy = energy_of(field_operators("auto")[name])
    second = grad(lambda u: grad(energy)(u).square().sum())
    fields = torch.stack([small(generator)[1] for _ in range(3)])
    torch.testing.assert_close(vmap(second)(fields), torch.stack([second(u) for u in fields]))


@pytest.mark.parametrize("argument", [0, 1, 2])
def test_jacobians_and_hessians_of_warp(served, generator, argument):
    inputs = list(small(generator))
    warp = warp_of(served.backend)

    def of_one(x: Tensor) -> Tensor:
        return warp(*[x if i == argument else y for i, y in enumerate(inputs)])

    point = inputs[argument]
    expected = torch.autograd.functional.jacobian(of_one, point)
    torch.testing.assert_close(jacrev(of_one)(point), expected)
    torch.testing.assert_close(jacfwd(of_one)(point), expected)
    energy = energy_of(of_one)
    expected = torch.autograd.functional.hessian(energy, point)
    torch.testing.assert_close(jacrev(jacrev(energy))(point), expected)
    torch.testing.assert_close(hessian(energy)(point), expected)
    _, pull = vjp(of_one, point)
    _, push = jvp(of_one, (point,), (point,))
    cotangent = torch.ones_like(push)
    torch.testing.assert_close((pull(cotangent)[0] * point).sum(), (cotangent * push).sum())


def test_hessian_of_compose(served, generator):
    field = small(generator)[1]
    energy = energy_of(lambda u: plasticine.compose(u, u, backend=served.backend))
    expected = torch.autograd.functional.hessian(energy, field)
    torch.testing.assert_close(hessian(energy)(field), expected)
    torch.testing.assert_close(jacrev(jacrev(energy))(field), expected)


@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_forward_mode_is_checked_by_differences(served, generator, padding):
    inputs = [x.requires_grad_() for x in small(generator, 2)]
    warp = warp_of(served.backend, padding=padding)
    torch.autograd.gradcheck(
        warp, inputs, check_forward_ad=True, fast_mode=True, nondet_tol=order_of_sums(inputs[0])
    )
    torch.autograd.gradgradcheck(
        warp, inputs, check_fwd_over_rev=True, fast_mode=True, nondet_tol=order_of_sums(inputs[0])
    )

    def compose(u: Tensor, v: Tensor) -> Tensor:
        return plasticine.compose(u, v, padding=padding, backend=served.backend)

    fields = [inputs[0], inputs[1]]
    torch.autograd.gradcheck(
        compose, fields, check_forward_ad=True, fast_mode=True, nondet_tol=order_of_sums(inputs[0])
    )
    torch.autograd.gradgradcheck(
        compose,
        fields,
        check_fwd_over_rev=True,
        fast_mode=True,
        nondet_tol=order_of_sums(inputs[0]),
    )


def test_a_tangent_is_never_dropped(served, generator):
    """Where an operator has no forward mode, it says so."""
    image, field, _ = small(generator)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(field, torch.ones_like(field))
        moved = plasticine.warp(image, dual, backend=served.backend)
        assert forward_ad.unpack_dual(moved).tangent.any()
        untouched = plasticine.warp(image, field, backend=served.backend)
        assert forward_ad.unpack_dual(untouched).tangent is None
        with pytest.raises(NotImplementedError, match="jvp"):
            plasticine.jacobian_determinant(dual)
