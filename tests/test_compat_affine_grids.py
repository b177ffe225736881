"""``F.affine_grid`` put off until its grid is asked for, and ``F.grid_sample`` without one."""

from __future__ import annotations

import copy
import functools
import io
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from plasticine import compat
from plasticine.compat import _affine_grids
from plasticine.compat import torch as ours

SPATIAL = (16, 14, 11)


@pytest.fixture
def patched() -> Iterator[None]:
    with compat.patched("torch"):
        yield


def volume_and_theta(
    generator: torch.Generator, size: tuple[int, ...] = (9, 7, 11), dtype: Any = torch.float64
) -> tuple[Tensor, Tensor]:
    ndim = len(size)
    theta = torch.eye(ndim, ndim + 1, dtype=torch.float64).repeat(2, 1, 1)
    theta += torch.randn(*theta.shape, generator=generator, dtype=torch.float64) * 0.2
    values = torch.randn(2, 2, *size, generator=generator, dtype=torch.float64)
    return values.to(dtype), theta.to(dtype)


def with_gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """A result, and the gradients of fixed weights of it."""
    inputs = tuple(x.clone().requires_grad_() for x in inputs)
    result = function(*inputs)
    weights = torch.sin(torch.arange(result.numel(), dtype=result.dtype)).reshape(result.shape)
    return [result.detach(), *torch.autograd.grad((result * weights).sum(), inputs)]


def put_off(theta: Tensor, spatial: tuple[int, ...] = SPATIAL, align_corners: bool = False) -> Any:
    grid = F.affine_grid(theta, [2, 2, *spatial], align_corners)
    assert type(grid) is _affine_grids.AffineGrid
    return grid


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("align_corners", list(itertools.product([True, False], repeat=2)))
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
def test_what_is_sampled_is_pytorchs(
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
    padding: str,
    align_corners: tuple[bool, bool],
    dtype: torch.dtype,
):
    def sampled(values: Tensor, theta: Tensor, spatial: tuple[int, ...]) -> Tensor:
        grid = F.affine_grid(theta, [2, 2, *spatial], align_corners[0])
        return F.grid_sample(values, grid, "bilinear", padding, align_corners[1])

    tolerance = {"atol": 1e-3, "rtol": 1e-4} if dtype == torch.float32 else {}
    for size, spatial in (
        ((9, 7, 11), SPATIAL),
        (SPATIAL, SPATIAL),
        ((5, 1, 8), (2, 65, 33)),
        ((9, 7), (129, 67)),
    ):
        inputs = volume_and_theta(generator, size, dtype)
        expected = with_gradients(functools.partial(sampled, spatial=spatial), *inputs)
        with compat.patched("torch"), monkeypatch.context() as without:
            if padding != "reflection" or align_corners[1]:  # that of voxels' edges needs a grid
                without.delattr(_affine_grids, "AFFINE_GRID")
            found = with_gradients(functools.partial(sampled, spatial=spatial), *inputs)
        torch.testing.assert_close(found, expected, **tolerance)


def _in_place(grid: Tensor) -> Tensor:
    grid += 0.25
    return grid


def _called(grid: Tensor) -> Tensor:
    grid.mul_(0.5)
    return grid


def _assigned(grid: Tensor) -> Tensor:
    grid[:, 3:, ..., 1] = 0.125
    return grid


def _viewed(grid: Tensor) -> Tensor:
    grid[..., 0].add_(0.5)
    grid.view(-1)[7] = 0
    return grid


def _unrecorded(grid: Tensor) -> Tensor:
    with torch.no_grad():
        grid.add_(0.125)
    return grid


def _of_data(grid: Tensor) -> Tensor:
    grid.data += 0.125
    return grid


def _of_numpy(grid: Tensor) -> Tensor:
    grid.detach().numpy()[:, 2] = 0.5
    return grid


@pytest.mark.parametrize(
    "change", [_in_place, _called, _assigned, _viewed, _unrecorded, _of_data, _of_numpy]
)
def test_a_change_is_sampled(generator: torch.Generator, change: Callable[[Tensor], Tensor]):
    def sampled(values: Tensor, theta: Tensor) -> Tensor:
        grid = change(F.affine_grid(theta, [2, 2, *SPATIAL], False))
        return F.grid_sample(values, grid, align_corners=False)

    inputs = volume_and_theta(generator)
    expected = with_gradients(sampled, *inputs)
    with compat.patched("torch"):
        found = with_gradients(sampled, *inputs)
    torch.testing.assert_close(found, expected)


def test_a_matrix_that_changes_later_is_not(generator: torch.Generator, patched: None):
    values, theta = volume_and_theta(generator)
    expected = ours._GRID_SAMPLE(
        values, _affine_grids.AFFINE_GRID(theta, [2, 2, *SPATIAL], False), align_corners=False
    )
    grids = [put_off(theta) for _ in range(2)]
    theta.zero_()
    torch.testing.assert_close(F.grid_sample(values, grids[0], align_corners=False), expected)
    assert grids[1].shape == (2, *SPATIAL, 3)
    torch.testing.assert_close(F.grid_sample(values, grids[1], align_corners=False), expected)


class _Doubled(torch.autograd.Function):
    """An operator of the caller's, which PyTorch does not ask a subclass about."""

    @staticmethod
    def forward(ctx: Any, grid: Tensor) -> Tensor:
        return grid * 2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad * 2


def _past_functions(grid: Tensor) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return torch.sin(grid) + grid.mean()


