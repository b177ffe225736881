"""The forward pass of warp_exponential on the GPU backends; its backward pass is that of others."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops._exponential_backends import stored_stages
from plasticine.ops._warp_exponential_backends import FORWARD

METHODS = ("euler", "midpoint", "rk4")
MODES = ("linear", "nearest")
PADDINGS = ("zeros", "border", "reflection")
# Image and velocity sizes: odd, unequal, with axes of length 1, over more than one block.
SIZES = (
    ((1, 9), (5, 1)),
    ((7, 6), (4, 37)),
    ((3, 1, 4), (1, 5, 4)),
    ((4, 6, 5), (3, 5, 34)),
)
SMALL_SIZES = (((4, 5, 6), (3, 6, 5)), ((5, 6), (7, 4)))  # 3D, 2D

# Triton's interpreter takes a tenth of a second for a block of voxels: each case in fewer variants.
INTERPRETED = os.environ["PLASTICINE_KERNELS"] == "triton"

Forward = Callable[..., tuple[Tensor, Tensor | None]]


@pytest.fixture(scope="session")
def forward(kernel_backend) -> Forward:
    return FORWARD[kernel_backend]


def make_inputs(
    sizes: tuple[tuple[int, ...], tuple[int, ...]], *, peak: float = 1.5
) -> tuple[Tensor, Tensor]:
    """Float64 image of three channels, and velocity of this root mean square."""
    generator = torch.Generator().manual_seed(5)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    image_size, size = sizes
    return randn(2, 3, *image_size), randn(2, len(size), *size) * peak


def check(
    forward: Forward,
    assert_close: Callable[..., None],
    inputs: tuple[Tensor, Tensor],
    steps: int,
    method: str,
    mode: str = "linear",
    padding: str = "border",
    field_padding: str = "border",
) -> None:
    """The result with its stages and without, against the reference in float64."""
    image, velocity = inputs
    kept = stored_stages(steps, method)
    options = steps, method, mode, padding, field_padding
    result, stages = forward(image, velocity, *options, kept)
    integrate = reference.exponential
    displacement = integrate(velocity.double(), steps, method, field_padding)
    expected = reference.warp(image.double(), displacement, None, mode, padding)
    assert result.dtype == image.dtype
    assert result.is_contiguous()
    assert_close(result, expected, image.dtype)
    again, nothing = forward(image, velocity, *options, [])
    assert nothing is None
    assert torch.equal(again, result)
    assert (stages is None) == (not kept)
    for index, stage in enumerate(kept):
        u = reference.first_displacement(velocity.double(), 0.5**steps, method, field_padding)
        for _ in range(stage):
            u = reference.compose(u, u, field_padding)
        assert_close(stages[index], u, velocity.dtype)


def test_has_its_function(kernel_backend):
    assert kernel_backend in FORWARD


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_equals_the_reference(forward, assert_close, sizes, method):
    options = list(zip(PADDINGS, (*PADDINGS[1:], *PADDINGS[:1]), (2, 1, 3), strict=True))
    index = METHODS.index(method)
    for padding, field_padding, steps in options[index : index + 1] if INTERPRETED else options:
        inputs = make_inputs(sizes)
        check(
            forward,
            assert_close,
            inputs,
            steps,
            method,
            padding=padding,
            field_padding=field_padding,
        )


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("field_padding", PADDINGS)
@pytest.mark.parametrize(("mode", "sizes"), list(zip(MODES, SMALL_SIZES, strict=True)), ids=str)
def test_every_pair_of_paddings(forward, assert_close, padding, field_padding, mode, sizes):
    check(forward, assert_close, make_inputs(sizes), 1, "euler", mode, padding, field_padding)


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mode", MODES)
def test_every_number_of_steps(forward, assert_close, method, mode):
    for steps in (0, 2) if INTERPRETED else (0, 1, 2, 5):
        check(forward, assert_close, make_inputs(SMALL_SIZES[1]), steps, method, mode)


@pytest.mark.parametrize(
    ("image_dtype", "field_dtype"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
    ids=str,
)
@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
def test_every_dtype(forward, assert_close, image_dtype, field_dtype, sizes):
    image, velocity = make_inputs(sizes, peak=0.7)
    inputs = image.to(image_dtype), velocity.to(field_dtype)
    check(forward, assert_close, inputs, 2, "midpoint")


@pytest.mark.parametrize("sizes", SMALL_SIZES, ids=["3d", "2d"])
@pytest.mark.parametrize("mode", MODES)
def test_strides_and_broadcast_batch(forward, assert_close, sizes, mode):
    """Channel-last, sliced and expanded inputs, read in place."""
    image, velocity = make_inputs(sizes)
    image = image.movedim(1, -1).contiguous().movedim(-1, 1)
    velocity = velocity.repeat_interleave(2, -1)[..., ::2]
    velocity = velocity[:1].expand_as(velocity)
    assert not image.is_contiguous()
    assert not velocity.is_contiguous()
    check(forward, assert_close, (image, velocity), 1, "euler", mode)


@pytest.mark.parametrize("padding", PADDINGS)
def test_what_is_not_finite_stays_where_it_is(forward, padding):
    image, velocity = make_inputs(SMALL_SIZES[1])
    velocity[0, 0, 2, 3] = float("nan")
    result = forward(image, velocity, 1, "euler", "linear", padding, "border", [])[0]
    displacement = reference.exponential(velocity, 1, "euler", "border")
    expected = reference.warp(image, displacement, None, "linear", padding)
    torch.testing.assert_close(result, expected, equal_nan=True, rtol=0, atol=1e-10)
    assert result[1].isfinite().all()


@pytest.mark.parametrize(
    ("image_shape", "field_shape"),
    [
        ((0, 2, 4, 4), (0, 2, 3, 3)),
        ((2, 0, 4, 4), (2, 2, 3, 3)),
        ((2, 3, 4, 4, 4), (2, 3, 3, 0, 3)),
    ],
)
def test_empty(forward, image_shape, field_shape):
    image, velocity = torch.rand(image_shape), torch.rand(field_shape)
    kept = stored_stages(2, "euler")
    result, stages = forward(image, velocity, 2, "euler", "linear", "border", "border", kept)
    assert result.shape == (*image_shape[:2], *field_shape[2:])
    assert stages.shape == (len(kept), *field_shape)


@pytest.mark.parametrize("far", ["image", "velocity"])
@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(forward, assert_close, far):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    image, velocity = make_inputs(((3, 5), (3, 5)), peak=0.7)
    inputs = {"image": image[:1, :2].float(), "velocity": velocity[:1].float()}
    buffer = torch.empty(2**31 + 16)
    values = inputs[far]
    inputs[far] = buffer.as_strided(values.shape, (0, 5, 2**30, 1)).copy_(values)
    check(forward, assert_close, (inputs["image"], inputs["velocity"]), 2, "midpoint")
