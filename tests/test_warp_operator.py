"""The operator plasticine.warp: module, dispatcher, compiler, autocast, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from comparison import assert_same_when_compiled, leaf
from torch import Tensor

import plasticine
from plasticine.nn import Warp
from plasticine.ops.lncc import LNCC_BACKWARD
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


def test_the_module_of_splines(served, warp_inputs):
    image, displacement, affine = (x.to(served.device) for x in warp_inputs(SIZES["2d"]))
    module = Warp("bspline", "zeros", prefilter=False, backend=served.backend)
    expected = plasticine.warp(
        image,
        displacement,
        affine=affine,
        mode="bspline",
        padding="zeros",
        prefilter=False,
        backend=served.backend,
    )
    assert torch.equal(module(image, displacement, affine), expected)
    assert "mode='bspline', padding='zeros', prefilter=False" in repr(module)
    assert "prefilter" not in repr(Warp("cubic"))


def test_float32_coefficients_of_a_half_image_only(warp_inputs):
    image, displacement, _ = warp_inputs(SIZES["2d"])
    with pytest.raises(TypeError, match=r"displacement torch.float16 and image torch.float32"):
        plasticine.warp(image.float(), displacement.half(), mode="bspline")


# The registered operator


def test_computes_into_memory_that_is_there(served, warp_inputs):
    image, displacement, affine = (x.to(served.device) for x in warp_inputs(SIZES["3d"]))
    options = "linear", "border", served.backend
    expected = WARP(image, displacement, affine, *options)
    result = torch.full_like(expected, torch.nan)
    assert WARP.into(result, image, displacement, affine, *options) is result
    assert torch.equal(result, expected)
    inputs, needs = (expected, image, displacement, affine), [False, True, False]
    of_field = torch.full_like(displacement, torch.nan)
    WARP_BACKWARD.into((None, of_field, None), *inputs, *options, needs)
    assert torch.equal(of_field, WARP_BACKWARD(*inputs, *options, needs)[1])
    with pytest.raises(ValueError, match="results must be contiguous"):
        WARP.into(result.mT.contiguous().mT, image, displacement, affine, *options)
    assert WARP.scratch_for(image, displacement, affine, *options) is None
    # An operator with scratch, which is used again.
    words = 3, "box", True, "inside", "flat", 0.0, 0.0, served.backend
    one, other = image.contiguous(), image.flip(2).contiguous()
    grad = one.new_ones(len(one))
    expected_of_one = LNCC_BACKWARD(grad, one, other, None, *words, [True, False])[0]
    scratch = LNCC_BACKWARD.scratch_for(grad, one, other, None, *words, [True, False])
    for _ in range(2):
        of_one = torch.full_like(one, torch.nan)
        arguments = grad, one, other, None, *words, [True, False]
        LNCC_BACKWARD.into((of_one, None), *arguments, scratch=scratch)
        assert torch.equal(of_one, expected_of_one)


def test_compiles_by_inductor(served, warp_inputs):
    if served.backend == "reference":
        pytest.skip("the graph is the same for every backend, and this compiler is slow")
    inputs = warp_inputs(SIZES["2d"])
    inputs = [leaf(x, dtype=torch.float32, device=served.device) for x in inputs]

    def function(image: Tensor, displacement: Tensor, affine: Tensor) -> Tensor:
        # Tensors of the graph's own, whose strides the compiler chooses.
        moved = plasticine.warp(image, displacement * 2, affine=affine, backend=served.backend)
        return moved.sum((2, 3))

    assert_same_when_compiled(function, inputs, "inductor")


# Inputs that are refused

IMAGE = torch.zeros(2, 3, 4, 5)
FIELD = torch.zeros(2, 2, 4, 5)
AFFINE = torch.zeros(2, 2, 3)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((IMAGE.long(), FIELD), {}, TypeError, r"image must be float32.*got torch.int64.*nearest"),
        ((IMAGE, FIELD.int()), {}, TypeError, r"displacement must be float32.*got torch.int32"),
        ((IMAGE, FIELD.double()), {}, TypeError, r"displacement torch.float64 and image"),
        ((IMAGE, FIELD.half()), {}, TypeError, r"displacement torch.float16 and image"),
        ((IMAGE.half(), FIELD.bfloat16()), {}, TypeError, r"displacement torch.bfloat16 and image"),
        ((IMAGE.double(), FIELD), {}, TypeError, r"displacement torch.float32 and image"),
        ((IMAGE.half(), FIELD), {"affine": AFFINE.half()}, TypeError, r"affine torch.float16 and"),
        ((IMAGE, FIELD[:, :, 0]), {}, ValueError, r"displacement must have shape .*\(2, 2, 5\)"),
        ((IMAGE, IMAGE), {}, ValueError, r"displacement must have shape .*\(2, 3, 4, 5\)"),
        ((IMAGE[:, :, 0], FIELD), {}, ValueError, r"image must have shape .*got shape \(2, 3, 5\)"),
        ((IMAGE[None], FIELD[None]), {}, ValueError, r"displacement must have shape"),
        ((IMAGE, FIELD[:1].expand(3, -1, -1, -1)), {}, ValueError, r"batch size.*\(3, 2, 4, 5\)"),
        (
            (IMAGE, FIELD),
            {"affine": AFFINE[:1].expand(3, -1, -1)},
            ValueError,
            r"affine must have.*N = 2.*\(3, 2, 3\)",
        ),
        ((IMAGE[:, :, :0], FIELD), {}, ValueError, r"image has no voxels to sample"),
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
