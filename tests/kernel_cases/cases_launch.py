"""Shapes that decide how a GPU's kernels are launched: many samples, long lines, many steps."""

from __future__ import annotations

import pytest
import torch

import plasticine
from plasticine.conformance import METHODS, OPERATORS, variants
from plasticine.ops._exponential_steps import peak


def compare(kernel_backend, assert_close, name, sizes, dtype=torch.float32, count=99, **shape):
    """Result and gradients of an operator's variants against the definition in float64."""
    operator = OPERATORS[name]
    for variant in variants(name, 1)[:count]:
        options = operator.options(variant, sizes, dtype)
        inputs = operator.inputs(sizes, variant, dtype, **shape)
        leaves = [x.requires_grad_() for x in inputs.values()]
        exact = [x.detach().double().requires_grad_() for x in leaves]
        result = operator(inputs, options, kernel_backend)
        expected = operator.definition(**dict(zip(inputs, exact, strict=True)), **options)
        assert_close(result, expected, dtype)
        grad = torch.randn(result.shape, generator=torch.Generator().manual_seed(3))
        found = torch.autograd.grad(result, leaves, grad.to(dtype), materialize_grads=True)
        wanted = torch.autograd.grad(
            expected, exact, grad.to(dtype).double(), materialize_grads=True
        )
        for x, y in zip(found, wanted, strict=True):
            assert_close(x, y, dtype)


@pytest.mark.parametrize("sizes", [((4, 5), (9, 5)), ((4, 3, 5), (5, 3, 7))], ids=["2d", "3d"])
@pytest.mark.parametrize("name", ["warp", "splat"])
def test_many_samples(kernel_backend, assert_close, name, sizes):
    """Enough work for the CUDA kernels to give a thread several voxels, one above the other."""
    if kernel_backend == "triton":
        pytest.skip("as many voxels always")
    compare(kernel_backend, assert_close, name, sizes, batch=16)


@pytest.mark.parametrize("size", [(3, 4), (3, 5), (3, 2, 4)], ids=str)
def test_more_planes_than_one(kernel_backend, assert_close, size):
    """CUDA threads go through several planes where there are blocks enough without."""
    if kernel_backend == "triton":
        pytest.skip("as many planes always")
    compare(kernel_backend, assert_close, "jacobian", (size, size), count=2, batch=2100)


@pytest.mark.parametrize("size", [(40, 3), (3, 67), (2, 33, 35)], ids=str)
def test_long_lines(kernel_backend, assert_close, size):
    """So long that only their ends' factors are kept, and more of them than a block solves."""
    if kernel_backend == "triton" and len(size) == 3:
        size = (2, 5, 9)
    shape = {"batch": 1, "channels": 1}
    compare(
        kernel_backend, assert_close, "spline_coefficients", (size, size), torch.float64, **shape
    )


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_wide_windows(kernel_backend, assert_close, dtype):
    """Of more weights than a CUDA block computes at once."""
    generator = torch.Generator().manual_seed(3)
    images = torch.randn(1, 1, 2, 600, generator=generator).to(dtype).requires_grad_()
    grad = torch.randn(images.shape, generator=generator).to(dtype)
    found, expected = [], []
    for backend, x, results in (
        (kernel_backend, images, found),
        ("reference", images.detach().double().requires_grad_(), expected),
    ):
        results += [plasticine.gaussian_smooth(x, (0, 100.0), backend=backend)]
        results += torch.autograd.grad(results[0], x, grad.to(x.dtype))
    for x, y in zip(found, expected, strict=True):
        assert_close(x, y, dtype)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [0, 5, 7])
def test_every_number_of_steps(kernel_backend, assert_close, method, steps):
    """The backward pass plans its memory by the number of stages."""
    if kernel_backend == "triton" and (method, steps) != ("euler", 5):
        pytest.skip("each step takes the interpreter long, and has been seen")
    sizes = ((5, 6), (5, 6))
    operator = OPERATORS["exponential"]
    for checkpoint in ("store", "recompute"):
        options = {"steps": steps, "method": method, "padding": "border", "inverse": True}
        options |= {"checkpoint": checkpoint}
        (velocity,) = operator.inputs(sizes, {}, torch.float64).values()
        exact, leaf = (velocity.clone().requires_grad_() for _ in range(2))
        result = operator({"velocity": leaf}, options, kernel_backend)
        expected = operator.definition(exact, **options)
        assert_close(result, expected, torch.float64)
        result.square().sum().backward()
        expected.square().sum().backward()
        assert_close(leaf.grad, exact.grad, torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [(7, 5), (3, 41), (1, 9), (2, 3, 37), (4, 1, 3)], ids=str)
def test_peak(kernel_backend, dtype, size):
    """The greatest speed; voxels with a NaN or an infinity are left aside."""
    generator = torch.Generator().manual_seed(3)
    velocity = torch.randn(2, len(size), *size, generator=generator).to(dtype)
    velocity[1, :, -1, -1] = 7.0
    velocity[0, 0].flatten()[:2] = torch.tensor([float("nan"), -float("inf")], dtype=dtype)
    found = peak(velocity.movedim(1, -1).contiguous().movedim(-1, 1), kernel_backend)
    norm = torch.linalg.vector_norm(velocity.double(), dim=1)
    assert found == pytest.approx(norm[norm.isfinite()].max().item(), rel=1e-12)
    assert peak(velocity[:0], kernel_backend) == 0.0


@pytest.mark.parametrize(("method", "size"), [("euler", (4, 5, 6)), ("midpoint", (5, 6))], ids=str)
def test_the_pair_is_two_and_its_stages_are_on_the_way(kernel_backend, method, size):
    """The same bits as one by one, and gradients from what is kept as from what is computed again.

    Deterministic algorithms would go another way.
    """
    (velocity,) = OPERATORS["exponential"].inputs((size, size), {}, torch.float64).values()
    options = {"steps": 2 if kernel_backend == "triton" else 4, "method": method}
    options |= {"backend": kernel_backend}
    pair = plasticine.exponential(velocity, inverse=True, **options)
    for sign, whole in zip((1, -1), pair, strict=True):
        found = []
        for checkpoint in ("store", "recompute"):
            leaf = (sign * velocity).requires_grad_()
            alone = plasticine.exponential(leaf, checkpoint=checkpoint, **options)
            assert torch.equal(alone, whole)
            found += torch.autograd.grad(alone.square().sum(), leaf)
        assert torch.equal(*found)


@pytest.mark.parametrize("size", [(6, 7), (4, 3, 5)], ids=str)
def test_folding_of_known_maps(kernel_backend, size):
    """The same log everywhere has no deviation, whatever its size; a mirrored map folds whole."""
    ndim = len(size)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    found = plasticine.folding(torch.stack(axes)[None] * 2, backend=kernel_backend)
    statistics = (found.folds, found.minimum, found.maximum, found.sd_log_jacobian)
    assert [x.item() for x in statistics] == [0, 3**ndim, 3**ndim, 0]
    assert found.non_diffeomorphic_volume.item() == 0
    mirrored = torch.zeros(1, ndim, *size)
    mirrored[0, 0] = -2 * axes[0]
    found = plasticine.folding(mirrored, backend=kernel_backend)
    assert found.folds.item() == torch.Size(size).numel()
    assert (found.minimum.item(), found.maximum.item()) == (-1, -1)
    cells = torch.Size([n - 1 for n in size]).numel()
    assert found.non_diffeomorphic_volume.item() == pytest.approx(cells)
