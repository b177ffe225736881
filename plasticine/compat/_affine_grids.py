"""``F.affine_grid`` put off: a grid that is not made where only ``grid_sample`` reads it.

An :class:`AffineGrid` is a tensor without memory of its own that keeps the matrix. Whatever
PyTorch is asked of it is asked of the true grid, which is made then, once, with its gradient: an
operator, an attribute, a change in place. Where nothing was asked, ``grid_sample`` takes the matrix
to ``plasticine.warp``. What goes past PyTorch to its memory raises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils import _pytree as pytree

# As it was when this module was imported, which patch does before it replaces anything.
AFFINE_GRID = functional.affine_grid


class AffineGrid(Tensor):
    """What ``F.affine_grid`` returns, before it is made."""

    _theta: Tensor  # a copy: it may be changed before the grid is read
    _size: list[int]
    _align_corners: bool
    _is_recorded: bool
    _made: Tensor | None

    @classmethod
    def put_off(cls, theta: Tensor, size: Sequence[int], align_corners: bool) -> AffineGrid:
        """``F.affine_grid`` of arguments that it takes, with its gradient."""
        theta = theta.clone()
        grid: AffineGrid = _PutOff.apply(theta, list(size), align_corners)
        grid._theta, grid._size, grid._align_corners = theta, list(size), align_corners
        grid._is_recorded, grid._made = torch.is_grad_enabled(), None
        return grid

    def made(self) -> Tensor:
        """The grid itself: one tensor, whatever is done to it."""
        if self._made is None:
            with torch.set_grad_enabled(self._is_recorded):
                self._made = AFFINE_GRID(self._theta, self._size, self._align_corners)
        return self._made

    def affine(self, size: Sequence[int], align_corners: bool) -> Tensor | None:
        """Where it points in an image, ``(N, d, d + 1)`` in voxels; None once the grid is made.

        Args:
            size: the image's spatial size.
            align_corners: of ``grid_sample``, which may not be that of the grid.
        """
        if self._made is not None:
            return None
        spatial = tuple(self._size[2:])
        before, after, centre = _conversion(
            tuple(size), spatial, align_corners, self._align_corners
        )
        affine = before @ self._theta.double() @ after + centre
        return affine.to(self._theta.dtype)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Of the true grid, all that PyTorch does."""
        args, kwargs = pytree.tree_map_only(AffineGrid, AffineGrid.made, (args, kwargs or {}))
        return function(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls,
        function: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Where that was turned off, below autograd, which has the grid's gradient then."""
        if function._schema.is_mutable:
            raise NotImplementedError(f"{function}: clone the grid of F.affine_grid first")
        args, kwargs = pytree.tree_map_only(AffineGrid, _values, (args, kwargs or {}))
        return function(*args, **kwargs)


def _values(grid: AffineGrid) -> Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        made = grid._made
    if made is None:
        made = AFFINE_GRID(grid._theta, grid._size, grid._align_corners)
    return made.detach()


class _PutOff(torch.autograd.Function):
    """The gradient of what holds the grid itself, as an ``autograd.Function`` of the caller's."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, size: list[int], align_corners: bool) -> Tensor:
        ctx.save_for_backward(theta)
        ctx.options = size, align_corners
        shape = (size[0], *size[2:], len(size) - 2)
        grid: Tensor = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            AffineGrid, shape, dtype=theta.dtype, device=theta.device
        )
        return grid

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (theta,) = ctx.saved_tensors
        with torch.enable_grad():
            theta = theta.detach().requires_grad_()
            grid = AFFINE_GRID(theta, *ctx.options)
        return torch.autograd.grad(grid, theta, grad)[0], None, None


@functools.lru_cache(64)
def _conversion(
    size: tuple[int, ...], spatial: tuple[int, ...], align_corners: bool, align_grid: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """``before @ theta @ after + centre`` is the matrix in voxels, in float64.

    ``after`` goes from a voxel of the result, z first, to its place between -1 and 1, x first;
    ``before`` and ``centre`` from there to a voxel of the image.
    """
    ndim = len(size)
    before, after, centre = (
        torch.zeros(ndim + i, ndim + j, dtype=torch.float64) for i, j in ((0, 0), (1, 1), (0, 1))
    )
    after[-1, -1] = 1
    for axis, (n, m) in enumerate(zip(size, spatial, strict=True)):
        other = ndim - 1 - axis
        before[axis, other] = (n - align_corners) / 2
        centre[axis, -1] = (n - 1) / 2
        after[other, axis] = 2 / (m - align_grid)
        after[other, -1] = (0 if align_grid else 1 / m) - 1
    return before, after, centre
