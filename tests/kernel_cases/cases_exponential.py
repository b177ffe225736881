"""exponential on the GPU backends: forward, from its stages on, and backward."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from plasticine import reference
from plasticine.ops._exponential_backends import (
    BACKWARD,
    FORWARD,
    RESUME,
    first_stage,
    stored_stages,
)
from plasticine.ops._exponential_steps import peak

METHODS = ("euler", "midpoint", "rk4")
PADDINGS = ("zeros", "border", "reflection")
# Odd, with axes of length 1, over more than one block of threads.
SIZES = ((7, 5), (3, 41), (1, 9), (3, 5, 4), (2, 3, 37), (4, 1, 3))
SMALL_SIZES = ((4, 5, 6), (5, 6))  # 3D, 2D

# Triton's interpreter takes a tenth of a second for a block of voxels: each case in fewer variants.
INTERPRETED = os.environ["PLASTICINE_KERNELS"] == "triton"


# Of methods and small sizes; test_equals_the_reference has all in the interpreter, too.
PAIRS = list(itertools.product(METHODS, SMALL_SIZES))
if INTERPRETED:
    PAIRS = [("euler", SMALL_SIZES[0]), ("midpoint", SMALL_SIZES[1])]


def variants(*values: Any, which: Any) -> tuple[Any, ...]:
    """All values, or in the interpreter one of them, which depends on the test's parameters."""
    if INTERPRETED:
        index = sum(str(which).encode()) % len(values)
        return values[index : index + 1]
    return values


class Kernels(NamedTuple):
    forward: Callable[..., tuple[Tensor, Tensor | None, Tensor | None]]
    resume: Callable[..., Tensor]
    backward: Callable[..., Tensor]


@pytest.fixture(scope="session")
def kernels(kernel_backend) -> Kernels:
    return Kernels(FORWARD[kernel_backend], RESUME[kernel_backend], BACKWARD[kernel_backend])


def make_inputs(size: tuple[int, ...], peak: float = 1.5) -> tuple[Tensor, Tensor]:
    """A float64 velocity of this root mean square, and a gradient."""
    generator = torch.Generator().manual_seed(3)
    shape = (2, len(size), *size)
    velocity = torch.randn(shape, generator=generator, dtype=torch.float64) * peak
    return velocity, torch.randn(shape, generator=generator, dtype=torch.float64)


def expected_of(
    velocity: Tensor, grad: Tensor, steps: int, method: str, padding: str, sign: float = 1.0
) -> tuple[Tensor, Tensor]:
    """exp(sign v) and the velocity's gradient, of the reference in float64."""
    leaf = velocity.detach().double().requires_grad_()
    result = reference.exponential(leaf * sign, steps, method, padding)
    return result.detach(), torch.autograd.grad(result, leaf, grad.double())[0]


def check(
    kernels: Kernels,
    assert_close: Callable[..., None],
    inputs: tuple[Tensor, Tensor],
    steps: int,
    method: str,
    padding: str,
) -> None:
    """exp(v) and exp(-v), and their gradients: one with its stages, if any, the other without."""
    velocity, grad = inputs
    kept = stored_stages(steps, method)
    result, inverse, stages = kernels.forward(velocity, steps, method, padding, True, kept)
    assert (stages is None) == (not kept)
    dtype = velocity.dtype
    halves = (None, None) if stages is None else stages.split(len(kept))
    for sign, actual, held in ((1.0, result, halves[0]), (-1.0, inverse, halves[1])):
        expected, gradient = expected_of(velocity, grad, steps, method, padding, sign)
        assert actual.dtype == dtype
        assert_close(actual, expected, dtype)
        own = held if (steps % 2 == 1) == (sign > 0) else None
        options = sign * 0.5**steps, steps, method, padding, [] if own is None else kept
        assert_close(kernels.backward(grad, velocity, own, *options), gradient, dtype)


def test_has_its_functions(kernel_backend):
    for table in (FORWARD, RESUME, BACKWARD):
        assert kernel_backend in table


