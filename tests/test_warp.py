"""plasticine.warp against its float64 reference, and against torch.grid_sample."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from comparison import PADDINGS, ROUNDING, assert_close, leaf, order_of_sums
from torch import Tensor

import plasticine
from plasticine import reference
from plasticine.ops._kernels import SHARED_SIZE

OPERATOR = "warp"

MODES = ("linear", "nearest")
# Image and output sizes: odd, unequal, rows longer than a SIMD register, axes of length 1.
SIZES = {
    "2d": ((7, 5), (6, 9)),
    "2d-long": ((5, 67), (4, 83)),
    "2d-thin": ((1, 9), (5, 1)),
    "3d": ((5, 4, 7), (3, 6, 5)),
    "3d-long": ((3, 4, 35), (4, 3, 51)),
    "3d-thin": ((4, 1, 3), (1, 5, 4)),
}

# grid_sample recovers integers and ties exactly on these: size - 1 is a power of two.
POWER_OF_TWO_SIZES = (
    ((9, 5), (6, 11)),
    ((5, 65), (4, 83)),
    ((5, 3, 9), (3, 6, 5)),
    ((3, 5, 33), (4, 3, 51)),
)


def grid_sample(image: Tensor, displacement: Tensor, mode: str, padding: str) -> Tensor:
    """The pipeline that warp replaces."""
    axes = [torch.arange(n, dtype=image.dtype) for n in displacement.shape[2:]]
    identity = torch.stack(torch.meshgrid(*axes, indexing="ij"))
    last = torch.tensor(image.shape[2:], dtype=image.dtype).sub(1)
    grid = (identity + displacement).movedim(1, -1) * 2 / last - 1
    mode = "bilinear" if mode == "linear" else mode
    return F.grid_sample(image, grid.flip(-1), mode, padding, align_corners=True)


def strided(x: Tensor, layout: str) -> Tensor:
    """The values of ``x`` in memory that is not contiguous."""
    if layout == "permuted":
        return x.movedim(-1, 1).contiguous().movedim(1, -1)
    if layout == "sliced":
        larger = torch.full([2 * n + 1 for n in x.shape], torch.nan, dtype=x.dtype, device=x.device)
        view = larger[tuple(slice(1, None, 2) for _ in x.shape)]
        return view.copy_(x)
    if layout == "offset rows":
        larger = x.new_full((*x.shape[:-1], x.shape[-1] + 3), torch.nan)
        view = larger[..., 2:-1]
        return view.copy_(x)
    raise AssertionError(layout)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_equals_the_float64_reference(served, generator, warp_inputs, size, dtype):
    """Result and all three gradients; every mode and padding, with and without an affine."""
    rounded = [x.to(dtype) for x in warp_inputs(SIZES[size])]
    for mode in MODES:
        for padding in PADDINGS:
            for with_affine in (False, True):
                inputs = [leaf(x, device=served.device) for x in rounded]
                exact = [leaf(x, dtype=torch.float64) for x in rounded]
                if not with_affine:
                    inputs[2] = exact[2] = None
                result = plasticine.warp(
                    *inputs[:2],
                    affine=inputs[2],
                    mode=mode,
                    padding=padding,
                    backend=served.backend,
                )
                assert result.dtype == dtype
                assert result.is_contiguous()
                expected = reference.warp(*exact, mode, padding)
                assert_close(result, expected, dtype)

                grad = torch.randn(expected.shape, generator=generator).to(dtype)
                result.backward(grad.to(served.device))
                expected.backward(grad.double())
                for x, y in zip(inputs, exact, strict=True):
                    if x is not None:
                        assert x.grad.dtype == dtype
                        wanted = torch.zeros_like(y) if y.grad is None else y.grad
                        assert_close(x.grad, wanted, dtype)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_smooth_fields_equal_the_float64_reference(served, generator, dtype, padding):
    """Neighbours side by side, well inside the image and at its edge."""
    for size in ((21, 70), (9, 8, 40)):
        mode = "bilinear" if len(size) == 2 else "trilinear"
        for channels, spread in itertools.product((1, len(size)), (0.2, 2.0)):
            coarse = torch.randn(2, len(size), *[3] * len(size), generator=generator) * spread
            displacement = F.interpolate(coarse, size, mode=mode, align_corners=True)
            # Exact coordinates, away from where the derivative jumps.
            displacement = displacement.mul(16).round().add(0.5).div(16)
            image = torch.randn(2, channels, *size, generator=generator)
            rounded = [x.to(dtype) for x in (image, displacement)]
            inputs = [leaf(x, device=served.device) for x in rounded]
            exact = [leaf(x, dtype=torch.float64) for x in rounded]
            result = plasticine.warp(*inputs, padding=padding, backend=served.backend)
            expected = reference.warp(*exact, padding=padding)
            assert_close(result, expected, dtype)
            grad = torch.randn(expected.shape, generator=generator).to(dtype)
            result.backward(grad.to(served.device))
            expected.backward(grad.double())
            for x, y in zip(inputs, exact, strict=True):
                assert_close(x.grad, y.grad, dtype)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_nearest_copies_voxels_as_they_are(served, generator, dtype, padding):
    """Locations side by side and apart, half way between voxels, beyond the image and nowhere."""
    for size in ((9, 40), (5, 7, 33)):
        image = torch.randn(2, 3, *size, generator=generator).to(dtype)
        for spread in (0.0, 0.3, 8.0):
            offsets = torch.randn(2, len(size), *size, generator=generator) * spread
            displacement = (offsets * 4).round().div(4).add(0.5).to(dtype)
            displacement[0, 0, ..., 3] = torch.nan
            inputs = (image.to(served.device), displacement.to(served.device))
            result = plasticine.warp(
                *inputs, mode="nearest", padding=padding, backend=served.backend
            )
            exact = (image.double(), displacement.double())
            expected = reference.warp(*exact, mode="nearest", padding=padding)
            torch.testing.assert_close(
                result.double().cpu(), expected, rtol=0, atol=0, equal_nan=True
            )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_image_with_a_float32_displacement(served, warp_inputs, dtype):
    image, displacement, affine = warp_inputs(SIZES["3d"])
    image = image.to(dtype)
    fields = [displacement.float(), affine.float()]
    inputs = [leaf(x, device=served.device) for x in (image, *fields)]
    exact = [leaf(x, dtype=torch.float64) for x in (image, *fields)]
    result = plasticine.warp(*inputs[:2], affine=inputs[2], backend=served.backend)
    expected = reference.warp(*exact)
    assert result.dtype == dtype
    assert_close(result, expected, dtype)
    result.sum().backward()
    expected.sum().backward()
    assert [x.grad.dtype for x in inputs] == [dtype, torch.float32, torch.float32]
    assert_close(inputs[0].grad, exact[0].grad, dtype)
    assert_close(inputs[1].grad, exact[1].grad, torch.float32)
    assert_close(inputs[2].grad, exact[2].grad, torch.float32)


@pytest.mark.parametrize("sizes", POWER_OF_TWO_SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_grid_sample_with_its_gradients(
    served, generator, warp_inputs, sizes, mode, padding
):
    image, displacement, _ = warp_inputs(sizes)
    # Half of the coordinates are exact integers and ties, where conventions show.
    displacement[:, :, ::2] = displacement[:, :, ::2].mul(2).round().div(2)
    inputs = [leaf(x, device=served.device) for x in (image, displacement)]
    exact = [leaf(x) for x in (image, displacement)]
    result = plasticine.warp(*inputs, mode=mode, padding=padding, backend=served.backend)
    expected = grid_sample(*exact, mode, padding)
    assert_close(result, expected, torch.float64)
    grad = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    result.backward(grad.to(served.device))
    expected.backward(grad)
    assert_close(inputs[0].grad, exact[0].grad, torch.float64)
    assert_close(inputs[1].grad, exact[1].grad, torch.float64)


@pytest.mark.parametrize("layout", ["permuted", "sliced", "offset rows"])
@pytest.mark.parametrize("size", ["2d-long", "3d-long"])
@pytest.mark.parametrize("mode", MODES)
def test_strides_do_not_matter(served, warp_inputs, layout, size, mode):
    inputs = [x.float().to(served.device) for x in warp_inputs(SIZES[size])]
    inputs[2].requires_grad_(mode == "linear")
    expected, gradients = _warp_and_gradients(inputs, mode, served.backend)
    views = [strided(x.detach(), layout) for x in inputs]
    assert not views[0].is_contiguous()
    result, found = _warp_and_gradients(views, mode, served.backend, grad_layout=layout)
    assert result.is_contiguous()
    assert_close(result, expected, torch.float32)
    for x, y in zip(found, gradients, strict=True):
        assert_close(x, y, torch.float32)


def _warp_and_gradients(
    inputs: list[Tensor], mode: str, backend: str, grad_layout: str | None = None
) -> tuple[Tensor, tuple[Tensor, ...]]:
    image, displacement, affine = (x.detach().requires_grad_() for x in inputs)
    result = plasticine.warp(image, displacement, affine=affine, mode=mode, backend=backend)
    grad = torch.linspace(-1, 1, result.numel(), device=result.device).view(result.shape)
    if grad_layout is not None:
        grad = strided(grad, grad_layout)
    return result, torch.autograd.grad(result, (image, displacement, affine), grad)


def test_expanded_inputs_and_gradients(served, warp_inputs):
    """Stride 0 along channels, rows and the batch, and a gradient that is one expanded number."""
    image, displacement, affine = warp_inputs(SIZES["3d"], batch=1, channels=1)
    image = image[..., :1, :].to(served.device).requires_grad_()
    displacement = displacement[:, :, :, :, :1].to(served.device).requires_grad_()
    affine = affine.to(served.device).requires_grad_()

    def run(contiguous: bool) -> tuple[Tensor, ...]:
        views = [
            image.expand(3, 4, -1, 6, -1),
            displacement.expand(3, -1, -1, -1, 5),
            affine.expand(3, -1, -1),
        ]
        if contiguous:
            views = [x.contiguous() for x in views]
        result = plasticine.warp(views[0], views[1], affine=views[2], backend=served.backend)
        return (result, *torch.autograd.grad(result.sum(), (image, displacement, affine)))

    for x, y in zip(run(False), run(True), strict=True):
        assert_close(x, y, torch.float64)


@pytest.mark.parametrize("alone", [0, 1, 2])
def test_a_batch_of_one_meets_a_batch_of_many(served, generator, warp_inputs, alone):
    """One image, displacement or affine for three; its gradient is the sum of the three."""
    inputs = warp_inputs(SIZES["2d"], batch=3)
    inputs = [x[:1] if i == alone else x for i, x in enumerate(inputs)]
    inputs = [leaf(x, device=served.device) for x in inputs]
    repeated = [x.repeat(3 // x.shape[0], *[1] * (x.dim() - 1)) for x in inputs]
    result = plasticine.warp(inputs[0], inputs[1], affine=inputs[2], backend=served.backend)
    expected = plasticine.warp(repeated[0], repeated[1], affine=repeated[2], backend=served.backend)
    torch.testing.assert_close(result, expected, rtol=0, atol=0)
    weight = torch.rand(result.shape, generator=generator, dtype=result.dtype).to(served.device)
    gradients = torch.autograd.grad((result * weight).sum(), inputs)
    for x, y in zip(gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(x, y)


def test_one_affine_for_one_image_and_many_displacements(served, warp_inputs):
    image, displacement, affine = warp_inputs(SIZES["2d"], batch=3)
    result = plasticine.warp(
        image[:1].to(served.device),
        displacement.to(served.device),
        affine=affine[:1].to(served.device),
        backend=served.backend,
    )
    expected = reference.warp(image[[0, 0, 0]], displacement, affine[[0, 0, 0]])
    assert_close(result, expected, torch.float64)


def test_the_identity_copies(served, warp_inputs):
    image = warp_inputs(SIZES["3d-long"])[0].to(served.device)
    displacement = image.new_zeros(2, 3, *image.shape[2:])
    for mode in MODES:
        for padding in PADDINGS:
            result = plasticine.warp(
                image, displacement, mode=mode, padding=padding, backend=served.backend
            )
            assert torch.equal(result, image)


def test_component_i_moves_along_axis_i(served):
    image = torch.arange(24.0, device=served.device).view(1, 1, 2, 3, 4)
    displacement = torch.zeros(1, 3, 2, 3, 4, device=served.device)
    displacement[:, 1] = 1
    result = plasticine.warp(image, displacement, padding="zeros", backend=served.backend)
    assert torch.equal(result[0, 0, :, :2], image[0, 0, :, 1:])
    assert torch.equal(result[0, 0, :, 2], torch.zeros(2, 4, device=served.device))


def test_gradients_only_where_asked(served, warp_inputs):
    image, displacement, affine = (x.to(served.device) for x in warp_inputs(SIZES["2d"]))
    for wanted in (image, displacement, affine):
        wanted.requires_grad_()
        plasticine.warp(image, displacement, affine=affine, backend=served.backend).sum().backward()
        assert [x.grad is None for x in (image, displacement, affine)] == [
            x is not wanted for x in (image, displacement, affine)
        ]
        wanted.requires_grad_(False)
        wanted.grad = None


def test_gradcheck(served, warp_inputs):
    for size in ("2d", "3d"):
        inputs = warp_inputs(SIZES[size], batch=1, channels=2)
        inputs = [leaf(x, device=served.device) for x in inputs]
        for padding in PADDINGS:
            torch.autograd.gradcheck(
                lambda i, u, a, padding=padding: plasticine.warp(
                    i, u, affine=a, padding=padding, backend=served.backend
                ),
                inputs,
                fast_mode=True,
                nondet_tol=order_of_sums(inputs[0]),
            )


@pytest.mark.parametrize("image_size", [(9, 8, 33), (3, 4, 35), (11, 67)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_same_bits_for_any_number_of_threads(native, warp_inputs, image_size, dtype):
    """Scattered gradients too, where many voxels meet, and whichever axis is shared out."""
    size = (13, 11, 37) if len(image_size) == 3 else (67, 71)
    image, displacement, affine = warp_inputs((image_size, size), batch=1)
    displacement[:, :, :5] *= 0.1
    assert displacement.numel() >= SHARED_SIZE
    identity = torch.eye(*affine.shape[1:], dtype=torch.float64)[None]
    affine[:, 0] *= 0.2  # crowd the first axis
    before = torch.get_num_threads()
    for mode, transform in itertools.product(MODES, (affine, identity)):
        inputs = [x.to(dtype) for x in (image, displacement, transform)]
        runs = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            try:
                result, gradients = _warp_and_gradients(inputs, mode, "cpu")
            finally:
                torch.set_num_threads(before)
            runs.append((result, *gradients))
        for other in runs[1:]:
            for x, y in zip(runs[0], other, strict=True):
                assert torch.equal(x, y)


def test_deterministic_algorithms_give_the_same_bits_every_time(served, warp_inputs):
    inputs = warp_inputs(((5, 4, 3), (17, 16, 15)), batch=1)
    inputs = [x.float().to(served.device) for x in inputs]
    torch.use_deterministic_algorithms(True)
    try:
        first = _warp_and_gradients(inputs, "linear", served.backend)
        for _ in range(3):
            again = _warp_and_gradients(inputs, "linear", served.backend)
            for x, y in zip((first[0], *first[1]), (again[0], *again[1]), strict=True):
                assert torch.equal(x, y)
    finally:
        torch.use_deterministic_algorithms(False)


# Against other programs


def test_equals_simpleitk(served, warp_inputs):
    sitk = pytest.importorskip("SimpleITK")
    image, displacement, _ = warp_inputs(((7, 8, 9), (7, 8, 9)), batch=1, channels=1)
    displacement *= 0.5
    moving = sitk.GetImageFromArray(image[0, 0].numpy())
    # ITK orders components x, y, z.
    field = displacement[0].flip(0).movedim(0, -1).contiguous().numpy()
    transform = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(field, isVector=True))
    resampled = sitk.Resample(moving, transform, sitk.sitkLinear, math.nan)
    expected = torch.from_numpy(sitk.GetArrayFromImage(resampled))
    result = plasticine.warp(
        image.to(served.device), displacement.to(served.device), backend=served.backend
    )[0, 0].cpu()
    inside = expected.isfinite()  # ITK's own boundary rule is another
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(result[inside], expected[inside])