def _loaded(grid: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(grid.detach(), file)
    file.seek(0)
    return torch.load(file) * grid


@pytest.mark.parametrize(
    "use",
    [
        lambda grid: grid.permute(0, 4, 1, 2, 3) + 1,
        lambda grid: torch.cat([grid, grid.flip(1)]),
        lambda grid: grid[0, 2:5].sum(-1),
        lambda grid: copy.copy(grid.detach()) * grid * grid.shape[1],
        lambda grid: F.pad(grid, (1, 1)) if grid.requires_grad else grid * 0,
        lambda grid: torch.stack(list(grid.unbind(-1))),
        lambda grid: grid.to(torch.float32).double(),
        lambda grid: torch.utils.checkpoint.checkpoint(torch.sin, grid, use_reentrant=False),
        _Doubled.apply,
        _past_functions,
        _loaded,
    ],
)
def test_every_other_use_is_of_the_true_grid(
    generator: torch.Generator, use: Callable[[Tensor], Tensor]
):
    def used(theta: Tensor) -> Tensor:
        return use(F.affine_grid(theta, [2, 2, *SPATIAL], True))

    _, theta = volume_and_theta(generator)
    expected = with_gradients(used, theta)
    with compat.patched("torch"):
        found = with_gradients(used, theta)
    assert all(type(x) is Tensor for x in found)
    torch.testing.assert_close(found, expected)


def test_a_gradient_to_the_grid_is_had_by_asking_first(generator: torch.Generator, patched: None):
    values, theta = volume_and_theta(generator)
    grid = put_off(theta.requires_grad_())
    grid.retain_grad()
    F.grid_sample(values, grid, align_corners=False).sum().backward()
    assert grid.grad.shape == (2, *SPATIAL, 3)
    assert theta.grad is not None


def test_no_gradient_is_recorded_where_none_was(generator: torch.Generator, patched: None):
    values, theta = volume_and_theta(generator)
    theta.requires_grad_()
    with torch.no_grad():
        grids = [put_off(theta) for _ in range(2)]
    assert not grids[0].requires_grad
    for grid in grids:
        assert not F.grid_sample(values, grid, align_corners=False).requires_grad
    grid = put_off(theta)
    with torch.no_grad():
        assert not F.grid_sample(values, grid, align_corners=False).requires_grad
    assert F.grid_sample(values, grid, align_corners=False).requires_grad


def test_all_else_is_pytorchs_own(generator: torch.Generator, patched: None):
    values, theta = volume_and_theta(generator)
    size = [2, 2, *SPATIAL]
    for arguments in (
        (theta[:1], size),
        (theta[:, :2], size),
        (theta, size[1:]),
        (theta, [2, 0, *SPATIAL]),
        (theta.int(), size),
    ):
        with pytest.raises((RuntimeError, ValueError)) as theirs:
            _affine_grids.AFFINE_GRID(*arguments, False)
        with pytest.raises(theirs.type) as found:
            F.affine_grid(*arguments, False)
        assert str(found.value) == str(theirs.value)
    with pytest.warns(UserWarning, match="align_corners=False"):
        assert type(F.affine_grid(theta, size)) is Tensor
    assert type(F.affine_grid(theta, [2, 2, 3, 4, 5], False)) is Tensor  # too small
    assert type(F.affine_grid(theta[:, :2, :3], [2, 2, 64, 65], False)) is Tensor
    with pytest.warns(UserWarning, match="unit-size grids"):
        assert type(F.affine_grid(theta, [2, 2, 1, 65, 64], True)) is Tensor
    for options in ({"mode": "nearest"}, {"padding_mode": "reflection"}):
        expected = ours._GRID_SAMPLE(values, put_off(theta).clone(), align_corners=False, **options)
        found = F.grid_sample(values, put_off(theta), align_corners=False, **options)
        torch.testing.assert_close(found, expected)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        F.grid_sample(values.float(), put_off(theta), align_corners=False)
    with pytest.raises(RuntimeError, match="same batch size"):
        F.grid_sample(values[:1], put_off(theta), align_corners=False)
    with (
        pytest.raises(NotImplementedError, match="clone the grid"),
        torch._C.DisableTorchFunctionSubclass(),
    ):
        put_off(theta).add_(1)


def test_a_buffer_may_be_one(generator: torch.Generator, patched: None):
    values, theta = volume_and_theta(generator)
    module = torch.nn.Module()
    module.register_buffer("grid", put_off(theta))
    state = module.state_dict()
    assert type(state["grid"]) is Tensor
    module.load_state_dict({"grid": state["grid"] / 2})
    found = F.grid_sample(values, module.grid, align_corners=False)
    half = put_off(theta / 2)
    torch.testing.assert_close(found, F.grid_sample(values, half, align_corners=False))
    with pytest.raises(RuntimeError, match="Creating a Parameter from an instance of type"):
        torch.nn.Parameter(put_off(theta))
    torch.nn.Parameter(put_off(theta).clone())


def test_compile_trace_and_vmap(generator: torch.Generator, patched: None):
    values, theta = volume_and_theta(generator)

    def sampled(values: Tensor, theta: Tensor) -> Tensor:
        grid = F.affine_grid(theta, [len(values), 2, *SPATIAL], False)
        return F.grid_sample(values, grid, align_corners=False)

    expected = sampled(values, theta)
    compiled = torch.compile(sampled, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(values, theta), expected)
    traced = torch.jit.trace(sampled, (values, theta))
    torch.testing.assert_close(traced(values, theta), expected)
    of_a_grid = torch.compile(
        lambda grid: F.grid_sample(values, grid, align_corners=False), backend="aot_eager"
    )
    torch.testing.assert_close(of_a_grid(put_off(theta)), expected)
    mapped = torch.vmap(lambda x, y: sampled(x[None], y[None])[0])(values, theta)
    torch.testing.assert_close(mapped, expected)
