"""``pull``, ``push``, ``count`` and ``grad`` at absolute coordinates, with every bound and order.

What torch-interpol and MONAI have in common; :mod:`plasticine.compat.interpol` and
:mod:`plasticine.compat.monai_grids` add the names and conventions of each. A bound is had by
folding each coordinate into one period of the image, and by sampling there an image with a few
voxels more on every side, which hold what the bound says. So ``plasticine.warp`` and
``plasticine.splat`` serve all bounds in orders 0 to 3, order 2 by several linear ones
(:mod:`plasticine.compat._quadratic_grids`); the other orders are
:mod:`plasticine.compat._spline_grids`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from plasticine.compat import _quadratic_grids, _spline_grids
from plasticine.compat._bounds import ANTISYMMETRIC, folded, padded, unpadded
from plasticine.ops.splat import splat
from plasticine.ops.warp import WARP_BACKWARD, warp

#: What both peers call the orders 0 to 7.
ORDERS = ("nearest", "linear", "quadratic", "cubic", "fourth", "fifth", "sixth", "seventh")
# The modes of the orders that the kernels serve, and how many voxels an image is padded by for
# them: as many as its taps reach beyond a folded coordinate.
_MODES = {0: ("nearest", 1), 1: ("linear", 2), 2: ("quadratic", 3), 3: ("bspline", 3)}


@dataclass(frozen=True)
class Sampling:
    """How an image is read at coordinates, per spatial axis where the peers allow it.

    Attributes:
        orders: of the B-spline, 0 to 7.
        bounds: "replicate", "dct1", "dct2", "dst1", "dst2", "dft" or "zero".
        margin: how far outside of the image, in voxels from its outermost centres, a coordinate
            counts; beyond, the result is 0. None: everywhere.
        ties_to_even: how order 0 rounds halves: to even, or away from 0.
    """

    orders: tuple[int, ...]
    bounds: tuple[str, ...]
    margin: float | None = None
    ties_to_even: bool = True

    @property
    def mode(self) -> tuple[str, int] | None:
        """The kernels' mode and its padding, or None where they do not serve the orders."""
        several = len(set(self.orders)) > 1 or len(self.orders) not in (2, 3)
        return None if several else _MODES.get(self.orders[0])


def of_each_axis(value: Any, ndim: int) -> list[Any]:
    """One value for each axis: the last of too few stands for the rest."""
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    return (values + values[-1:] * ndim)[:ndim]


def pull(image: Tensor, grid: Tensor, sampling: Sampling) -> Tensor:
    """Samples an image where a grid points.

    Args:
        image: ``(N, C, *size)``, floating point.
        grid: ``(N, *spatial, d)``, floating point: coordinates in voxels.
        sampling: how.

    Returns:
        ``(N, C, *spatial)`` in the wider of both dtypes.
    """
    image, grid = _precise(image, grid)
    at = _Location(grid, image.shape[2:], sampling, sampling.mode)
    if sampling.mode is None:
        found = _spline_grids.pull(image, at.coordinates, sampling.orders, sampling.bounds)
    else:
        mode, width = sampling.mode
        continued = padded(image, sampling.bounds, width)
        if mode == "quadratic":
            found = _quadratic_grids.pull(continued, at.folded, at.affine)
        else:
            found = warp(continued, at.folded, **_options(at, mode))
    return at.weighted(found)


def push(values: Tensor, grid: Tensor, size: Sequence[int], sampling: Sampling) -> Tensor:
    """Adds values up where a grid points: the adjoint of :func:`pull`.

    Args:
        values: ``(N, C, *spatial)``, floating point.
        grid: ``(N, *spatial, d)``, floating point: coordinates in voxels.
        size: the spatial size of the result.
        sampling: how.

    Returns:
        ``(N, C, *size)`` in the wider of both dtypes.
    """
    values, grid = _precise(values, grid)
    at = _Location(grid, size, sampling, sampling.mode)
    values = at.weighted(values)
    if sampling.mode is None:
        return _spline_grids.push(values, at.coordinates, size, sampling.orders, sampling.bounds)
    mode, width = sampling.mode
    padded_size = [n + 2 * _width(b, width) for n, b in zip(size, sampling.bounds, strict=True)]
    if mode == "quadratic":
        sums = _quadratic_grids.push(values, at.folded, at.affine, padded_size)
    else:
        sums = splat(values, at.folded, size=padded_size, **_options(at, mode))
    return unpadded(sums, size, sampling.bounds, width)


