"""Drop-ins for torch-interpol 0.3.0: ``grid_pull``, ``grid_push``, ``grid_count``, ``grid_grad``.

Signatures, names, integers and shapes are torch-interpol's: grids ``(..., *spatial, d)`` hold
absolute coordinates in voxels, component ``i`` along spatial axis ``i``; batches broadcast; nothing
is extrapolated and no spline is fitted unless asked for. Orders 0 to 3, the same along every axis,
in 2D and 3D, are served by Plasticine's kernels, whatever the bounds; the rest (4 to 7, orders that
differ between axes, 1D, gradients of ``grid_grad`` in order 3) by plain PyTorch.

What differs, and is not mimicked:

- "dst1" reads the first voxel; torch-interpol's takes 0 there, against its own documentation.
- Where orders differ between axes, ``grid_grad`` and gradients to the grid have the right sign
  along an axis of order 1; torch-interpol's is turned there.
- A label map that is pulled with ``prefilter=True`` is fitted, label by label; torch-interpol fits
  and samples without what it fitted.
- Exactly on a voxel's centre outside of the image, where a mirrored image runs back, a gradient of
  order 1 is that of the voxel's other side.
- Coordinates are float32 or wider, whatever the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import torch
from torch import Tensor

from plasticine.compat import _grids
from plasticine.compat._grids import ORDERS, Sampling, of_each_axis
from plasticine.compat._handover import theirs
from plasticine.compat._patching import Replacement
from plasticine.ops.spline_coefficients import spline_coefficients

# By the peer's integers.
_BOUNDS = ("zero", "replicate", "dct1", "dct2", "dst1", "dst2", "dft")
_BOUND_NAMES = {
    **{name: name for name in _BOUNDS},
    **dict.fromkeys(("repeat", "border", "nearest"), "replicate"),
    **dict.fromkeys(("zeros", "constant"), "zero"),
    **dict.fromkeys(("reflect", "reflection", "neumann"), "dct2"),
    **dict.fromkeys(("antireflect", "dirichlet"), "dst2"),
    **dict.fromkeys(("wrap", "circular"), "dft"),
    "mirror": "dct1",
    "antimirror": "dst1",
}
# How far outside coordinates count that are not extrapolated, by the integer of ``extrapolate``.
_MARGINS = {0: 0.05, 2: 0.55}


def grid_pull(
    input: Tensor,
    grid: Tensor,
    interpolation: Any = "linear",
    bound: Any = "zero",
    extrapolate: Any = False,
    prefilter: bool = False,
) -> Tensor:
    """Samples an image where a grid points: ``interpol.grid_pull``.

    Args:
        input: ``(..., [C], *size)``. Integers are labels: each is pulled softly, and the one with
            the most weight wins.
        grid: ``(..., *spatial, d)``, coordinates in voxels.
        interpolation: the order, 0 to 7, or its name; or one for each axis.
        bound: its name or integer (zero 0, replicate 1, dct1 2, dct2 3, dst1 4, dst2 5, dft 6); or
            one for each axis.
        extrapolate: whether coordinates outside of the image count, too; 2 for those within its
            outermost voxels alone.
        prefilter: whether the spline passes through the image, which otherwise holds its
            coefficients.

    Returns:
        ``(..., [C], *spatial)``.

    Raises:
        ValueError: an unknown order or bound; shapes that do not broadcast.
        NotImplementedError: ``prefilter`` with an order or a bound that needs torch-interpol, where
            that is not installed.
    """
    grid, input, leading = _flattened(grid, input)
    sampling = _sampling(interpolation, bound, extrapolate, grid.shape[-1])
    if input.dtype.is_floating_point:
        image = _fitted(input, sampling) if prefilter else input
        found = _grids.pull(image, grid, sampling)
    else:
        found = _pulled_labels(input, grid, sampling, prefilter)
    return found.reshape(*leading, *found.shape[2:])


def grid_push(
    input: Tensor,
    grid: Tensor,
    shape: Sequence[int] | None = None,
    interpolation: Any = "linear",
    bound: Any = "zero",
    extrapolate: Any = False,
    prefilter: bool = False,
) -> Tensor:
    """Adds an image up where a grid points, the adjoint of ``grid_pull``: ``interpol.grid_push``.

    Args:
        input: ``(..., [C], *spatial)``.
        grid: ``(..., *spatial, d)``, coordinates in voxels.
        shape: the spatial size of the result; None for the image's.
        interpolation: as :func:`grid_pull` takes it.
        bound: the same.
        extrapolate: the same.
        prefilter: the same.

    Returns:
        ``(..., [C], *shape)``.

    Raises:
        ValueError: an unknown order or bound; shapes that do not broadcast.
        NotImplementedError: as of :func:`grid_pull`.
    """
    grid, input, leading = _flattened(grid, input, on_one_grid=True)
    sampling = _sampling(interpolation, bound, extrapolate, grid.shape[-1])
    size = input.shape[2:] if shape is None else shape
    found = _grids.push(input, grid, size, sampling)
    if prefilter:
        found = _fitted(found, sampling)
    return found.reshape(*leading, *found.shape[2:])


def grid_count(
    grid: Tensor,
    shape: Sequence[int] | None = None,
    interpolation: Any = "linear",
    bound: Any = "zero",
    extrapolate: Any = False,
) -> Tensor:
    """The push of ones: ``interpol.grid_count``.

    Args:
        grid: ``(..., *spatial, d)``, coordinates in voxels.
        shape: the spatial size of the result; None for the grid's.
        interpolation: as :func:`grid_pull` takes it.
        bound: the same.
        extrapolate: the same.

    Returns:
        ``(..., 1, *shape)``, or ``shape`` for a grid without a batch.

    Raises:
        ValueError: an unknown order or bound.
    """
    ndim = grid.shape[-1]
    batch = grid.shape[: -ndim - 1]
    grid = grid.reshape(-1, *grid.shape[-ndim - 1 :])
    size = grid.shape[1:-1] if shape is None else shape
    found = _grids.count(grid, size, _sampling(interpolation, bound, extrapolate, ndim))
    return found.reshape(*batch, *([1] if batch else []), *found.shape[2:])


def grid_grad(
    input: Tensor,
    grid: Tensor,
    interpolation: Any = "linear",
    bound: Any = "zero",
    extrapolate: Any = False,
    prefilter: bool = False,
) -> Tensor:
    """Samples the spatial derivatives of an image where a grid points: ``interpol.grid_grad``.

    Args:
        input: ``(..., [C], *size)``.
        grid: ``(..., *spatial, d)``, coordinates in voxels.
        interpolation: as :func:`grid_pull` takes it.
        bound: the same.
        extrapolate: the same.
        prefilter: the same.

    Returns:
        ``(..., [C], *spatial, d)``.

    Raises:
        ValueError: an unknown order or bound; shapes that do not broadcast.
        NotImplementedError: as of :func:`grid_pull`.
    """
    grid, input, leading = _flattened(grid, input)
    sampling = _sampling(interpolation, bound, extrapolate, grid.shape[-1])
    image = _fitted(input, sampling) if prefilter else input
    found = _grids.grad(image, grid, sampling)
    return found.reshape(*leading, *found.shape[2:])


def _flattened(
    grid: Tensor, input: Tensor, *, on_one_grid: bool = False
) -> tuple[Tensor, Tensor, list[int]]:
    """The grid and the image with one batch axis, and the result's axes in front of its spatial."""
    ndim = grid.shape[-1]
    spatial, size = tuple(grid.shape[-ndim - 1 : -1]), tuple(input.shape[-ndim:])
    channels = [input.shape[-ndim - 1]] if input.dim() > ndim else []
    if on_one_grid:
        spatial = size = _broadcast(spatial, size)
    batch = _broadcast(grid.shape[: -ndim - 1], input.shape[: -ndim - 1])
    grid = grid.expand(*batch, *spatial, ndim).reshape(-1, *spatial, ndim)
    if not channels:
        input = input.unsqueeze(0)
    input = input.expand(*batch, *(channels or [1]), *size).reshape(-1, *(channels or [1]), *size)
    return grid, input, [*batch, *(channels or ([1] if batch else []))]


