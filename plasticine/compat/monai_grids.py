"""Drop-ins for MONAI's ``grid_pull``, ``grid_push``, ``grid_count`` and ``grid_grad``.

MONAI has them in a C++ extension that its wheels do not hold: with these they work there, too.
Signatures, names and integers are MONAI's 1.6.1: images ``(B, C, *size)``, and grids
``(B, *spatial, d)`` of absolute coordinates in voxels, component ``i`` along spatial axis ``i``, 1D
to 3D; outside of the image everything is extrapolated unless ``extrapolate`` is False. Order 0
rounds halves away from 0. Orders 0 to 3, the same along every axis, in 2D and 3D, are served by
Plasticine's kernels, whatever the bounds; the rest (4 to 7, orders that differ between axes, 1D,
gradients of ``grid_grad`` in order 3) by plain PyTorch.

What differs, and is not mimicked:

- ``grid_count`` without ``shape`` has the grid's spatial size; MONAI's takes the axes after the
  first of them, component axis included.
- Where orders differ between axes, each axis has its own; MONAI's gives the third that of the
  second.
- Gradients of ``grid_grad`` to the grid are right in orders 2 to 7, where MONAI's are not.
- Exactly on a voxel's centre outside of the image, where a mirrored image runs back, a gradient of
  order 1 is that of the voxel's other side.
- The batch of either may be 1 where the other's is not; MONAI reads beyond its memory there.
- Half types are served.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine.compat import _grids
from plasticine.compat._grids import ORDERS, Sampling, of_each_axis
from plasticine.compat._patching import Replacement

# By their names and by the integers of monai._C.BoundType, which has more of both.
_BOUNDS = {0: "replicate", 1: "dct1", 2: "dct2", 3: "dst1", 4: "dst2", 5: "dft", 7: "zero"}
_BOUND_NAMES = {
    **{name: name for name in _BOUNDS.values()},
    **{"nearest": "replicate", "border": "replicate", "mirror": "dct1", "reflect": "dct2"},
    **{"antimirror": "dst1", "antireflect": "dst2", "wrap": "dft", "zeros": "zero"},
}
_MARGIN = 0.05  # how far outside coordinates count that are not extrapolated


def grid_pull(
    input: Tensor,
    grid: Tensor,
    interpolation: Any = "linear",
    bound: Any = "zero",
    extrapolate: bool = True,
) -> Tensor:
    """Samples an image where a grid points.

    Args:
        input: ``(B, C, *size)``, floating point.
        grid: ``(B, *spatial, d)`` of the same dtype, coordinates in voxels.
        interpolation: the order, 0 to 7, or its name; or one for each axis.
        bound: its name or integer (replicate 0, dct1 1, dct2 2, dst1 3, dst2 4, dft 5, zero 7); or
            one for each axis.
        extrapolate: whether coordinates outside of the image count, too.

    Returns:
        ``(B, C, *spatial)``; a ``MetaTensor`` of one.

    Raises:
        KeyError: an unknown name of an order or a bound.
        ValueError: an unknown integer.
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    sampling = _sampling(input, grid, interpolation, bound, extrapolate)
    return _like(input, _grids.pull(_plain(input), _plain(grid), sampling))