def count(grid: Tensor, size: Sequence[int], sampling: Sampling) -> Tensor:
    """How often :func:`pull` reads each voxel: the push of ones, ``(N, 1, *size)``."""
    return push(grid.new_ones((grid.shape[0], 1, *grid.shape[1:-1])), grid, size, sampling)


def grad(image: Tensor, grid: Tensor, sampling: Sampling) -> Tensor:
    """The derivative of :func:`pull` with respect to the coordinates, for each channel.

    Args:
        image: ``(N, C, *size)``, floating point.
        grid: ``(N, *spatial, d)``, floating point: coordinates in voxels.
        sampling: how.

    Returns:
        ``(N, C, *spatial, d)`` in the wider of both dtypes.
    """
    image, grid = _precise(image, grid)
    mode = sampling.mode
    is_recorded = torch.is_grad_enabled() and (image.requires_grad or grid.requires_grad)
    if mode is not None and (mode[0] == "nearest" or (mode[0] == "bspline" and is_recorded)):
        mode = None  # the kernels' cubic spline is differentiable once, and this is that once
    at = _Location(grid, image.shape[2:], sampling, mode)
    if mode is None:
        found = _spline_grids.grad(image, at.coordinates, sampling.orders, sampling.bounds)
    else:
        continued = padded(image, sampling.bounds, mode[1])
        found = _DERIVATIVES[mode[0]](continued, at.folded, at.affine)
        if (slopes := at.slopes()) is not None:
            found = found * slopes[:, None]
    if at.weight is not None:
        found = found * at.weight[:, None, None]
    return found.movedim(2, -1)


def _linear_grad(image: Tensor, coordinates: Tensor, affine: Tensor) -> Tensor:
    """The derivatives ``(N, C, d, *spatial)`` of a linear warp, as warps of differences.

    Along its own axis each is constant between voxels: there the lower of two differences is read.
    """
    found = []
    lower = torch.floor(coordinates.detach())
    for axis in range(coordinates.shape[1]):
        edge = image.new_zeros(()).expand(*image.shape[: axis + 2], 1, *image.shape[axis + 3 :])
        # The first difference lies between the edge and voxel 0: places are one further on.
        differences = torch.diff(image, dim=axis + 2, prepend=edge, append=edge)
        places = torch.cat(
            [coordinates[:, :axis], lower[:, axis : axis + 1] + 1, coordinates[:, axis + 1 :]], 1
        )
        found.append(warp(differences, places, affine=affine, padding="zeros"))
    return torch.stack(found, 2)


def _cubic_grad(image: Tensor, coordinates: Tensor, affine: Tensor) -> Tensor:
    """The derivatives ``(N, C, d, *spatial)`` of a cubic warp, which cannot be differentiated."""
    batch, channels = coordinates.shape[0], image.shape[1]

    def of_each_channel(x: Tensor) -> Tensor:
        return x.unsqueeze(1).expand(batch, channels, *x.shape[1:]).flatten(0, 1)

    image = image.expand(batch, *image.shape[1:]).flatten(0, 1).unsqueeze(1)
    ones = image.new_ones(()).expand(batch * channels, 1, *coordinates.shape[2:])
    inputs = ones, image, of_each_channel(coordinates), of_each_channel(affine)
    found = WARP_BACKWARD(*inputs, "bspline", "zeros", "auto", [False, True, False])[1]
    return found.to(image.dtype).unflatten(0, (batch, channels))