def _broadcast(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    try:
        return tuple(torch.broadcast_shapes(tuple(first), tuple(second)))
    except RuntimeError:
        raise ValueError(
            f"Incompatible shapes for broadcasting: {tuple(first)} and {tuple(second)}."
        ) from None


def _sampling(interpolation: Any, bound: Any, extrapolate: Any, ndim: int) -> Sampling:
    return Sampling(
        orders=tuple(_order_of(order) for order in of_each_axis(interpolation, ndim)),
        bounds=tuple(_bound_of(name) for name in of_each_axis(bound, ndim)),
        margin=_MARGINS.get(int(extrapolate)),
    )


def _order_of(order: Any) -> int:
    found = order.value if isinstance(order, Enum) else order
    if isinstance(found, str) and found.lower() in ORDERS:
        return ORDERS.index(found.lower())
    if found in range(len(ORDERS)):
        return int(found)
    raise ValueError(f"Unknown interpolation order {order}")


def _bound_of(bound: Any) -> str:
    found = bound.value if isinstance(bound, Enum) else bound
    if isinstance(found, str) and found.lower() in _BOUND_NAMES:
        return _BOUND_NAMES[found.lower()]
    if isinstance(found, int) and 0 <= found < len(_BOUNDS):
        return _BOUNDS[found]
    raise ValueError(f"Unknown boundary condition {bound}")


def _fitted(image: Tensor, sampling: Sampling) -> Tensor:
    """The coefficients of the spline that passes through an image."""
    if max(sampling.orders) < 2:
        return image
    padding = {"dct1": "reflection", "dct2": "border"}.get(sampling.bounds[0])
    is_cubic = sampling.mode is not None and sampling.orders[0] == 3
    if padding and is_cubic and len(set(sampling.bounds)) == 1:
        return spline_coefficients(image, padding=padding)
    orders, bounds = list(sampling.orders), list(sampling.bounds)
    fit = theirs("interpol.api.spline_coeff_nd", f"prefilter of orders {orders}, bounds {bounds}")
    fitted: Tensor = fit(image, orders, bounds, len(orders))
    return fitted


def _pulled_labels(input: Tensor, grid: Tensor, sampling: Sampling, prefilter: bool) -> Tensor:
    found = input.new_zeros((*input.shape[:2], *grid.shape[1:-1]))
    most = grid.new_zeros(found.shape)
    for label in input.unique():
        soft = (input == label).to(grid.dtype)
        weight = _grids.pull(_fitted(soft, sampling) if prefilter else soft, grid, sampling)
        found = torch.where(weight > most, label, found)
        most = torch.maximum(most, weight)
    return found


REPLACEMENTS = (
    Replacement("interpol.api.grid_pull", grid_pull),
    Replacement("interpol.api.grid_push", grid_push),
    Replacement("interpol.api.grid_count", grid_count),
    Replacement("interpol.api.grid_grad", grid_grad),
)
