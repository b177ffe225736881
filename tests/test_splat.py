"""plasticine.splat against the transpose of warp, against others' grid_push, and at its edges."""

from __future__ import annotations

import math

import pytest
import torch
from comparison import ROUNDING, assert_close, assert_same_sums, order_of_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.nn import Splat
from plasticine.ops._checks import MODES, PADDINGS
from plasticine.ops._kernels import SHARED_SIZE
from plasticine.ops.splat import SPLAT

OPERATOR = "splat"

# Sizes of the image and of the result.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-long": ((5, 67), (4, 83)),
    "2d-thin": ((1, 9), (5, 1)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-long": ((3, 4, 35), (4, 3, 51)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
}


def make_inputs(
    generator: torch.Generator, size: tuple[int, ...], *, batch: int = 2, channels: int = 3
) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 image, displacement (reaching well outside) and affine near the identity."""
    ndim = len(size)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    affine = torch.eye(ndim, ndim + 1, dtype=torch.float64) + randn(batch, ndim, ndim + 1) * 0.2
    return randn(batch, channels, *size), randn(batch, ndim, *size) * 2.5, affine


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_equals_the_float64_reference(served, generator, size, dtype):
    """Result and all three gradients; every mode and padding, with and without an affine."""
    spatial, target = SIZES[size]
    rounded = [x.to(dtype) for x in make_inputs(generator, spatial)]
    for mode in MODES:
        for padding in PADDINGS:
            for affine in (False, True):
                inputs = [x.to(served.device, copy=True).requires_grad_() for x in rounded]
                exact = [x.to(torch.float64, copy=True).requires_grad_() for x in rounded]
                if not affine:
                    inputs[2] = exact[2] = None
                result = plasticine.splat(
                    *inputs[:2],
                    affine=inputs[2],
                    size=target,
                    mode=mode,
                    padding=padding,
                    backend=served.backend,
                )
                assert result.dtype == dtype
                assert result.is_contiguous()
                expected = reference.splat(*exact, target, mode, padding)
                assert_close(result, expected, dtype)

                grad = torch.randn(expected.shape, generator=generator).to(dtype)
                result.backward(grad.to(served.device))
                expected.backward(grad.double())
                for x, y in zip(inputs, exact, strict=True):
                    if x is not None:
                        assert x.grad.dtype == dtype
                        wanted = torch.zeros_like(y) if y.grad is None else y.grad
                        assert_close(x.grad, wanted, dtype)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", ["2d", "3d"])
def test_is_the_transposed_matrix_of_warp(served, generator, size, mode, padding):
    """The matrix of warp, column by column, from images that are 1 in one voxel."""
    spatial, target = SIZES[size]
    image, displacement, affine = make_inputs(generator, spatial, batch=1, channels=1)
    units = torch.eye(math.prod(target), dtype=torch.float64)
    matrix = plasticine.warp(
        units.view(1, -1, *target), displacement, affine=affine, mode=mode, padding=padding
    ).flatten(2)[0]
    result = plasticine.splat(
        image.to(served.device),
        displacement.to(served.device),
        affine=affine.to(served.device),
        size=target,
        mode=mode,
        padding=padding,
        backend=served.backend,
    )
    assert_close(result.flatten(), matrix @ image.flatten(), torch.float64)


@pytest.mark.parametrize("peer", ["interpol", "monai"])
@pytest.mark.parametrize("size", ["2d", "3d-long"])
def test_equals_grid_push_of_others(served, generator, peer, size):
    module = pytest.importorskip("interpol" if peer == "interpol" else "monai.networks.layers")
    spatial, target = SIZES[size]
    image, displacement, _ = make_inputs(generator, spatial)
    axes = [torch.arange(n, dtype=torch.float64) for n in spatial]
    grid = (torch.stack(torch.meshgrid(*axes, indexing="ij")) + displacement).movedim(1, -1)
    for padding, bound in (("zeros", "zero"), ("border", "replicate"), ("reflection", "dct1")):
        try:
            expected = module.grid_push(
                image, grid, list(target), interpolation="linear", bound=bound, extrapolate=True
            )
        except (ImportError, RuntimeError, NameError) as error:
            pytest.skip(f"{peer} cannot serve grid_push here: {error}")
        result = plasticine.splat(
            image.to(served.device),
            displacement.to(served.device),
            size=target,
            padding=padding,
            backend=served.backend,
        )
        assert_close(result, expected, torch.float64)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_what_is_kept_and_what_is_lost(served, generator, mode):
    image, displacement, _ = make_inputs(generator, SIZES["3d-long"][0])
    image, displacement = image.abs().to(served.device), displacement.to(served.device)
    before = image.sum((2, 3, 4))

    def mass(padding: str) -> Tensor:
        splat = plasticine.splat(
            image, displacement, mode=mode, padding=padding, backend=served.backend
        )
        return splat.sum((2, 3, 4))

    torch.testing.assert_close(mass("border"), before)
    torch.testing.assert_close(mass("reflection"), before)
    assert (mass("zeros") < before).all()


def test_the_splat_of_ones_counts(served):
    """Two voxels on one, half of one on each of two others, one lost."""
    displacement = torch.zeros(1, 2, 1, 4, device=served.device)
    displacement[0, 1, 0] = torch.tensor([1.0, 0.0, 0.5, 5.0])
    ones = torch.ones(1, 1, 1, 4, device=served.device)
    count = plasticine.splat(ones, displacement, padding="zeros", backend=served.backend)
    assert count.flatten().tolist() == [0, 2, 0.5, 0.5]
    count = plasticine.splat(ones, displacement, size=(2, 5), backend=served.backend)
    assert count.tolist() == [[[[0, 2, 0.5, 0.5, 1], [0, 0, 0, 0, 0]]]]


def test_the_identity_copies(served, generator):
    image, displacement, _ = make_inputs(generator, SIZES["3d-long"][0])
    image = image.to(served.device)
    for mode in MODES:
        for padding in PADDINGS:
            result = plasticine.splat(
                image,
                torch.zeros_like(displacement, device=served.device),
                mode=mode,
                padding=padding,
                backend=served.backend,
            )
            torch.testing.assert_close(result, image, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_image_with_a_float32_displacement(served, generator, dtype):
    image, displacement, affine = make_inputs(generator, SIZES["3d"][0])
    image, displacement, affine = image.to(dtype), displacement.float(), affine.float()
    inputs = [x.to(served.device).requires_grad_() for x in (image, displacement, affine)]
    exact = [x.detach().double().requires_grad_() for x in (image, displacement, affine)]
    result = plasticine.splat(*inputs[:2], affine=inputs[2], backend=served.backend)
    expected = reference.splat(*exact)
    assert result.dtype == dtype
    assert_close(result, expected, dtype)
    result.sum().backward()
    expected.sum().backward()
    for x, y in zip(inputs, exact, strict=True):
        assert_close(x.grad, y.grad, x.dtype)


@pytest.mark.parametrize("layout", ["permuted", "sliced", "expanded"])
def test_strides_do_not_matter(served, generator, layout):
    def view(x: Tensor) -> Tensor:
        x = x.detach().to(served.device)
        if layout == "permuted":
            return x.movedim(1, -1).contiguous().movedim(-1, 1)
        if layout == "sliced":
            larger = x.new_full([2 * n for n in x.shape], torch.nan)
            return larger[tuple(slice(None, None, 2) for _ in x.shape)].copy_(x)
        return x[:1].expand_as(x) if x.dim() == 3 else x[:1, :, :1].expand_as(x)

    inputs = make_inputs(generator, SIZES["3d-long"][0])
    grad = torch.randn(2, 3, *SIZES["3d-long"][1], generator=generator, dtype=torch.float64)
    views = [view(x).requires_grad_() for x in inputs]
    solid = [x.detach().contiguous().requires_grad_() for x in views]
    results = []
    for tensors, weight in ((views, view(grad)), (solid, view(grad).contiguous())):
        result = plasticine.splat(
            *tensors[:2], affine=tensors[2], size=SIZES["3d-long"][1], backend=served.backend
        )
        results.append((result, *torch.autograd.grad(result, tensors, weight)))
    for x, y in zip(*results, strict=True):
        assert_close(x, y, torch.float64)


@pytest.mark.parametrize("alone", [0, 1, 2])
def test_a_batch_of_one_meets_a_batch_of_many(served, generator, alone):
    inputs = make_inputs(generator, SIZES["2d"][0], batch=3)
    inputs = [x[:1] if i == alone else x for i, x in enumerate(inputs)]
    inputs = [x.to(served.device).requires_grad_() for x in inputs]
    repeated = [x.repeat(3 // x.shape[0], *[1] * (x.dim() - 1)) for x in inputs]
    result = plasticine.splat(*inputs[:2], affine=inputs[2], backend=served.backend)
    expected = plasticine.splat(*repeated[:2], affine=repeated[2], backend=served.backend)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    gradients = torch.autograd.grad(result.square().sum(), inputs)
    wanted = torch.autograd.grad(expected.square().sum(), inputs)
    for x, y in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_a_nan_coordinate_is_added_nowhere(served, generator, mode, padding):
    image, displacement, _ = make_inputs(generator, SIZES["2d-long"][0])
    without = image.clone()
    without[0, :, 2, 3] = 0
    expected = reference.splat(without, displacement, None, None, mode, padding)
    displacement[0, 1, 2, 3] = math.nan
    inputs = [x.to(served.device).requires_grad_() for x in (image, displacement)]
    result = plasticine.splat(*inputs, mode=mode, padding=padding, backend=served.backend)
    assert_close(result, expected, torch.float64)
    result.square().sum().backward()
    # The gradient to the image is warp, which has no value there, and only there.
    assert inputs[0].grad[0, :, 2, 3].isnan().all()
    assert inputs[0].grad.isnan().sum() == 3
    assert inputs[1].grad.isnan().sum() == (0 if mode == "nearest" else 2)


@pytest.mark.parametrize(
    ("image_shape", "size"),
    [
        ((0, 2, 4, 5), (4, 5)),
        ((2, 0, 4, 5), (3, 3)),
        ((2, 3, 0, 5), (4, 5)),
        ((2, 3, 0, 5), (0, 5)),
        ((1, 2, 3, 0, 5), (2, 2, 2)),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_empty_tensors(served, image_shape, size, mode):
    ndim = len(size)
    image = torch.ones(image_shape, device=served.device, requires_grad=True)
    displacement = torch.ones(image_shape[0], ndim, *image_shape[2:], device=served.device)
    displacement.requires_grad_()
    result = plasticine.splat(image, displacement, size=size, mode=mode, backend=served.backend)
    assert torch.equal(result, torch.zeros(*image_shape[:2], *size, device=served.device))
    result.sum().backward()
    for x in (image, displacement):
        assert torch.equal(x.grad, torch.zeros_like(x))


def test_gradcheck(served, generator):
    for size in ("2d", "3d"):
        spatial, target = SIZES[size]
        inputs = [x.to(served.device) for x in make_inputs(generator, spatial, batch=1)]
        inputs = [x.requires_grad_() for x in inputs]
        for padding in PADDINGS:
            torch.autograd.gradcheck(
                lambda y, u, a, padding=padding, target=target: plasticine.splat(
                    y, u, affine=a, size=target, padding=padding, backend=served.backend
                ),
                inputs,
                fast_mode=True,
                nondet_tol=order_of_sums(inputs[0]),
            )


def test_second_derivatives_that_warp_gives(served, generator):
    """The gradient to the image is a warp, which differentiates."""
    image, displacement, _ = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"][0]))
    torch.autograd.gradgradcheck(
        lambda y: plasticine.splat(y, displacement, backend=served.backend),
        [image.requires_grad_()],
        fast_mode=True,
        nondet_tol=order_of_sums(image),
    )


def test_the_same_bits_for_any_number_of_threads(native, generator):
    inputs = [x.float() for x in make_inputs(generator, (13, 11, 37), batch=1)]
    inputs[1][:, :, :5] -= 4  # crowd one border
    assert inputs[1].numel() >= SHARED_SIZE
    runs = []
    before = torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        try:
            runs.append(plasticine.splat(*inputs[:2], affine=inputs[2], backend="cpu"))
        finally:
            torch.set_num_threads(before)
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_opcheck(served, generator):
    image, displacement, affine = (
        x.to(served.device).requires_grad_() for x in make_inputs(generator, SIZES["2d"][0])
    )
    for matrix in (None, affine):
        arguments = (image, displacement, matrix, [6, 9], "linear", "border", served.backend)
        torch.library.opcheck(SPLAT.overload, arguments)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiles_into_one_graph(served, generator, dynamic):
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")

    def function(image: Tensor, displacement: Tensor) -> Tensor:
        return plasticine.splat(image, displacement * 2, backend=served.backend).sum(2)

    compiled = torch.compile(function, fullgraph=True, dynamic=dynamic, backend=counter)
    for size in (5, 8, 11) if dynamic else (5,):
        inputs = [x.to(served.device) for x in make_inputs(generator, (size, 7))[:2]]
        inputs = [x.requires_grad_() for x in inputs]
        result, expected = compiled(*inputs), function(*inputs)
        torch.testing.assert_close(result, expected)
        gradients = torch.autograd.grad(result.square().sum(), inputs)
        wanted = torch.autograd.grad(expected.square().sum(), inputs)
        for x, y in zip(gradients, wanted, strict=True):
            torch.testing.assert_close(x, y)
    assert counter.frame_count == 1


def test_function_transforms(served, generator):
    image, displacement, _ = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"][0]))

    def loss(displacement: Tensor, image: Tensor) -> Tensor:
        return plasticine.splat(image, displacement, backend=served.backend).square().sum()

    leaf = displacement.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, image), leaf)
    torch.testing.assert_close(torch.func.grad(loss)(displacement, image), expected)
    per_sample = torch.vmap(torch.func.grad(loss))(displacement[:, None], image[:, None])
    torch.testing.assert_close(per_sample[:, 0], expected)


def test_inference_mode(served, generator):
    with torch.inference_mode():
        image, displacement, _ = make_inputs(generator, SIZES["2d"][0])
        image, displacement = image.to(served.device) * 1, displacement.to(served.device) * 1
        result = plasticine.splat(image, displacement, backend=served.backend)
    expected = plasticine.splat(image.clone(), displacement.clone(), backend=served.backend)
    assert_same_sums(result, expected)


def test_the_module(served, generator):
    image, displacement, _ = (x.to(served.device) for x in make_inputs(generator, SIZES["2d"][0]))
    module = Splat("nearest", "reflection", backend=served.backend)
    expected = plasticine.splat(
        image,
        displacement,
        size=(6, 9),
        mode="nearest",
        padding="reflection",
        backend=served.backend,
    )
    assert_same_sums(module(image, displacement, size=(6, 9)), expected)
    assert "mode='nearest', padding='reflection'" in repr(module)
    with pytest.raises(ValueError, match="mode must be one of"):
        Splat("wrong")


IMAGE = torch.zeros(2, 3, 4, 5)
FIELD = torch.zeros(2, 2, 4, 5)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((None, FIELD), {}, TypeError, "image must be a torch.Tensor, got NoneType"),
        ((IMAGE.long(), FIELD), {}, TypeError, r"image must be float32.*got torch.int64"),
        ((IMAGE, FIELD.double()), {}, TypeError, "displacement torch.float64 and image"),
        ((IMAGE, FIELD[..., :4]), {}, ValueError, r"same spatial size.*\(2, 3, 4, 5\).*\(2, 2, 4"),
        ((IMAGE, FIELD), {"size": (4,)}, ValueError, r"size must be 2 numbers.*got \(4,\)"),
        ((IMAGE, FIELD), {"size": (4, -1)}, ValueError, r"size must be 2 numbers.*got \(4, -1\)"),
        ((IMAGE, FIELD), {"size": (4, 0)}, ValueError, r"size \(4, 0\) has no voxels"),
        ((IMAGE, FIELD), {"size": (4, 2.5)}, TypeError, "size must be a sequence of ints"),
        ((IMAGE, FIELD), {"size": 4}, TypeError, "size must be a sequence of ints"),
        ((IMAGE, FIELD), {"mode": "quintic"}, ValueError, "mode must be one of"),
        ((IMAGE, FIELD), {"padding": "edge"}, ValueError, "padding must be one of 'zeros'"),
        ((IMAGE, FIELD), {"affine": torch.zeros(2, 2, 2)}, ValueError, r"affine must have shape"),
        ((IMAGE, FIELD), {"backend": "triton"}, RuntimeError, "it takes CUDA tensors"),
    ],
)
def test_refused_inputs(arguments, options, error, message):
    with pytest.raises(error, match=message):
        plasticine.splat(*arguments, **options)
