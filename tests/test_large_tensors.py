"""Tensors that span more than 2**31 elements: every offset is counted in 64 bits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import plasticine

# Shapes with strides, in elements, whose last element is the 2**31th or a later one.
LAYOUTS = {
    "2d": ((1, 2, 3, 5), (0, 2**30, 2**29 + 64, 1)),
    "3d": ((1, 3, 2, 3, 5), (0, 2**29, 2**30 + 64, 2**8, 1)),
    "3d, sparse rows": ((1, 3, 2, 3, 5), (0, 64, 2**8, 2**30, 7)),
}
SPAN = 2**31 + 2**12

OPERATORS: dict[str, Callable[[Tensor], Tensor]] = {
    "warp": lambda u: plasticine.warp(u[:, :1], u, backend="cpu"),
    "nearest warp": lambda u: plasticine.warp(u, u, mode="nearest", backend="cpu"),
    "compose": lambda u: plasticine.compose(u, u, backend="cpu"),
    "exponential": lambda u: plasticine.exponential(u, steps=3, backend="cpu"),
    "jacobian": lambda u: plasticine.jacobian_determinant(u, backend="cpu"),
    "folding": lambda u: plasticine.folding(u, backend="cpu").non_diffeomorphic_volume,
}


@pytest.fixture(scope="module")
def memory() -> Iterator[Tensor]:
    """4 GiB of address space, of which only the pages that are written to are ever there."""
    try:
        yield torch.empty(SPAN, dtype=torch.float16)
    except RuntimeError:
        pytest.skip("4 GiB of address space are not to be had")


def spread(x: Tensor, memory: Tensor, strides: tuple[int, ...], offset: int = 0) -> Tensor:
    """The values of ``x`` far apart in memory."""
    view = memory.as_strided(x.shape, strides, offset)
    last = sum((n - 1) * stride for n, stride in zip(x.shape, strides, strict=True))
    assert last >= 2**31
    return view.copy_(x)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", OPERATORS)
def test_fields_that_span_more(native, generator, memory, layout, name):
    shape, strides = LAYOUTS[layout]
    solid = torch.randn(shape, generator=generator).half()
    operator = OPERATORS[name]
    near = solid.requires_grad_()
    far = spread(solid.detach(), memory, strides).requires_grad_()
    result, expected = operator(far), operator(near)
    assert torch.equal(result, expected)
    if name in ("folding", "nearest warp"):
        return
    for x, y in zip(
        torch.autograd.grad(result.square().sum(), far),
        torch.autograd.grad(expected.square().sum(), near),
        strict=True,
    ):
        assert torch.equal(x, y)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_gradients_that_span_more(native, generator, memory, layout, mode):
    """What is scattered to the image and gathered for the field, from a gradient far apart."""
    shape, strides = LAYOUTS[layout]
    field, grad = (torch.randn(shape, generator=generator).half() for _ in range(2))
    far = spread(grad, memory, strides)

    def gradients(grad: Tensor) -> tuple[Tensor, ...]:
        inputs = [field.clone().requires_grad_() for _ in range(2)]
        result = plasticine.warp(*inputs, mode=mode, backend="cpu")
        return torch.autograd.grad(result, inputs, grad)

    for x, y in zip(gradients(far), gradients(grad), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_second_derivatives_that_span_more(native, generator, memory, layout):
    shape, strides = LAYOUTS[layout]
    near = torch.randn(shape, generator=generator).half()
    far = spread(near, memory, strides)

    def second(field: Tensor) -> tuple[Tensor, ...]:
        leaves = [field.detach().requires_grad_() for _ in range(3)]
        result = plasticine.compose(*leaves[:2], backend="cpu")
        gradients = torch.autograd.grad(result, leaves[:2], leaves[2], create_graph=True)
        return torch.autograd.grad(gradients, leaves, [field, field])

    for x, y in zip(second(far), second(near), strict=True):
        assert torch.equal(x, y)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_more_voxels_than_32_bits_count(native, mode):
    """A field of one voxel repeated along both axes, composed and warped where 5 voxels look."""
    many = torch.full((1, 2, 1, 1), 0.25, dtype=torch.float64).expand(1, 2, 2**17, 2**17)
    few = torch.full((1, 2, 1, 5), 2.0**16, dtype=torch.float64, requires_grad=True)
    moved = plasticine.warp(many, few, mode=mode, padding="zeros", backend="cpu")
    assert torch.equal(moved, torch.full_like(moved, 0.25))
    composed = plasticine.compose(many, few, padding="zeros", backend="cpu")
    assert torch.equal(composed, few + 0.25)
    (gradient,) = torch.autograd.grad(composed.sum(), few)
    assert torch.equal(gradient, torch.ones_like(few))


@pytest.mark.parametrize(
    ("backend", "selection"),
    # In float32 the reference counts a spline's taps in coordinates, which skip every other voxel.
    [("cpu", ""), ("reference", "not bspline")],
)
def test_an_axis_whose_last_voxel_float32_rounds_up(backend, selection):
    """The cases that the GPU kernels are tested by, without a GPU."""
    if backend == "cpu" and plasticine.backends.NATIVE is None:
        pytest.skip(str(plasticine.backends.NATIVE_ERROR))
    cases = Path(__file__).with_name("kernel_cases") / "cases_long_axis.py"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=--import-mode=importlib", "-k", selection, str(cases)]
    run = subprocess.run(
        command,
        env=os.environ | {"PLASTICINE_KERNELS": backend},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
