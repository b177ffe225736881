"""The operator behind plasticine.warp's cubic modes: gradients, transforms, threads, its module."""

from __future__ import annotations

import pytest
import torch
from comparison import assert_same_when_compiled, leaf, order_of_sums
from torch import Tensor

import plasticine
from plasticine.nn import Warp
from plasticine.ops._checks import CUBIC_MODES, PADDINGS
from plasticine.ops._kernels import SHARED_SIZE
from plasticine.ops.warp import WARP, WARP_BACKWARD

OPERATOR = "warp"

# Sizes of the image and of the result.
SIZES = {"2d": ((7, 5), (6, 9)), "3d-small": ((2, 2, 2), (3, 4, 5))}


@pytest.mark.parametrize("mode", CUBIC_MODES)
@pytest.mark.parametrize("size", ["2d", "3d-small"])
def test_gradcheck(served, warp_inputs, mode, size):
    inputs = warp_inputs(SIZES[size], batch=1, channels=2)
    inputs = tuple(leaf(x, device=served.device) for x in inputs)
    for padding in PADDINGS:
        torch.autograd.gradcheck(
            lambda image, displacement, affine, padding=padding: plasticine.warp(
                image,
                displacement,
                affine=affine,
                mode=mode,
                padding=padding,
                backend=served.backend,
            ),
            inputs,
            fast_mode=True,
            nondet_tol=order_of_sums(inputs[0]),
        )


def test_a_second_derivative_is_refused(served, warp_inputs):
    image, displacement, _ = warp_inputs(SIZES["2d"])
    inputs = [leaf(x, device=served.device) for x in (image, displacement)]
    for mode in CUBIC_MODES:
        result = plasticine.warp(*inputs, mode=mode, backend=served.backend)
        (gradient,) = torch.autograd.grad(result.square().sum(), inputs[1], create_graph=True)
        with pytest.raises(RuntimeError, match=r"has no second derivative"):
            gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "image_size", [(3, 37, 9), (37, 3, 9), (13, 11, 37), (40, 5, 35), (40, 41)], ids=str
)
def test_the_same_bits_for_any_number_of_threads(native, warp_inputs, image_size, dtype):
    """Whichever axis is shared out, and however many voxels meet."""
    size = (13, 11, 37) if len(image_size) == 3 else (67, 71)
    image, displacement, affine = warp_inputs((image_size, size), batch=1)
    displacement[:, :, :5] *= 0.1
    assert displacement.numel() >= SHARED_SIZE
    affine[:, 0] *= 0.2  # crowd the first axis
    before = torch.get_num_threads()
    for mode in CUBIC_MODES:
        runs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            try:
                inputs = [leaf(x, dtype=dtype) for x in (image, displacement, affine)]
                result = plasticine.warp(
                    *inputs[:2], affine=inputs[2], mode=mode, prefilter=False, backend="cpu"
                )
                grad = torch.linspace(-1, 1, result.numel()).view(result.shape).to(dtype)
                runs.append((result, *torch.autograd.grad(result, inputs, grad)))
            finally:
                torch.set_num_threads(before)
        for other in runs[1:]:
            for x, y in zip(runs[0], other, strict=True):
                assert torch.equal(x, y)


def test_coordinates_beyond_32_bits(native):
    """An image of one voxel seen 3 * 2**33 times: indices that need 64 bits, hardly any memory."""
    image = torch.full((1, 1, 1, 1), 7.0, dtype=torch.float64).expand(1, 1, 3, 2**33)
    displacement = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
    places = [[2.0**31, 2.0**32 + 0.25, 2.0**33 - 4], [2.0**33 - 0.5, 2.0**34, -(2.0**33)]]
    displacement[0, 1] = torch.tensor(places, dtype=torch.float64)
    result = plasticine.warp(image, displacement, mode="cubic", backend="cpu")
    torch.testing.assert_close(result, torch.full_like(result, 7.0))
    displacement.requires_grad_()
    result = plasticine.warp(image, displacement, mode="cubic", padding="zeros", backend="cpu")
    assert result[0, 0, 1, 1:].tolist() == [0, 0]
    (gradient,) = torch.autograd.grad(result.sum(), displacement)
    assert gradient.isfinite().all()


def test_opcheck(served, warp_inputs):
    inputs = [x.to(served.device) for x in warp_inputs(SIZES["2d"], batch=1)]
    grad = torch.ones(1, 3, 6, 9, dtype=torch.float64, device=served.device)
    arguments = [*inputs, "cubic", "border", served.backend]
    torch.library.opcheck(WARP_BACKWARD.overload, (grad, *arguments, [True, True, True]))
    arguments[:2] = [x.detach().requires_grad_() for x in inputs[:2]]
    torch.library.opcheck(WARP.overload, arguments)


@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_compiles_into_one_graph(served, warp_inputs, mode):
    inputs = [leaf(x, device=served.device) for x in warp_inputs(SIZES["2d"])]

    def function(image: Tensor, displacement: Tensor, affine: Tensor) -> Tensor:
        moved = plasticine.warp(
            image, displacement * 2, affine=affine, mode=mode, backend=served.backend
        )
        return moved.sum((2, 3))

    assert_same_when_compiled(function, inputs, "aot_eager")


@pytest.mark.parametrize("mode", CUBIC_MODES)
def test_function_transforms(served, warp_inputs, mode):
    image, displacement, _ = (x.to(served.device) for x in warp_inputs(SIZES["2d"]))

    def loss(displacement: Tensor, image: Tensor) -> Tensor:
        warped = plasticine.warp(image, displacement, mode=mode, backend=served.backend)
        return warped.square().sum()

    field = leaf(displacement)
    (expected,) = torch.autograd.grad(loss(field, image), field)
    torch.testing.assert_close(torch.func.grad(loss)(displacement, image), expected)
    per_sample = torch.vmap(torch.func.grad(loss))(displacement[:, None], image[:, None])
    torch.testing.assert_close(per_sample[:, 0], expected)


def test_the_module(served, warp_inputs):
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
