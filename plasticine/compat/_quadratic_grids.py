"""Quadratic B-splines in 2D and 3D by linear warps, exactly.

Along an axis a quadratic B-spline is what lies between two points of the line through its
coefficients, by de Boor's algorithm: with ``t`` the way that ``x`` has gone from one knot, halfway
between two voxels, to the next, ``(1 - t) c(x - t / 2) + t c(x + (1 - t) / 2)``, where ``c`` reads
linearly. So ``2 ** d`` linear warps take the place of ``3 ** d`` taps, on every backend, and
autograd goes through them.

Sources: C. de Boor, "A Practical Guide to Splines", 1978; C. Sigg, M. Hadwiger, "Fast third-order
texture filtering", GPU Gems 2, 2005, for reading B-splines linearly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.ops.splat import splat
from plasticine.ops.warp import warp


def pull(image: Tensor, coordinates: Tensor, affine: Tensor) -> Tensor:
    """Samples the spline whose coefficients an image holds; outside of it they are 0.

    Args:
        image: ``(N, C, *size)``, floating point.
        coordinates: ``(N, d, *spatial)`` in voxels.
        affine: ``(1, d, d + 1)``: ``(0 | t)`` with the translation to the image's voxels.

    Returns:
        ``(N, C, *spatial)`` in the image's dtype.
    """
    return _sum_of_warps(image, _axes(coordinates), affine)


def push(values: Tensor, coordinates: Tensor, affine: Tensor, size: Sequence[int]) -> Tensor:
    """The adjoint of :func:`pull`: ``(N, C, *size)`` from values ``(N, C, *spatial)``."""
    found = None
    for places, weight in _corners(_axes(coordinates)):
        assert weight is not None
        weighted = values * weight[:, None]
        sums = splat(weighted, torch.stack(places, 1), affine=affine, size=size, padding="zeros")
        found = sums if found is None else found + sums
    assert found is not None
    return found


def grad(image: Tensor, coordinates: Tensor, affine: Tensor) -> Tensor:
    """The derivatives of :func:`pull` by the coordinates: ``(N, C, d, *spatial)``.

    Along its own axis each is a linear spline, halfway between whose voxels are the image's.
    """
    found = []
    for axis, x in enumerate(coordinates.unbind(1)):
        edge = image.new_zeros(()).expand(*image.shape[: axis + 2], 1, *image.shape[axis + 3 :])
        differences = torch.diff(image, dim=axis + 2, prepend=edge, append=edge)
        axes = _axes(coordinates)
        axes[axis] = [(x + 0.5, None)]
        found.append(_sum_of_warps(differences, axes, affine))
    return torch.stack(found, 2)


# Where an axis is read linearly, and by what that is weighted; None for 1.
_Axis = list[tuple[Tensor, "Tensor | None"]]


def _axes(coordinates: Tensor) -> list[_Axis]:
    axes: list[_Axis] = []
    for x in coordinates.unbind(1):
        t = x + 0.5
        t = t - torch.floor(t.detach())
        lower = torch.sub(x, t, alpha=0.5)
        axes.append([(lower, 1 - t), (lower + 0.5, t)])
    return axes


def _corners(axes: Sequence[_Axis]) -> list[tuple[list[Tensor], Tensor | None]]:
    """All places, one tensor an axis, with their weights: products of the axes before in common."""
    corners: list[tuple[list[Tensor], Tensor | None]] = [([], None)]
    for axis in axes:
        corners = [
            ([*places, place], _product(weight, own))
            for places, weight in corners
            for place, own in axis
        ]
    return corners


def _product(weight: Tensor | None, other: Tensor | None) -> Tensor | None:
    if weight is None or other is None:
        return other if weight is None else weight
    return weight * other


def _sum_of_warps(image: Tensor, axes: Sequence[_Axis], affine: Tensor) -> Tensor:
    found = None
    for places, weight in _corners(axes):
        values = warp(image, torch.stack(places, 1), affine=affine, padding="zeros")
        assert weight is not None
        weight = weight[:, None]
        found = values * weight if found is None else torch.addcmul(found, values, weight)
    assert found is not None
    return found