def grid_push(
    input: Tensor,
    grid: Tensor,
    shape: Sequence[int] | None = None,
    interpolation: Any = "linear",
    bound: Any = "zero",
    extrapolate: bool = True,
) -> Tensor:
    """Adds an image up where a grid points: the adjoint of ``grid_pull``.

    Args:
        input: ``(B, C, *spatial)``, floating point.
        grid: ``(B, *spatial, d)`` of the same dtype, coordinates in voxels.
        shape: the spatial size of the result; None for the image's.
        interpolation: as :func:`grid_pull` takes it.
        bound: the same.
        extrapolate: the same.

    Returns:
        ``(B, C, *shape)``; a ``MetaTensor`` of one.

    Raises:
        KeyError: an unknown name of an order or a bound.
        ValueError: an unknown integer.
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    sampling = _sampling(input, grid, interpolation, bound, extrapolate)
    if input.shape[0] != grid.shape[0] or input.shape[2:] != grid.shape[1:-1]:
        raise RuntimeError(
            "expected input and grid to have same batch, width, height and (optionally) depth "
            f"sizes, but got input with sizes {list(input.shape)} and grid with sizes "
            f"{list(grid.shape)}"
        )
    size = input.shape[2:] if shape is None else shape
    return _like(input, _grids.push(_plain(input), _plain(grid), size, sampling))


def grid_count(
    grid: Tensor,
    shape: Sequence[int] | None = None,
    interpolation: Any = "linear",
    bound: Any = "zero",
    extrapolate: bool = True,
) -> Tensor:
    """The push of ones.

    Args:
        grid: ``(B, *spatial, d)``, coordinates in voxels.
        shape: the spatial size of the result; None for the grid's.
        interpolation: as :func:`grid_pull` takes it.
        bound: the same.
        extrapolate: the same.

    Returns:
        ``(B, 1, *shape)``.

    Raises:
        KeyError: an unknown name of an order or a bound.
        ValueError: an unknown integer.
        RuntimeError: the grid's shape or dtype does not fit.
    """
    sampling = _sampling(grid, grid, interpolation, bound, extrapolate)
    size = grid.shape[1:-1] if shape is None else shape
    return _grids.count(_plain(grid), size, sampling)


def grid_grad(
    input: Tensor,
    grid: Tensor,
    interpolation: Any = "linear",
    bound: Any = "zero",
    extrapolate: bool = True,
) -> Tensor:
    """Samples the spatial derivatives of an image where a grid points.

    Args:
        input: ``(B, C, *size)``, floating point.
        grid: ``(B, *spatial, d)`` of the same dtype, coordinates in voxels.
        interpolation: as :func:`grid_pull` takes it.
        bound: the same.
        extrapolate: the same.

    Returns:
        ``(B, C, *spatial, d)``; a ``MetaTensor`` of one.

    Raises:
        KeyError: an unknown name of an order or a bound.
        ValueError: an unknown integer.
        RuntimeError: shapes, dtypes or devices do not fit.
    """
    sampling = _sampling(input, grid, interpolation, bound, extrapolate)
    return _like(input, _grids.grad(_plain(input), _plain(grid), sampling))


def _sampling(
    input: Tensor, grid: Tensor, interpolation: Any, bound: Any, extrapolate: bool
) -> Sampling:
    ndim = grid.dim() - 2
    for name, x in (("input", input), ("grid", grid)):
        if x.dim() not in (3, 4, 5):
            raise RuntimeError(f"expected 3D, 4D or 5D {name} but got sizes {list(x.shape)}")
        if not x.dtype.is_floating_point:
            raise RuntimeError(f"expected floating-point {name} but it has {x.dtype}")
    if grid.shape[-1] != ndim or input.dim() != ndim + 2:
        raise RuntimeError(
            f"expected grid to have size {input.dim() - 2} in last dimension, but got grid with "
            f"sizes {list(grid.shape)} and input with sizes {list(input.shape)}"
        )
    if input.device != grid.device or input.dtype != grid.dtype:
        raise RuntimeError(
            "expected input and grid to have the same dtype and device, but input has "
            f"{input.dtype} on {input.device} and grid has {grid.dtype} on {grid.device}"
        )
    return Sampling(
        orders=tuple(_order_of(order) for order in of_each_axis(interpolation, ndim)),
        bounds=tuple(_bound_of(name) for name in of_each_axis(bound, ndim)),
        margin=None if extrapolate else _MARGIN,
        ties_to_even=False,
    )


def _order_of(order: Any) -> int:
    if isinstance(order, str):
        if order not in ORDERS:
            raise KeyError(order)
        return ORDERS.index(order)
    if int(order) not in range(len(ORDERS)):
        raise ValueError(f"interpolation must be 0 to 7 or one of {ORDERS}, got {order!r}")
    return int(order)


def _bound_of(bound: Any) -> str:
    if isinstance(bound, str):
        return _BOUND_NAMES[bound]
    if int(bound) not in _BOUNDS:
        raise ValueError(f"bound must be one of {_BOUNDS} by name or integer, got {bound!r}")
    return _BOUNDS[int(bound)]


def _plain(x: Tensor) -> Tensor:
    return x if type(x) is Tensor else x.as_subclass(torch.Tensor)


def _like(input: Tensor, found: Tensor) -> Tensor:
    """The result as a ``MetaTensor`` where the input is one, as MONAI returns it."""
    monai = sys.modules.get("monai.data")
    if monai is None or not isinstance(input, monai.MetaTensor):
        return found
    from monai.utils import convert_to_dst_type

    converted: Tensor = convert_to_dst_type(found, dst=input)[0]
    return converted


_MODULE = "monai.networks.layers.spatial_transforms"
REPLACEMENTS = (
    Replacement(f"{_MODULE}.grid_pull", grid_pull),
    Replacement(f"{_MODULE}.grid_push", grid_push),
    Replacement(f"{_MODULE}.grid_count", grid_count),
    Replacement(f"{_MODULE}.grid_grad", grid_grad),
)
