"""plasticine.compose against its definition by warp, and as a composition of maps."""

from __future__ import annotations

import pytest
import torch
from comparison import PADDINGS, ROUNDING, assert_close, order_of_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import Compose
from plasticine.ops._kernels import SHARED_SIZE
from plasticine.ops.compose import COMPOSE, COMPOSE_BACKWARD

OPERATOR = "compose"

# Sizes of u and of v.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-same-long": ((5, 67), (5, 67)),
    "2d-thin": ((1, 9), (5, 1)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-same-long": ((3, 4, 35), (3, 4, 35)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
}


def make_inputs(
    generator: torch.Generator, sizes: tuple[tuple[int, ...], tuple[int, ...]], batch: int = 2
) -> list[Tensor]:
    ndim = len(sizes[0])
    return [
        torch.randn(batch, ndim, *size, generator=generator, dtype=torch.float64) * 2
        for size in sizes
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_equals_the_float64_reference(served, generator, size, dtype):
    rounded = [x.to(dtype) for x in make_inputs(generator, SIZES[size])]
    for padding in PADDINGS:
        inputs = [x.to(served.device, copy=True).requires_grad_() for x in rounded]
        exact = [x.to(torch.float64, copy=True).requires_grad_() for x in rounded]
        result = plasticine.compose(*inputs, padding=padding, backend=served.backend)
        assert result.dtype == dtype
        assert result.is_contiguous()
        u, v = exact
        expected = reference.warp(u, v, None, "linear", padding) + v
        assert_close(result, expected, dtype)
        grad = torch.randn(result.shape, generator=generator).to(dtype)
        result.backward(grad.to(served.device))
        expected.backward(grad.double())
        for x, y in zip(inputs, exact, strict=True):
            assert x.grad.dtype == dtype
            assert_close(x.grad, y.grad, dtype)


def test_warping_twice_is_warping_by_the_composition(served):
    """Exactly so where the field is linear, and interpolation therefore exact."""
    axes = torch.meshgrid(*[torch.arange(n, dtype=torch.float64) for n in (6, 7)], indexing="ij")
    y, x = axes
    u = torch.stack([0.1 * y - 0.2 * x + 0.3, 0.05 * y + 0.1 * x - 0.4])[None]
    v = torch.stack([-0.1 * x + 0.2, 0.2 * y - 0.1])[None] * 0.5
    image = (2 * y - 3 * x + 1)[None, None]
    u, v, image = (t.to(served.device) for t in (u, v, image))
    composed = plasticine.compose(u, v, backend=served.backend)
    once = plasticine.warp(image, composed, backend="reference")
    twice = plasticine.warp(plasticine.warp(image, u, backend="reference"), v, backend="reference")
    inner = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(once[inner], twice[inner])


def test_identity_on_either_side(served, generator):
    u = make_inputs(generator, SIZES["2d-same-long"])[0].to(served.device)
    identity = torch.zeros_like(u)
    assert torch.equal(plasticine.compose(u, identity, backend=served.backend), u)
    assert torch.equal(plasticine.compose(identity, u, backend=served.backend), u)


@pytest.mark.parametrize("layout", ["permuted", "sliced", "expanded"])
def test_strides_do_not_matter(served, generator, layout):
    def view(x: Tensor) -> Tensor:
        x = x.detach()
        if layout == "permuted":
            return x.movedim(1, -1).contiguous().movedim(-1, 1)
        if layout == "sliced":
            larger = x.new_full([2 * n for n in x.shape], torch.nan)[::2, ::2, ::2, ::2, ::2]
            return larger.copy_(x)
        return x[:1, :, :1].expand_as(x)

    u, v = (x.to(served.device) for x in make_inputs(generator, SIZES["3d-same-long"]))
    grad = torch.randn(v.shape, generator=generator, dtype=v.dtype).to(served.device)
    views = [view(x).requires_grad_() for x in (u, v)]
    assert not views[0].is_contiguous()
    result = plasticine.compose(*views, backend=served.backend)
    assert result.is_contiguous()
    found = torch.autograd.grad(result, views, view(grad))
    solid = [x.detach().contiguous().requires_grad_() for x in views]
    expected = plasticine.compose(*solid, backend=served.backend)
    gradients = torch.autograd.grad(expected, solid, view(grad).contiguous())
    for x, y in zip((result, *found), (expected, *gradients), strict=True):
        assert_close(x, y, torch.float64)


def test_one_field_with_itself(served, generator):
    """A tensor on both sides receives both gradients."""
    u = make_inputs(generator, SIZES["2d-same-long"])[0]
    one = u.to(served.device, copy=True).requires_grad_()
    plasticine.compose(one, one, backend=served.backend).square().sum().backward()
    two = u.clone().requires_grad_()
    (reference.warp(two, two) + two).square().sum().backward()
    assert_close(one.grad, two.grad, torch.float64)


def test_a_batch_of_one_meets_a_batch_of_many(served, generator):
    u, v = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"], batch=3))
    for one, many in (((u[:1], v), (u[:1].expand_as(u), v)), ((u, v[:1]), (u, v[:1].expand_as(v)))):
        result = plasticine.compose(*one, backend=served.backend)
        expected = plasticine.compose(*[x.contiguous() for x in many], backend=served.backend)
        assert torch.equal(result, expected)


def test_nan_stays_in_its_voxel(served, generator):
    u, v = make_inputs(generator, SIZES["2d-same-long"])
    expected = plasticine.compose(u.to(served.device), v.to(served.device), backend=served.backend)
    v[0, 0, 2, 3] = torch.nan
    result = plasticine.compose(u.to(served.device), v.to(served.device), backend=served.backend)
    assert result[0, :, 2, 3].isnan().all()
    result[0, :, 2, 3] = expected[0, :, 2, 3] = 0
    torch.testing.assert_close(result, expected)


@pytest.mark.parametrize(
    ("u_shape", "v_shape"),
    [((0, 2, 4, 5), (0, 2, 4, 5)), ((1, 2, 4, 5), (1, 2, 0, 5)), ((1, 2, 0, 5), (1, 2, 3, 0))],
)
def test_empty_tensors(served, u_shape, v_shape):
    u = torch.ones(u_shape, device=served.device, requires_grad=True)
    v = torch.ones(v_shape, device=served.device, requires_grad=True)
    result = plasticine.compose(u, v, backend=served.backend)
    assert result.shape == v_shape
    result.sum().backward()
    assert torch.equal(u.grad, torch.zeros_like(u))
    assert torch.equal(v.grad, torch.zeros_like(v))


def test_gradcheck(served, generator):
    for size in ("2d", "3d"):
        inputs = make_inputs(generator, SIZES[size], batch=1)
        inputs = [x.to(served.device).requires_grad_() for x in inputs]
        for padding in PADDINGS:
            torch.autograd.gradcheck(
                lambda u, v, padding=padding: plasticine.compose(
                    u, v, padding=padding, backend=served.backend
                ),
                inputs,
                fast_mode=True,
                nondet_tol=order_of_sums(inputs[0]),
            )


def test_the_same_bits_for_any_number_of_threads(native, generator):
    u, v = (x.float() for x in make_inputs(generator, ((9, 8, 33), (13, 11, 37)), batch=1))
    v[:, :, :5] -= 4  # crowd one border
    assert v.numel() >= SHARED_SIZE
    inputs = [u.requires_grad_(), v.requires_grad_()]
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            result = plasticine.compose(*inputs, backend="cpu")
            runs.append((result, *torch.autograd.grad(result.square().sum(), inputs)))
        finally:
            torch.set_num_threads(before)
    for other in runs[1:]:
        for x, y in zip(runs[0], other, strict=True):
            assert torch.equal(x, y)


def test_opcheck(served, generator):
    u, v = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"], batch=1))
    arguments = (v, u, v, "border", served.backend, [True, True])
    torch.library.opcheck(COMPOSE_BACKWARD.overload, arguments)
    arguments = (u.requires_grad_(), v.requires_grad_(), "border", served.backend)
    torch.library.opcheck(COMPOSE.overload, arguments)


def test_function_transforms(served, generator):
    u, v = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"]))

    def loss(u: Tensor, v: Tensor) -> Tensor:
        return plasticine.compose(u, v, backend=served.backend).square().sum()

    leaf = u.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, v), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(u, v), expected)
    per_sample = torch.vmap(torch.func.grad(loss))(u[:, None], v[:, None])
    torch.testing.assert_close(per_sample[:, 0], expected)