_DERIVATIVES = {
    "linear": _linear_grad,
    "quadratic": _quadratic_grids.grad,
    "bspline": _cubic_grad,
}


def _precise(image: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the dtype of the result, but coordinates in float32 at least."""
    dtype = torch.promote_types(image.dtype, grid.dtype)
    return image.to(dtype), grid.to(torch.promote_types(dtype, torch.float32))


class _Location:
    """Where a grid points, for an image of a size.

    Attributes:
        coordinates: ``(N, d, *spatial)``, rounded in order 0.
        folded: the same within a period of the image, or inside of it.
        affine: to the padded image: ``folded`` takes the place of a displacement, with the
            affine ``(0 | width)`` in place of the identity.
        weight: ``(N, *spatial)``: what a value is multiplied by; None for 1.
    """

    def __init__(
        self, grid: Tensor, size: Sequence[int], sampling: Sampling, mode: tuple[str, int] | None
    ) -> None:
        # Every axis is gone over several times, most quickly where it lies in one piece.
        coordinates = grid.movedim(-1, 1).contiguous()
        self.weight: Tensor | None = None
        self._turned: list[Tensor | None] = []  # where the image runs back, per axis
        if sampling.margin is not None:
            self._weigh(_is_within(coordinates, size, sampling.margin))
        if set(sampling.orders) == {0}:
            coordinates = _rounded(coordinates, sampling.ties_to_even)
        self.coordinates = self.folded = coordinates
        if mode is None:  # the reference takes coordinates as they are
            return
        self.affine = coordinates.new_zeros(1, len(size), len(size) + 1)
        for axis, bound in enumerate(sampling.bounds):
            self.affine[:, axis, -1] = _width(bound, mode[1])
        if set(sampling.bounds) != {"zero"}:
            self._fold(coordinates.unbind(1), size, sampling.bounds)

    def _fold(self, axes: Sequence[Tensor], size: Sequence[int], bounds: Sequence[str]) -> None:
        places = []
        for x, n, bound in zip(axes, size, bounds, strict=True):
            place, turned = folded(x, n, bound)
            places.append(place)
            self._turned.append(turned)
            if turned is not None and bound in ANTISYMMETRIC:
                self._weigh(_sign(turned, x))
        self.folded = torch.stack(places, 1)

    def slopes(self) -> Tensor | None:
        """``(N, d, *spatial)``: the derivative of ``folded`` by ``coordinates``; None for 1."""
        if all(turned is None for turned in self._turned):
            return None
        x = self.coordinates[:, 0]
        ones = torch.ones_like(x)
        return torch.stack([ones if t is None else _sign(t, x) for t in self._turned], 1)

    def _weigh(self, factor: Tensor) -> None:
        self.weight = factor if self.weight is None else self.weight * factor

    def weighted(self, values: Tensor) -> Tensor:
        """Values ``(N, C, *spatial)`` by their weights."""
        return values if self.weight is None else values * self.weight[:, None].to(values.dtype)


def _options(at: _Location, mode: str) -> dict[str, Any]:
    return {"affine": at.affine, "mode": mode, "padding": "zeros", "prefilter": False}


def _is_within(coordinates: Tensor, size: Sequence[int], margin: float) -> Tensor:
    """1 where each coordinate is in the image or at most ``margin`` outside: ``(N, *spatial)``."""
    within = None
    for x, n in zip(coordinates.detach().unbind(1), size, strict=True):
        inside = (x > -margin) & (x < n - 1 + margin)
        within = inside if within is None else within & inside
    assert within is not None
    return within.to(coordinates.dtype)


def _rounded(x: Tensor, ties_to_even: bool) -> Tensor:
    # Their derivative is 0, and recorded: a gradient that is asked for is there.
    return torch.round(x) if ties_to_even else torch.sign(x) * torch.floor(x.abs() + 0.5)


def _width(bound: str, width: int) -> int:
    return 0 if bound == "zero" else width


def _sign(turned: Tensor, like: Tensor) -> Tensor:
    return 1 - 2 * turned.to(like.dtype)
