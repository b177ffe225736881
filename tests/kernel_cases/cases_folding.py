"""folding on the GPU backends."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plasticine import backends, reference

SCHEMES = ("central", "forward", "backward")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# Axes of length 1, 2 and 3; more than one tile and one piece of the first axis.
INTERPRETED = os.environ["PLASTICINE_KERNELS"] == "triton"
SIZES = (
    *((1, 9), (2, 2), (18, 37), (3, 1, 4), (4, 3, 5)),
    (5, 2, 3) if INTERPRETED else (17, 2, 3),
)
SPACING = (0.5, 2.0, 1.25)

Kernel = Callable[[Tensor, str, bool, tuple[float, ...]], Tensor]


@pytest.fixture(scope="session")
def kernel(kernel_backend) -> Kernel:
    if INTERPRETED:  # the interpreter's time is that of the planes
        for tile in ("_TILE", "_FLOAT64_TILE"):
            getattr(backends.triton_kernels("folding")[0], tile)["PLANES"] = 4
    folding = importlib.import_module("plasticine.ops.folding")  # whose name the function takes
    # Fewer voxels a block than its threads, so that more blocks than one meet.
    folding._CUDA_BLOCK_VOXELS = 32
    folding._CUDA_BLOCKS = 3
    return folding.FORWARD[kernel_backend]


def make_field(size: tuple[int, ...], batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, len(size), *size, generator=generator, dtype=torch.float64) * 0.7


@pytest.mark.usefixtures("deterministic")  # which fills what torch.empty returns with NaN
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_equals_the_reference(kernel, size, scheme):
    field = make_field(size)
    spacing = SPACING[: len(size)]
    interior = scheme != "forward"
    found = kernel(field, scheme, interior, spacing)
    expected = reference.folding(field, scheme, interior, spacing)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(6, 8), (3, 4, 8)], ids=str)
def test_every_dtype_and_stride(kernel, dtype, size):
    field = make_field(size).to(dtype)
    spacing = (1.0,) * len(size)
    expected = reference.folding(field.double(), "central", False, spacing)
    apart = torch.full([2 * n for n in field.shape], torch.nan, dtype=dtype)
    for view in (
        field,
        field.movedim(1, -1).contiguous().movedim(-1, 1),
        apart[tuple(slice(None, None, 2) for _ in apart.shape)].copy_(field),
    ):
        found = kernel(view, "central", False, spacing)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(6, 7), (4, 3, 5)], ids=str)
def test_known_maps(kernel, size):
    """The same log everywhere has no deviation, whatever its size; a mirrored map folds whole."""
    ndim = len(size)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in size), indexing="ij")
    spacing = (1.0,) * ndim
    scaled = kernel(torch.stack(axes)[None] * 2, "central", False, spacing)
    voxels = torch.Size(size).numel()
    assert scaled[0].tolist() == [0, voxels, 3**ndim, 3**ndim, 0, 0]
    mirrored = torch.zeros(1, ndim, *size)
    mirrored[0, 0] = -2 * axes[0]
    found = kernel(mirrored, "central", False, spacing)[0]
    cells = torch.Size([n - 1 for n in size]).numel()
    assert found[:4].tolist() == [voxels, voxels, -1, -1]
    assert found[5].item() == pytest.approx(cells)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_no_sign_of_a_map_without_folds(kernel, value):
    for size, voxel in (((6, 7), (3, 3)), ((3, 4, 5), (1, 2, 2))):
        field = torch.zeros(2, len(size), *size)
        field[(0, 1, *voxel)] = value
        spacing = (1.0,) * len(size)
        found = kernel(field, "central", False, spacing)
        expected = reference.folding(field, "central", False, spacing)
        # A simplex with an infinite corner is infinite or undefined, as its terms are ordered.
        compared = 6 if math.isnan(value) else 5
        torch.testing.assert_close(found[:, :compared], expected[:, :compared], equal_nan=True)
        assert found[1].tolist() == [0, torch.Size(size).numel(), 1, 1, 0, 0]


@pytest.mark.usefixtures("deterministic")
def test_empty(kernel):
    assert kernel(torch.zeros(0, 2, 4, 5), "central", False, (1.0, 1.0)).shape == (0, 6)
    found = kernel(torch.zeros(2, 3, 4, 0, 5), "central", True, (1.0, 1.0, 1.0))
    expected = reference.folding(torch.zeros(2, 3, 4, 0, 5), "central", True)
    torch.testing.assert_close(found, expected, equal_nan=True)


@pytest.mark.usefixtures("overflow_checked")
def test_offsets_beyond_32_bits(kernel):
    """A view whose rows lie 2**30 elements apart; nothing else of its buffer is touched."""
    field = make_field((4, 5), batch=1).to(torch.bfloat16)
    buffer = torch.empty(3 * 2**30 + 16, dtype=torch.bfloat16)
    view = buffer.as_strided(field.shape, (0, 5, 2**30, 1)).copy_(field)
    found = kernel(view, "central", False, (1.0, 1.0))
    expected = reference.folding(field, "central", False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
