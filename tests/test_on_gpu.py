"""Every operator on a GPU: memory it must not read, streams, graphs, determinism, large indices.

What an operator computes there is the matter of test_conformance.py, which takes the GPU's backends
by itself. Without a GPU the calls below run on the compiled CPU backend, so that they are known
to be right.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import plasticine
from plasticine import backends

HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
BACKENDS = ("cuda", "triton") if HAS_GPU else ("cpu",)
needs_gpu = pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")

SMALL_SIZES = ((9, 7), (5, 6, 7))
MIDDLE_SIZE = (48, 40, 56) if HAS_GPU else (6, 5, 7)
REPETITIONS = 10


@dataclass(frozen=True)
class Call:
    """One way to call an operator.

    Attributes:
        operator: as plasticine.ops.REGISTRY has it.
        inputs: what it takes: "image", "field", "affine".
        function: takes these and ``backend=``; returns a tensor.
        differentiable: whether the inputs get gradients.
        reads: whether the host reads a result, which no CUDA graph can hold.
        bytes_per_voxel: of what it holds at most beside bfloat16 inputs, in 3D. Exponentials are
            integrated in float32: the velocity, a displacement and the next one of each direction,
            then the results in bfloat16.
    """

    operator: str
    inputs: tuple[str, ...]
    function: Callable[..., Tensor]
    differentiable: bool = True
    reads: bool = False
    bytes_per_voxel: int = 16


def warp(image: Tensor, field: Tensor, affine: Tensor | None = None, **options: Any) -> Tensor:
    return plasticine.warp(image, field, affine=affine, **options)


def both(velocity: Tensor, backend: str) -> Tensor:
    return torch.stack(plasticine.exponential(velocity, inverse=True, backend=backend))


LOSSES = ("jacobian_penalty", "joint_histogram", "lncc", "mind_distance", "smoothness")
"""Whose result is a number a sample."""

CALLS = {
    "warp": Call("warp", ("image", "field"), warp),
    "warp with an affine map": Call("warp", ("image", "field", "affine"), warp),
    "warp, nearest": Call(
        "warp", ("image", "field"), lambda *x, backend: warp(*x, mode="nearest", backend=backend)
    ),
    "warp, cubic": Call(
        "warp",
        ("image", "field", "affine"),
        lambda *x, backend: warp(*x, mode="cubic", backend=backend),
    ),
    "compose": Call("compose", ("field", "field"), plasticine.compose),
    "exponential": Call("exponential", ("field",), plasticine.exponential, bytes_per_voxel=48),
    "exponential, midpoint, recomputed": Call(
        "exponential",
        ("field",),
        lambda v, backend: plasticine.exponential(
            v, method="midpoint", steps=3, checkpoint="recompute", backend=backend
        ),
        bytes_per_voxel=48,
    ),
    "exponential and its inverse": Call("exponential", ("field",), both, bytes_per_voxel=84),
    "warp_exponential": Call(
        "warp_exponential",
        ("image", "field"),
        plasticine.warp_exponential,
        bytes_per_voxel=52,
    ),
    "jacobian_determinant": Call("jacobian", ("field",), plasticine.jacobian_determinant),
    "jacobian_penalty": Call("jacobian_penalty", ("field",), plasticine.jacobian_penalty),
    "smoothness": Call(
        "smoothness",
        ("field",),
        lambda v, backend: plasticine.smoothness(v, order=2, backend=backend),
    ),
    "joint_histogram": Call("joint_histogram", ("image", "image"), plasticine.joint_histogram),
    "lncc": Call("lncc", ("image", "image"), plasticine.lncc),
    "mind_distance": Call("mind_distance", ("image", "image"), plasticine.mind_distance),
    "folding": Call(
        "folding",
        ("field",),
        lambda u, backend: plasticine.folding(u, backend=backend).folds.float(),
        differentiable=False,
    ),
    "splat": Call("splat", ("image", "field"), plasticine.splat),
    "splat, cubic": Call(
        "splat",
        ("image", "field"),
        lambda *x, backend: plasticine.splat(*x, mode="cubic", backend=backend),
    ),
    "spline_coefficients": Call("spline_coefficients", ("image",), plasticine.spline_coefficients),
    "gaussian_smooth": Call(
        "gaussian_smooth",
        ("image",),
        lambda x, backend: plasticine.gaussian_smooth(x, 1.7, backend=backend),
    ),
    # It says when it has not converged, and looks for that.
    "invert": Call(
        "invert",
        ("field",),
        lambda u, backend: plasticine.invert(u, backend=backend).displacement,
        reads=True,
    ),
}


def unsuited(backend: str, call: Call) -> str | None:
    return backends.unsuited(backend, call.operator, DEVICE)


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=CALLS)
def call(request: pytest.FixtureRequest, backend: str) -> Call:
    call = CALLS[request.param]
    if (reason := unsuited(backend, call)) is not None:
        pytest.skip(reason)
    return call


def inputs_of(call: Call, size: tuple[int, ...], device: str = DEVICE) -> list[Tensor]:
    """Float32 inputs; the fields are smooth enough to be inverted, and differ."""
    generator = torch.Generator().manual_seed(20261124)
    ndim = len(size)
    made = []
    for name in call.inputs:
        if name == "affine":
            x = torch.eye(ndim, ndim + 1) + 0.05 * torch.randn(
                2, ndim, ndim + 1, generator=generator
            )
        elif name == "image":
            x = torch.rand(2, 3, *size, generator=generator)
        else:
            x = torch.rand(2, ndim, *size, generator=generator) * 0.2 + 0.3
        made.append(x.to(device).requires_grad_(call.differentiable))
    return made


def results_of(call: Call, inputs: list[Tensor], backend: str) -> tuple[Tensor, ...]:
    """The result, and the gradients of its sum of squares."""
    result = call.function(*inputs, backend=backend)
    if not call.differentiable:
        return (result,)
    gradients = torch.autograd.grad(result, inputs, 2 * result.detach())
    return (result.detach(), *gradients)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("size", SMALL_SIZES, ids=["2d", "3d"])
def test_small_case(call, backend, size):
    """Forward and backward, in poisoned memory; the case of compute-sanitizer."""
    inputs = inputs_of(call, size)
    found = results_of(call, inputs, backend)
    exact = [x.detach().cpu().double().requires_grad_(call.differentiable) for x in inputs]
    expected = results_of(call, exact, "reference")
    for actual, wanted in zip(found, expected, strict=True):
        # The inverse is found to its tolerance, and its gradient with it.
        allowed = (1e-2 if call.operator == "invert" else 1e-4) * max(1, wanted.abs().max().item())
        torch.testing.assert_close(actual.cpu().double(), wanted.double(), rtol=0, atol=allowed)


@pytest.mark.usefixtures("deterministic")
def test_deterministic_mode_repeats_bit_for_bit(call, backend):
    inputs = inputs_of(call, MIDDLE_SIZE)
    first = results_of(call, inputs, backend)
    for _ in range(REPETITIONS - 1):
        for actual, wanted in zip(results_of(call, inputs, backend), first, strict=True):
            assert torch.equal(actual, wanted)


@needs_gpu
def test_runs_on_the_current_stream(call, backend):
    """Queued behind slow work on a side stream, the kernels see what that work wrote."""
    inputs = inputs_of(call, MIDDLE_SIZE)
    expected = results_of(call, inputs, backend)
    late = [torch.zeros_like(x) for x in inputs]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(100_000_000)
        for x, value in zip(late, inputs, strict=True):
            x.copy_(value.detach())
            x.requires_grad_(call.differentiable)
        found = results_of(call, late, backend)
    stream.synchronize()
    assert_equal_but_for_atomics(found, expected)


@needs_gpu
def test_is_captured_in_a_cuda_graph(call, backend):
    """No synchronisation, no allocation of its own; after a call outside, as Triton may tune."""
    if call.reads:
        pytest.skip("it reads whether it has converged")
    inputs = inputs_of(call, MIDDLE_SIZE)
    expected = results_of(call, inputs, backend)
    moved = [x.detach().clone().requires_grad_(call.differentiable) for x in inputs]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        results_of(call, moved, backend)
    torch.cuda.synchronize()
    with torch.no_grad():
        for x in moved:
            x.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        found = results_of(call, moved, backend)
    with torch.no_grad():
        for x, value in zip(moved, inputs, strict=True):
            x.copy_(value)
    graph.replay()
    torch.cuda.synchronize()
    assert_equal_but_for_atomics(found, expected)


def assert_equal_but_for_atomics(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for actual, wanted in zip(found, expected, strict=True):
        allowed = 1e-5 * max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(actual, wanted, rtol=0, atol=allowed)


@needs_gpu
@pytest.mark.parametrize("name", ["warp", "compose", "exponential", "jacobian_determinant"])
def test_nothing_is_allocated_but_results_and_gradients(name, backend):
    call = CALLS[name]
    if (reason := unsuited(backend, call)) is not None:
        pytest.skip(reason)
    inputs = inputs_of(call, (96, 96, 96))
    result = call.function(*inputs, backend=backend)
    given = torch.ones_like(result)
    kept = 7 * result.nbytes if name == "exponential" else result.nbytes  # its squarings are kept
    del result
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(call.function(*inputs, backend=backend), inputs, given)
    peak = torch.cuda.max_memory_allocated() - before
    gradients = sum(x.nbytes for x in inputs)
    # Two gradients alternate in the exponential's backward pass.
    allowed = kept + gradients * (2 if name == "exponential" else 1)
    assert peak <= allowed + (4 << 20), f"{peak} bytes, of which {allowed} are results"


@needs_gpu
def test_more_than_two_billion_voxels(call, backend):
    """A bfloat16 field or image of 1291**3 voxels, of which only the far corner is not zero."""
    if call.reads or not call.differentiable or call.operator in LOSSES:
        pytest.skip("its result is not found in a corner")
    far, near = 1291, 24
    channels = {"image": 1, "field": 3}
    given = sum(2 * channels.get(name, 0) for name in call.inputs)
    needed = (given + call.bytes_per_voxel) * far**3
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < needed:
        pytest.skip(f"needs {needed / 2**30:.0f} GiB of free GPU memory")
    generator = torch.Generator().manual_seed(3)
    small, large = [], []
    for name in call.inputs:
        if name == "affine":
            x = torch.eye(3, 4)[None]
            small.append(x)
            large.append(x.to("cuda", torch.bfloat16))
            continue
        x = torch.zeros(1, channels[name], *[near] * 3)
        shape = (1, channels[name], 8, 8, 8)
        x[..., -8:, -8:, -8:] = 0.3 * torch.rand(shape, generator=generator).bfloat16().float()
        y = torch.zeros(1, channels[name], far, far, far, dtype=torch.bfloat16, device="cuda")
        y[..., -near:, -near:, -near:] = x
        small.append(x)
        large.append(y)
    expected = call.function(*small, backend="reference")[..., -4:, -4:, -4:]
    found = call.function(*large, backend=backend)[..., -4:, -4:, -4:]
    torch.testing.assert_close(found.float().cpu(), expected, rtol=0, atol=3e-2)


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_runs_on_the_tensors_device(call, backend):
    inputs = inputs_of(call, MIDDLE_SIZE, "cuda:1")
    with torch.cuda.device(0):
        found = results_of(call, inputs, backend)
        expected = results_of(call, inputs, "reference")
    assert all(x.device == inputs[0].device for x in found)
    for actual, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(actual, wanted, atol=1e-3, rtol=0)