@pytest.mark.parametrize("size", SIZES[::3] if INTERPRETED else SIZES, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_equals_the_reference(kernels, assert_close, size, method):
    options = list(zip(PADDINGS, (2, 1, 3), strict=True))
    for padding, steps in variants(*options, which=(size, method)):
        check(kernels, assert_close, make_inputs(size), steps, method, padding)


@pytest.mark.parametrize("method", METHODS[:1] if INTERPRETED else METHODS)
@pytest.mark.parametrize("steps", [0, 5] if INTERPRETED else [0, 4, 5, 7])
def test_every_number_of_steps(kernels, assert_close, method, steps):
    check(kernels, assert_close, make_inputs(SMALL_SIZES[1]), steps, method, "border")


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize(("method", "size"), PAIRS, ids=str)
def test_deterministic(kernels, assert_close, size, method):
    for steps in variants(0, 1, 3, which=(size, method)):
        check(kernels, assert_close, make_inputs(size), steps, method, "reflection")


@pytest.mark.parametrize(("method", "size"), PAIRS, ids=str)
def test_writes_all_that_it_returns(kernels, assert_close, monkeypatch, size, method):
    """Memory that starts as NaN, and the atomics that deterministic mode does without."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
        torch.use_deterministic_algorithms(True)
        patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
        try:
            for steps in variants(0, 2, 5, which=(size, method)):
                check(kernels, assert_close, make_inputs(size), steps, method, "zeros")
        finally:
            torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("method", "size"), PAIRS, ids=str)
def test_every_dtype(kernels, assert_close, size, method):
    for dtype in (torch.float32,) if INTERPRETED else (torch.float32, torch.float64):
        velocity, grad = (x.to(dtype) for x in make_inputs(size, peak=0.7))
        check(kernels, assert_close, (velocity, grad), 1, method, "border")


@pytest.mark.parametrize(("method", "size"), PAIRS, ids=str)
def test_the_pair_is_two_and_its_stages_are_on_the_way(kernels, method, size):
    """The same bits as one by one, and as from a stage on."""
    velocity, _ = make_inputs(size)
    steps, padding = 2 if INTERPRETED else 4, "border"
    kept = list(range(first_stage(steps, method), steps))
    result, inverse, stages = kernels.forward(velocity, steps, method, padding, True, kept)
    assert stages.shape == (2 * len(kept), *velocity.shape)
    for sign, whole, own in (
        (1, result, stages[: len(kept)]),
        (-1, inverse, stages[len(kept) :]),
    ):
        alone, nothing, found = kernels.forward(
            sign * velocity, steps, method, padding, False, kept[::2]
        )
        assert nothing is None
        assert torch.equal(alone, whole)
        assert torch.equal(found, own[::2])
        for count in range(1, len(kept) + 1):
            held = own[:count].contiguous()
            resumed = kernels.resume(velocity, held, steps, method, padding, kept[:count])
            assert torch.equal(resumed, whole)


@pytest.mark.parametrize(("method", "size"), PAIRS, ids=str)
def test_strides(kernels, assert_close, size, method):
    """Channel-last and expanded inputs, read in place."""
    velocity, grad = make_inputs(size)
    velocity = velocity.movedim(1, -1).contiguous().movedim(-1, 1)
    grad = grad[:1, :1].expand_as(grad).transpose(-1, -2).contiguous().transpose(-1, -2)
    assert not velocity.is_contiguous()
    assert not grad.is_contiguous()
    check(kernels, assert_close, (velocity, grad), 1, method, "border")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.usefixtures("overflow_checked")
def test_locations_that_do_not_exist(kernels, method, value):
    """What is not finite stays where the reference has it."""
    velocity, _ = make_inputs(SMALL_SIZES[1])
    velocity[0, 0, 2, 3] = value
    result = kernels.forward(velocity, 2, method, "border", False, [])[0]
    expected = reference.exponential(velocity, 2, method, "border")
    torch.testing.assert_close(result, expected, equal_nan=True, rtol=0, atol=1e-10)
    assert result[1].isfinite().all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(0, 2, 4, 4), (2, 3, 3, 0, 3)], ids=str)
def test_empty(kernels, method, shape):
    velocity = torch.rand(shape)
    kept = stored_stages(2, method)
    result, inverse, stages = kernels.forward(velocity, 2, method, "border", True, kept)
    assert result.shape == inverse.shape == velocity.shape
    own = stages[: len(kept)] if kept else None
    found = kernels.backward(result, velocity, own, 0.25, 2, method, "border", kept)
    assert found.shape == velocity.shape
    if kept:
        resumed = kernels.resume(velocity, own, 2, method, "border", kept)
        assert resumed.shape == velocity.shape


@pytest.mark.parametrize("method", METHODS[:1] if INTERPRETED else METHODS)
@pytest.mark.parametrize("far", ["velocity", "grad"])
@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(kernels, assert_close, method, far):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    inputs = dict(zip(("velocity", "grad"), make_inputs((3, 5), peak=0.7), strict=True))
    inputs = {name: x[:1].float() for name, x in inputs.items()}
    buffer = torch.empty(2**31 + 16)
    values = inputs[far]
    inputs[far] = buffer.as_strided(values.shape, (0, 5, 2**30, 1)).copy_(values)
    check(kernels, assert_close, (inputs["velocity"], inputs["grad"]), 2, method, "zeros")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.usefixtures("kernels")
def test_peak(kernel_backend, dtype, size):
    """The greatest speed; voxels with a NaN or an infinity are left aside."""
    velocity = make_inputs(size)[0].to(dtype)
    velocity[1, :, -1, -1] = 7.0
    velocity[0, 0].flatten()[:2] = torch.tensor([float("nan"), -float("inf")], dtype=dtype)
    found = peak(velocity.movedim(1, -1).contiguous().movedim(-1, 1), kernel_backend)
    norm = torch.linalg.vector_norm(velocity.double(), dim=1)
    assert found == pytest.approx(norm[norm.isfinite()].max().item(), rel=1e-12)
    assert peak(velocity[:0], kernel_backend) == 0.0