def test_the_module(served, generator):
    u, v = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"]))
    module = Compose("reflection", backend=served.backend)
    expected = plasticine.compose(u, v, padding="reflection", backend=served.backend)
    assert torch.equal(module(u, v), expected)
    assert "padding='reflection'" in repr(module)
    with pytest.raises(ValueError, match="padding must be one of"):
        Compose("wrap")


FIELD = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((None, FIELD), {}, TypeError, "u must be a torch.Tensor, got NoneType"),
        ((FIELD, [1.0]), {}, TypeError, "v must be a torch.Tensor, got list"),
        ((FIELD.long(), FIELD), {}, TypeError, r"u must be float32.*got torch.int64"),
        ((FIELD, FIELD.double()), {}, TypeError, "u torch.float32 and v torch.float64"),
        ((FIELD.half(), FIELD), {}, TypeError, "u torch.float16 and v torch.float32"),
        ((FIELD, torch.zeros(2, 3, 4, 5)), {}, ValueError, r"v must have shape.*\(2, 3, 4, 5\)"),
        ((FIELD, torch.zeros(2, 3, 4, 5, 6)), {}, ValueError, "same number of spatial axes"),
        ((FIELD, torch.zeros(3, 2, 4, 5)), {}, ValueError, r"batch size.*\(2, 2, 4, 5\).*\(3, 2"),
        ((FIELD[:, :, :0], FIELD), {}, ValueError, "u has no voxels to sample"),
        ((FIELD, FIELD.to("meta")), {}, ValueError, "u on cpu and v on meta"),
        ((FIELD, FIELD), {"padding": "edge"}, ValueError, "padding must be one of 'zeros'"),
        ((FIELD, FIELD), {"backend": "triton"}, RuntimeError, "it takes CUDA tensors"),
    ],
)
def test_refused_inputs(arguments, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.compose(*arguments, **options)
