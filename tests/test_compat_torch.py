"""``grid_sample_displacement``, and ``F.grid_sample`` served by Plasticine."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plasticine import compat
from plasticine.compat import torch as ours

PADDINGS = ("zeros", "border", "reflection")


def volume_and_grid(
    generator: torch.Generator,
    size: tuple[int, ...] = (9, 7, 11),
    spatial: tuple[int, ...] = (16, 14, 11),
) -> tuple[Tensor, Tensor]:
    """Values, and places that reach outside of them, in float64."""
    values = torch.randn(2, 2, *size, generator=generator, dtype=torch.float64)
    places = torch.randn(2, *spatial, len(size), generator=generator, dtype=torch.float64)
    return values, places * 0.9


def with_gradients(
    function: Callable[..., Tensor], *inputs: Tensor, **options: Any
) -> list[Tensor]:
    """A result, and the gradients of fixed weights of it."""
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    result = function(*inputs, **options)
    weights = torch.sin(torch.arange(result.numel(), dtype=result.dtype)).reshape(result.shape)
    return [result.detach(), *torch.autograd.grad((result * weights).sum(), inputs)]


def at_displacement(input: Tensor, displacement: Tensor, *options: Any) -> Tensor:
    """What ``grid_sample_displacement`` is defined as."""
    ndim = input.dim() - 2
    theta = torch.eye(ndim, ndim + 1, dtype=displacement.dtype).expand(len(displacement), -1, -1)
    shape = [len(displacement), 1, *displacement.shape[1:-1]]
    grid = F.affine_grid(theta, shape, options[-1]) + displacement
    return F.grid_sample(input, grid, *options)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize(
    ("ndim", "mode"),  # F.grid_sample has no 3D bicubic: below
    [(2, "bilinear"), (2, "nearest"), (2, "bicubic"), (3, "bilinear"), (3, "nearest")],
)
def test_displacements_are_relative_to_the_identity(
    generator: torch.Generator, ndim: int, mode: str, padding: str, align_corners: bool
):
    options = mode, padding, align_corners
    for spatial in ((9, 7, 11), (12, 5, 8)):  # the input's own size, and another
        values, displacement = volume_and_grid(generator, (9, 7, 11)[:ndim], spatial[:ndim])
        found = with_gradients(
            lambda *x: ours.grid_sample_displacement(*x, *options), values, displacement
        )
        expected = with_gradients(lambda *x: at_displacement(*x, *options), values, displacement)
        torch.testing.assert_close(found, expected)


def test_bicubic_in_3d_is_bicubic_in_each_plane(generator: torch.Generator):
    values, displacement = volume_and_grid(generator, (1, 7, 9), (1, 7, 9))
    displacement[..., 2] = 0  # within the only plane
    found = ours.grid_sample_displacement(values, displacement, "bicubic", "border")
    flat = displacement[:, 0, ..., :2]
    expected = ours.grid_sample_displacement(values[:, :, 0], flat, "bicubic", "border")
    torch.testing.assert_close(found[:, :, 0], expected)
    with pytest.raises(ValueError, match="needs align_corners=True"):
        ours.grid_sample_displacement(values, displacement, "bicubic", "reflection")


def test_a_result_of_one_voxel_is_in_the_middle():
    values = torch.arange(5.0)[None, None, None].expand(1, 1, 3, 5)
    for align_corners in (True, False):
        nowhere = torch.zeros(1, 1, 1, 2)
        found = ours.grid_sample_displacement(values, nowhere, align_corners=align_corners)
        assert found.item() == 2


def test_errors_of_displacements():
    values, nowhere = torch.zeros(1, 1, 4, 5), torch.zeros(1, 4, 5, 2)
    with pytest.raises(ValueError, match="displacement"):
        ours.grid_sample_displacement(values, nowhere[..., :1])
    with pytest.raises(ValueError, match="mode must be one of"):
        ours.grid_sample_displacement(values, nowhere, "linear")
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        ours.grid_sample_displacement(values, nowhere, padding_mode="wrap")


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_grid_sample_is_pytorchs(
    generator: torch.Generator, mode: str, padding: str, align_corners: bool
):
    values, grid = volume_and_grid(generator)
    options = {"mode": mode, "padding_mode": padding, "align_corners": align_corners}
    assert ours._is_served(values, grid, mode, padding)
    expected = with_gradients(F.grid_sample, values, grid, **options)
    torch.testing.assert_close(with_gradients(ours.grid_sample, values, grid, **options), expected)
    values, grid = values.float(), grid.float()
    expected = F.grid_sample(values, grid, **options)
    found = ours.grid_sample(values, grid, **options)
    if mode == "nearest":
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("align_corners", [True, False])
def test_halves_are_rounded_as_pytorch_does(align_corners: bool):
    """A volume at half its resolution is read between its voxels."""
    values = torch.randn(1, 1, 32, 34, 36)
    theta = torch.eye(3, 4)[None]
    grid = F.affine_grid(theta, [1, 1, 16, 17, 18], align_corners)
    expected = F.grid_sample(values, grid, "nearest", "border", align_corners)
    assert ours._is_served(values, grid, "nearest", "border")
    assert torch.equal(ours.grid_sample(values, grid, "nearest", "border", align_corners), expected)


def test_grids_of_affine_grid_are_served(generator: torch.Generator):
    values, _ = volume_and_grid(generator)
    theta = torch.eye(3, 4, dtype=torch.float64).repeat(2, 1, 1)
    theta += torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) * 0.2

    def sampled(values: Tensor, theta: Tensor) -> Tensor:
        grid = F.affine_grid(theta, [2, 2, 16, 14, 11], align_corners=False)
        return F.grid_sample(values, grid, align_corners=False)

    expected = with_gradients(sampled, values, theta)
    with compat.patched("torch") as report:
        assert F.grid_sample is ours.grid_sample
        found = with_gradients(sampled, values, theta)
    assert F.grid_sample is not ours.grid_sample
    assert "torch.nn.functional.grid_sample" in str(report)
    torch.testing.assert_close(found, expected)


def test_everything_else_is_pytorchs_own(generator: torch.Generator):
    """Also what raises: then the error is PyTorch's."""
    values, grid = (x.float() for x in volume_and_grid(generator))

    def outcome(function: Callable[..., Tensor], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception as error:
            return type(error), str(error)

    cases = [
        (values[:, :, 0], grid[:, 0, ..., :2], "bicubic", "zeros", True),
        (values, grid, "bicubic", "zeros", True),
        (values, grid, "linear", "zeros", True),
        (values, grid, "bilinear", "wrap", True),
        (values[:, :, 0], grid, "bilinear", "zeros", True),
        (values, grid[:1], "bilinear", "zeros", True),
        (values, grid.double(), "bilinear", "zeros", True),
        (values, grid[:, :1, :1], "bilinear", "zeros", True),
        (values[..., :0], grid, "bilinear", "zeros", True),
        (values.half(), grid.half(), "bilinear", "zeros", True),
        (values.tolist(), grid, "bilinear", "zeros", True),
    ]
    for arguments in cases:
        expected = outcome(F.grid_sample, *arguments)
        found = outcome(ours.grid_sample, *arguments)
        if isinstance(expected, Tensor):
            assert torch.equal(found, expected)
        else:
            assert found == expected


def test_align_corners_that_is_not_told_warns(generator: torch.Generator):
    values, grid = volume_and_grid(generator)
    with pytest.warns(UserWarning, match="align_corners=False"):
        found = ours.grid_sample(values, grid)
    torch.testing.assert_close(found, F.grid_sample(values, grid, align_corners=False))


def test_compile_and_vmap(generator: torch.Generator):
    values, grid = (x.float() for x in volume_and_grid(generator))
    for function, padding in itertools.product(
        (ours.grid_sample, ours.grid_sample_displacement), PADDINGS
    ):

        def sample(values: Tensor, grid: Tensor, f: Any = function, p: str = padding) -> Tensor:
            return f(values, grid, "bilinear", p, True)

        expected = sample(values, grid)
        compiled = torch.compile(sample, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(values, grid), expected, atol=1e-5, rtol=1e-5)
    mapped = torch.vmap(lambda x, y: sample(x[None], y[None])[0])(values, grid)
    torch.testing.assert_close(mapped, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_trace_is_of_pytorchs_own(generator: torch.Generator):
    """Also that which the TorchScript exporter to ONNX makes."""
    values, grid = (x.float() for x in volume_and_grid(generator))

    def sampled(values: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(values, grid, align_corners=True)

    expected = torch.jit.trace(sampled, (values, grid))
    with compat.patched("torch"):
        found = torch.jit.trace(sampled, (values, grid))
    operators = [{node.kind() for node in x.graph.nodes()} for x in (found, expected)]
    assert operators[0] == operators[1]
    assert torch.equal(found(values, grid), sampled(values, grid))
