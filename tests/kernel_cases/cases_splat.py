"""splat on the GPU backends: what it adds where, and its gradients, which are those of warp."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops import _warp_backends
from plasticine.ops.splat import _FORWARD as FORWARD

MODES = ("linear", "nearest")
PADDINGS = ("zeros", "border", "reflection")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
MIXED = ((torch.float16, torch.float32), (torch.bfloat16, torch.float32))
# The size of the image, that of the result (None for the same), and whether there is an affine.
SIZES = (
    ((17, 16), None, False),
    ((5, 1), (1, 9), True),
    ((3, 6, 16), (4, 5, 3), True),
    ((1, 5, 4), (3, 1, 4), False),
)


@pytest.fixture(scope="session")
def forward(kernel_backend):
    def run(
        image: Tensor,
        displacement: Tensor,
        affine: Tensor | None,
        size: tuple[int, ...] | None,
        mode: str,
        padding: str,
    ) -> Tensor:
        size = image.shape[2:] if size is None else size
        serve = FORWARD[kernel_backend]
        return serve(image, displacement, affine, list(size), mode, padding)

    return run


def make_inputs(size: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Float64 image, displacement (reaching well outside) and affine near identity."""
    generator = torch.Generator().manual_seed(11)
    ndim = len(size)
    image = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64)
    displacement = torch.randn(2, ndim, *size, generator=generator, dtype=torch.float64) * 3
    affine = torch.eye(ndim, ndim + 1, dtype=torch.float64).repeat(2, 1, 1)
    return image, displacement, affine + torch.randn(affine.shape, generator=generator) * 0.2


def expected_of(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None,
    size: tuple[int, ...] | None,
    mode: str,
    padding: str,
) -> Tensor:
    affine = None if affine is None else affine.double()
    with torch.no_grad():
        return reference.splat(image.double(), displacement.double(), affine, size, mode, padding)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
def test_equals_the_reference(forward, assert_close, sizes, mode, padding):
    size, result_size, with_affine = sizes
    image, displacement, affine = make_inputs(size)
    inputs = (image, displacement, affine if with_affine else None, result_size, mode, padding)
    result = forward(*inputs)
    assert result.is_contiguous()
    assert_close(result, expected_of(*inputs), torch.float64)


@pytest.mark.parametrize("dtypes", [*((t, t) for t in DTYPES), *MIXED], ids=str)
@pytest.mark.parametrize(("mode", "is_deterministic"), [("linear", True), ("nearest", False)])
def test_every_dtype(forward, assert_close, dtypes, mode, is_deterministic, request):
    if is_deterministic:
        request.getfixturevalue("deterministic")
    image, displacement, affine = make_inputs((3, 4, 5))
    inputs = (image.to(dtypes[0]), displacement.to(dtypes[1]), affine.to(dtypes[1]))
    options = ((4, 5, 3), mode, "reflection")
    result = forward(*inputs, *options)
    assert result.dtype == dtypes[0]
    assert_close(result, expected_of(*inputs, *options), dtypes[0])


@pytest.mark.parametrize("mode", MODES)
def test_strides_and_broadcast_batch(forward, assert_close, mode):
    """Channel-last, sliced and expanded inputs, read in place."""
    image, displacement, affine = make_inputs((5, 6))
    image = image[:, :1].expand_as(image).transpose(-1, -2).contiguous().transpose(-1, -2)
    displacement = displacement.repeat_interleave(2, -1)[..., ::2]
    displacement = displacement[:1].expand_as(displacement)
    affine = affine.mT.contiguous().mT
    assert not any(x.is_contiguous() for x in (image, displacement, affine))
    inputs = (image, displacement, affine, (7, 4), mode, "border")
    assert_close(forward(*inputs), expected_of(*inputs), torch.float64)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.usefixtures("overflow_checked")
def test_locations_that_do_not_exist(forward, assert_close, mode, padding, value):
    """A voxel that points nowhere is added nowhere."""
    image, displacement, _ = make_inputs((5, 6))
    displacement[:, 0].flatten(1)[:, 3] = value
    inputs = (image, displacement, None, None, mode, padding)
    result = forward(*inputs)
    assert result.isfinite().all()
    assert_close(result, expected_of(*inputs), torch.float64)


@pytest.mark.parametrize("mode", MODES)
def test_a_non_finite_value_stays_with_its_voxels(forward, mode):
    """Outside of the image it is lost; inside it meets the voxels of its cell alone."""
    image = torch.ones(1, 1, 3, 9)
    image[..., 0, 0], image[..., 1, 4] = float("inf"), float("nan")
    displacement = torch.full((1, 2, 3, 9), 0.25)
    displacement[..., 0, 0] = 100.0
    result = forward(image, displacement, None, None, mode, "zeros")
    met = torch.zeros(3, 9, dtype=torch.bool)
    met[1:3, 4:6] = mode == "linear"
    met[1, 4] = True
    assert torch.equal(result[0, 0].isnan(), met)
    assert result[0, 0][~met].isfinite().all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("shape", "size"),
    [((0, 2, 4, 4), (3, 3)), ((2, 0, 4, 4), (3, 3)), ((2, 3, 4, 0, 4), (2, 2, 2))],
)
def test_empty(forward, mode, shape, size):
    displacement = torch.rand(shape[0], len(size), *shape[2:])
    result = forward(torch.rand(shape), displacement, None, size, mode, "border")
    assert result.shape == (*shape[:2], *size)
    assert not result.any()


@pytest.mark.parametrize("mode", MODES)
def test_adjoint_of_warp_on_the_same_backend(forward, kernel_backend, mode):
    """<splat(y, u), x> = <y, warp(x, u)>, from which the gradients of splat follow."""
    y, displacement, affine = make_inputs((3, 6, 5))
    x = torch.randn(2, 3, 4, 3, 6, dtype=torch.float64)
    pushed = forward(y, displacement, affine, tuple(x.shape[2:]), mode, "reflection")
    warp = _warp_backends.FORWARD[kernel_backend]
    pulled = warp(x, displacement, affine, mode, "reflection")
    torch.testing.assert_close((pushed * x).sum(), (y * pulled).sum(), rtol=1e-12, atol=1e-12)
