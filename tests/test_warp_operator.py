"""The operator plasticine.warp: module, dispatcher, compiler, autocast, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from comparison import assert_same_sums, assert_same_when_compiled, leaf
from torch import Tensor

import plasticine
from plasticine.nn import Warp
from plasticine.ops.warp import WARP, WARP_BACKWARD

OPERATOR = "warp"

SIZES = {"2d": ((7, 5), (6, 9)), "3d": ((5, 4, 7), (3, 6, 5))}
"""Of the image and of the result."""


def test_the_module(served, warp_inputs):
    image, displacement, affine = (x.to(served.device) for x in warp_inputs(SIZES["2d"]))
    module = Warp("nearest", "zeros", backend=served.backend)
    expected = plasticine.warp(
        image, displacement, affine=affine, mode="nearest", padding="zeros", backend=served.backend
    )
    assert torch.equal(module(image, displacement, affine), expected)
    assert repr(module) == f"Warp(mode='nearest', padding='zeros', backend={served.backend!r})"
    with pytest.raises(ValueError, match="mode must be one of"):
        Warp("quintic")


def test_export(served, warp_inputs):
    image, displacement, _ = (x.to(served.device) for x in warp_inputs(SIZES["2d"]))
    module = Warp(backend=served.backend)
    exported = torch.export.export(module, (image, displacement)).module()
    assert torch.equal(exported(image, displacement), module(image, displacement))


# The registered operator


def test_opcheck(served, warp_inputs):
    inputs = [x.to(served.device) for x in warp_inputs(SIZES["2d"], batch=1)]
    grad = torch.ones(1, 3, 6, 9, dtype=torch.float64, device=served.device)
    for affine in (inputs[2], None):
        arguments = [*inputs[:2], affine, "linear", "border", served.backend]
        needs = [True, True, affine is not None]
        torch.library.opcheck(WARP_BACKWARD.overload, (grad, *arguments, needs))
        arguments[:2] = [x.detach().requires_grad_() for x in inputs[:2]]
        torch.library.opcheck(WARP.overload, arguments)


def test_the_dispatcher_and_the_direct_call_agree(served, warp_inputs):
    inputs = [x.to(served.device) for x in warp_inputs(SIZES["3d"])]
    image, displacement, affine = (x.requires_grad_() for x in inputs)
    direct = plasticine.warp(image, displacement, affine=affine, backend=served.backend)
    dispatched = torch.ops.plasticine.warp(
        image, displacement, affine, "linear", "border", served.backend
    )
    assert torch.equal(direct, dispatched)
    for x, y in zip(
        torch.autograd.grad(direct.sum(), inputs),
        torch.autograd.grad(dispatched.sum(), inputs),
        strict=True,
    ):
        assert_same_sums(x, y)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_into_one_graph(served, warp_inputs, compiler):
    if compiler == "inductor" and served.backend == "reference":
        pytest.skip("the graph is the same for every backend, and this compiler is slow")
    inputs = warp_inputs(SIZES["2d"])
    inputs = [leaf(x, dtype=torch.float32, device=served.device) for x in inputs]

    def function(image: Tensor, displacement: Tensor, affine: Tensor) -> Tensor:
        # Tensors of the graph's own, whose strides the compiler chooses.
        moved = plasticine.warp(image, displacement * 2, affine=affine, backend=served.backend)
        return moved.sum((2, 3))

    assert_same_when_compiled(function, inputs, compiler)


def test_dynamic_shapes_compile_once(served, warp_inputs):
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    function = torch.compile(
        lambda image, displacement: plasticine.warp(image, displacement, backend=served.backend),
        fullgraph=True,
        dynamic=True,
        backend=counter,
    )
    for size in (5, 8, 11):
        image, displacement, _ = warp_inputs(((size, 7), (6, size)))
        image, displacement = image.to(served.device), displacement.to(served.device)
        expected = plasticine.warp(image, displacement, backend=served.backend)
        assert torch.equal(function(image, displacement), expected)
    assert counter.frame_count == 1


def test_function_transforms(served, warp_inputs):
    image, displacement, _ = (x.to(served.device) for x in warp_inputs(SIZES["2d"]))

    def loss(displacement: Tensor, image: Tensor) -> Tensor:
        return plasticine.warp(image, displacement, backend=served.backend).square().sum()

    displacement.requires_grad_()
    (expected,) = torch.autograd.grad(loss(displacement, image), displacement)
    displacement = displacement.detach()
    torch.testing.assert_close(torch.func.grad(loss)(displacement, image), expected)
    per_sample = torch.vmap(torch.func.grad(loss))(displacement[:, None], image[:, None])
    torch.testing.assert_close(per_sample[:, 0], expected)
    shared = torch.vmap(loss, in_dims=(0, None))(displacement[:, None], image[:1])
    assert shared.shape == (2,)
    torch.testing.assert_close(shared[0], loss(displacement[:1], image[:1]))


def test_autocast_leaves_it_alone(served, warp_inputs):
    image, displacement, _ = warp_inputs(SIZES["2d"])
    image, displacement = image.bfloat16().to(served.device), displacement.float().to(served.device)
    expected = plasticine.warp(image, displacement, backend=served.backend)
    with torch.autocast(served.device, dtype=torch.bfloat16):
        result = plasticine.warp(image, displacement, backend=served.backend)
    assert torch.equal(result, expected)


def test_a_negated_view_is_not_taken_for_its_memory(served):
    """PyTorch may hold -x as a flag on x; reading x would be silently wrong."""
    complex_image = torch.view_as_complex(torch.rand(1, 1, 4, 5, 2, device=served.device))
    image = complex_image.conj().imag
    assert image.is_neg()
    displacement = torch.zeros(1, 2, 4, 5, device=served.device)
    result = plasticine.warp(image, displacement, backend=served.backend)
    assert torch.equal(result, image.resolve_neg())


def test_a_tensor_subclass_is_asked(served):
    class Tagged(torch.Tensor):
        calls: tuple[str, ...] = ()

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            cls.calls = (*cls.calls, str(function))
            return super().__torch_function__(function, types, args, kwargs or {})

        def new_empty(self, *args):  # MONAI's MetaTensor has its own, that takes less
            raise AssertionError("a kernel called a subclass")

    image = torch.rand(1, 1, 4, 5, device=served.device).as_subclass(Tagged).requires_grad_()
    displacement = torch.zeros(1, 2, 4, 5, device=served.device)
    result = plasticine.warp(image, displacement, backend=served.backend)
    assert isinstance(result, Tagged)
    assert any("plasticine" in call for call in Tagged.calls)
    result.sum().backward()
    assert torch.equal(image.grad, torch.ones_like(image))


# Inputs that are refused

IMAGE = torch.zeros(2, 3, 4, 5)
FIELD = torch.zeros(2, 2, 4, 5)
AFFINE = torch.zeros(2, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((IMAGE.numpy(), FIELD), {}, TypeError, "image must be a torch.Tensor, got ndarray"),
        ((IMAGE, None), {}, TypeError, "displacement must be a torch.Tensor, got NoneType"),
        ((IMAGE, FIELD), {"affine": 1.0}, TypeError, "affine must be a torch.Tensor, got float"),
        ((torch.tensor(1.0), FIELD), {}, ValueError, "image must have a batch axis"),
        ((IMAGE.long(), FIELD), {}, TypeError, r"image must be float32.*got torch.int64.*nearest"),
        ((IMAGE.bool(), FIELD), {}, TypeError, r"image must be float32.*got torch.bool"),
        ((IMAGE.cfloat(), FIELD), {}, TypeError, r"image must be float32.*got torch.complex64"),
        ((IMAGE, FIELD.int()), {}, TypeError, r"displacement must be float32.*got torch.int32"),
        ((IMAGE, FIELD.double()), {}, TypeError, r"displacement torch.float64 and image"),
        ((IMAGE, FIELD.half()), {}, TypeError, r"displacement torch.float16 and image"),
        ((IMAGE.half(), FIELD.bfloat16()), {}, TypeError, r"displacement torch.bfloat16 and image"),
        ((IMAGE.double(), FIELD), {}, TypeError, r"displacement torch.float32 and image"),
        ((IMAGE, FIELD), {"affine": AFFINE.double()}, TypeError, r"affine torch.float64 and"),
        ((IMAGE.half(), FIELD), {"affine": AFFINE.half()}, TypeError, r"affine torch.float16 and"),
        ((IMAGE.to_sparse(), FIELD), {}, TypeError, "image must be a dense tensor"),
        ((IMAGE, FIELD[:, :, 0]), {}, ValueError, r"displacement must have shape .*\(2, 2, 5\)"),
        ((IMAGE, FIELD[:, :1]), {}, ValueError, r"displacement must have shape .*\(2, 1, 4, 5\)"),
        ((IMAGE, IMAGE), {}, ValueError, r"displacement must have shape .*\(2, 3, 4, 5\)"),
        ((IMAGE[:, :, 0], FIELD), {}, ValueError, r"image must have shape .*got shape \(2, 3, 5\)"),
        ((IMAGE[None], FIELD[None]), {}, ValueError, r"displacement must have shape"),
        ((IMAGE, FIELD[:1].expand(3, -1, -1, -1)), {}, ValueError, r"batch size.*\(3, 2, 4, 5\)"),
        ((IMAGE, FIELD), {"affine": AFFINE[:, :1]}, ValueError, r"affine must have.*\(2, 1, 3\)"),
        ((IMAGE, FIELD), {"affine": AFFINE[0]}, ValueError, r"affine must have.*\(2, 3\)"),
        (
            (IMAGE, FIELD),
            {"affine": AFFINE[:1].expand(3, -1, -1)},
            ValueError,
            r"affine must have.*N = 2.*\(3, 2, 3\)",
        ),
        ((IMAGE[:, :, :0], FIELD), {}, ValueError, r"image has no voxels to sample"),
        ((IMAGE, FIELD.to("meta")), {}, ValueError, "displacement on meta and image on cpu"),
        ((IMAGE, FIELD), {"affine": AFFINE.to("meta")}, ValueError, "affine on meta"),
        ((IMAGE, FIELD), {"mode": "bilinear"}, ValueError, "mode must be one of 'linear', 'near"),
        ((IMAGE, FIELD), {"mode": None}, ValueError, "mode must be one of"),
        ((IMAGE, FIELD), {"padding": "reflect"}, ValueError, "padding must be one of 'zeros'"),
        ((IMAGE, FIELD), {"backend": "gpu"}, ValueError, "backend must be one of 'auto', 'cpu'"),
        ((IMAGE, FIELD), {"backend": "cuda"}, RuntimeError, "'cuda' cannot serve warp on cpu"),
    ],
)
def test_refused_inputs(arguments, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.warp(*arguments, **options)


def test_the_operator_itself_refuses_what_does_not_fit():
    """Called without the public function, the checks still stand in front of raw memory."""
    with pytest.raises(ValueError, match="same batch size"):
        torch.ops.plasticine.warp(IMAGE, FIELD[:1], None, "linear", "border", "auto")
    arguments = (IMAGE, FIELD, None, "linear", "border", "auto", [True, True, False])
    with pytest.raises(ValueError, match=r"grad must have shape \(2, 3, 4, 5\), got \(2"):
        torch.ops.plasticine.warp_backward(IMAGE[..., :4], *arguments)
    with pytest.raises(TypeError, match=r"grad must have dtype torch.float32, got"):
        torch.ops.plasticine.warp_backward(IMAGE.double(), *arguments)
