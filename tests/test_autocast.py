"""The operators under torch.autocast, whose users never see a dtype error."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import plasticine

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FIELD_OPERATORS = {
    "compose": lambda u: plasticine.compose(u, u),
    "exponential": lambda u: plasticine.exponential(u, steps=3),
    "inverse exponential": lambda u: plasticine.exponential(u, steps=3, inverse=True)[1],
    "jacobian": plasticine.jacobian_determinant,
    "invert": lambda u: plasticine.invert(u / 8).displacement,
    "spline_coefficients": plasticine.spline_coefficients,
    "gaussian_smooth": functools.partial(plasticine.gaussian_smooth, sigma=1.5),
}
# Those that take an image with a displacement, and maybe an affine, on one grid.
IMAGE_OPERATORS = {
    "warp": plasticine.warp,
    "cubic warp": functools.partial(plasticine.warp, mode="cubic"),
    "bspline warp": functools.partial(plasticine.warp, mode="bspline"),
    "splat": plasticine.splat,
    "cubic splat": functools.partial(plasticine.splat, mode="cubic"),
    "bspline splat": functools.partial(plasticine.splat, mode="bspline"),
}
HALF = (torch.float16, torch.bfloat16)


def autocast(device: str, dtype: torch.dtype = torch.bfloat16) -> torch.autocast:
    return torch.autocast(device, dtype=dtype)


@pytest.fixture
def inputs(generator) -> tuple[Tensor, Tensor, Tensor]:
    image = torch.randn(2, 3, 6, 7, generator=generator)
    displacement = torch.randn(2, 2, 6, 7, generator=generator) * 2
    return image, displacement, torch.eye(2, 3).repeat(2, 1, 1) * 1.1


@pytest.mark.parametrize("name", IMAGE_OPERATORS)
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("given", "taken"),
    [
        # image, displacement, affine: those that already fit stay as they are.
        (("float32", "float32", "float32"), ("float32", "float32", "float32")),
        (("float16", "float16", "float16"), ("float16", "float16", "float16")),
        (("bfloat16", "float32", "float32"), ("bfloat16", "float32", "float32")),
        (("float32", "float16", "float16"), ("float32", "float32", "float32")),
        (("float32", "bfloat16", "float32"), ("float32", "float32", "float32")),
        (("float32", "float32", "bfloat16"), ("float32", "float32", "float32")),
        (("float16", "bfloat16", "bfloat16"), ("float16", "float32", "float32")),
        (("float16", "float16", "float32"), ("float16", "float32", "float32")),
        (("float64", "float32", "float16"), ("float64", "float64", "float64")),
        (("float16", "float64", "float64"), ("float64", "float64", "float64")),
    ],
    ids=str,
)
def test_with_an_image_the_widest_type_is_taken(inputs, device, given, taken, name):
    function = IMAGE_OPERATORS[name]
    leaves = [
        x.to(device, getattr(torch, dtype), copy=True).requires_grad_()
        for x, dtype in zip(inputs, given, strict=True)
    ]
    with autocast(device):
        result = function(leaves[0], leaves[1], affine=leaves[2])
    wide = [
        x.detach().to(getattr(torch, dtype)).requires_grad_()
        for x, dtype in zip(leaves, taken, strict=True)
    ]
    expected = function(wide[0], wide[1], affine=wide[2])
    assert result.dtype == expected.dtype == wide[0].dtype
    assert torch.equal(result, expected)
    gradients = torch.autograd.grad(result.float().sum(), leaves)
    for x, leaf, y in zip(
        gradients, leaves, torch.autograd.grad(expected.float().sum(), wide), strict=True
    ):
        assert x.dtype == leaf.dtype
        assert torch.equal(x, y.to(x.dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (("float32", "bfloat16"), ("float32", "float32")),
        (("bfloat16", "float16"), ("bfloat16", "float32")),
        (("float64", "float16"), ("float64", "float64")),
    ],
    ids=str,
)
def test_warp_exponential_takes_the_widest_type(inputs, device, given, taken):
    leaves = [
        x.to(device, getattr(torch, dtype), copy=True).requires_grad_()
        for x, dtype in zip(inputs[:2], given, strict=True)
    ]
    wide = [
        x.detach().to(getattr(torch, dtype)).requires_grad_()
        for x, dtype in zip(leaves, taken, strict=True)
    ]
    with autocast(device):
        result = plasticine.warp_exponential(leaves[0], leaves[1], steps=3)
    expected = plasticine.warp_exponential(wide[0], wide[1], steps=3)
    assert result.dtype == expected.dtype == wide[0].dtype
    assert torch.equal(result, expected)
    gradients = torch.autograd.grad(result.float().sum(), leaves)
    wanted = torch.autograd.grad(expected.float().sum(), wide)
    for x, leaf, y in zip(gradients, leaves, wanted, strict=True):
        assert torch.equal(x, y.to(leaf.dtype))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", FIELD_OPERATORS)
def test_half_fields_are_computed_and_returned_in_float32(inputs, device, dtype, name):
    function = FIELD_OPERATORS[name]
    field = inputs[1].to(device, dtype).requires_grad_()
    with autocast(device, dtype):
        result = function(field)
    wide = field.detach().float().requires_grad_()
    expected = function(wide)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)
    (gradient,) = torch.autograd.grad(result.sum(), field)
    assert gradient.dtype == dtype
    assert torch.equal(gradient, torch.autograd.grad(expected.sum(), wide)[0].to(dtype))


@pytest.mark.parametrize("device", DEVICES)
def test_two_fields_of_different_types_compose(inputs, device):
    u, v = inputs[1].to(device), inputs[1].flip(0).to(device)
    with autocast(device):
        result = plasticine.compose(u.half(), v)
    assert torch.equal(result, plasticine.compose(u.half().float(), v))


@pytest.mark.parametrize("device", DEVICES)
def test_folding_of_a_half_field(inputs, device):
    field = inputs[1].to(device, torch.bfloat16)
    with autocast(device):
        result = plasticine.folding(field)
    expected = plasticine.folding(field.float())
    assert torch.equal(result.minimum, expected.minimum)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", FIELD_OPERATORS)
def test_float64_is_left_alone(inputs, device, name):
    field = inputs[1].to(device, torch.float64)
    with autocast(device):
        assert FIELD_OPERATORS[name](field).dtype == torch.float64


def strict(image: Tensor, field: Tensor) -> None:
    with pytest.raises(TypeError, match="displacement must have the dtype of image"):
        plasticine.warp(image, field)
    with pytest.raises(TypeError, match="u and v must have one dtype"):
        plasticine.compose(field, field.float())
    assert plasticine.jacobian_determinant(field).dtype == field.dtype


def test_outside_of_autocast_nothing_is_cast(inputs):
    image, field, _ = inputs
    strict(image, field.half())
    with autocast("cpu"), torch.autocast("cpu", enabled=False):
        strict(image, field.half())


def test_autocast_of_another_device_is_not_ours(inputs, monkeypatch):
    image, field, _ = inputs
    before = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        strict(image, field.half())
    finally:
        torch.set_autocast_enabled("cuda", before)


def test_labels_are_still_refused(inputs):
    image, field, _ = inputs
    with autocast("cpu"), pytest.raises(TypeError, match=r"image must be float32.*torch\.int64"):
        plasticine.warp(image.long(), field.half())


@pytest.mark.parametrize("inside", [True, False], ids=["context in the graph", "around the call"])
def test_compiles_into_one_graph(inputs, inside):
    def operators(image: Tensor, field: Tensor) -> tuple[Tensor, ...]:
        return (
            plasticine.warp(image, field),
            plasticine.warp(image.bfloat16(), field.float()),
            *(function(field) for function in FIELD_OPERATORS.values()),
            plasticine.folding(field).minimum,
        )

    def own_context(image: Tensor, field: Tensor) -> tuple[Tensor, ...]:
        with autocast("cpu"):
            return operators(image, field)

    image = inputs[0].requires_grad_()
    field = inputs[1].bfloat16().requires_grad_()
    expected = own_context(image, field)
    compiled = torch.compile(
        own_context if inside else operators, fullgraph=True, backend="aot_eager"
    )
    if inside:
        results = compiled(image, field)
    else:
        with autocast("cpu"):
            results = compiled(image, field)

    def gradients(results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        loss = sum(x.float().sum() for x in results[:-1])
        return torch.autograd.grad(loss, (image, field))

    for x, y in zip(results, expected, strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y)
    for x, y in zip(gradients(results), gradients(expected), strict=True):
        assert x.dtype == y.dtype
        torch.testing.assert_close(x, y)


def test_a_compiled_function_notices_that_autocast_ended(inputs):
    compiled: Callable[[Tensor], Tensor] = torch.compile(
        plasticine.jacobian_determinant, fullgraph=True, backend="aot_eager"
    )
    field = inputs[1].bfloat16()
    with autocast("cpu"):
        assert compiled(field).dtype == torch.float32
    assert compiled(field).dtype == torch.bfloat16


def test_under_vmap(inputs):
    image, field, _ = inputs
    with autocast("cpu"):
        result = torch.vmap(plasticine.warp)(image[:, None], field[:, None].half())
        expected = plasticine.warp(image, field.half())
    assert torch.equal(result[:, 0], expected)


def test_a_training_step_runs(inputs):
    """The pattern of autocast's users: a network in half precision gives the displacement."""
    image = inputs[0]
    network = torch.nn.Conv2d(3, 2, 3, padding=1)
    with autocast("cpu"):
        displacement = network(image)
        assert displacement.dtype == torch.bfloat16
        moved = plasticine.warp(image, plasticine.exponential(displacement))
        loss = (
            moved.square().mean()
            + (plasticine.jacobian_determinant(displacement) - 1).square().mean()
        )
    loss.backward()
    assert network.weight.grad.dtype == torch.float32
    assert network.weight.grad.isfinite().all()
