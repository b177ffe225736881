"""B-splines of any order, other ones along each axis, in plain PyTorch: the reference.

It serves what no kernel does: the orders 4 to 7, orders that differ between axes, one spatial
axis, and second derivatives of order 3. Autograd differentiates it as often as it is asked to.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.compat._bounds import voxel_of


def pull(
    image: Tensor, coordinates: Tensor, orders: Sequence[int], bounds: Sequence[str]
) -> Tensor:
    """Samples the spline whose coefficients an image holds.

    Args:
        image: ``(N, C, *size)``, floating point.
        coordinates: ``(N, d, *spatial)`` in voxels.
        orders: of the spline along each axis, 0 to 7.
        bounds: how the image continues along each axis.

    Returns:
        ``(N, C, *spatial)`` in the image's dtype.
    """
    taps = _taps(coordinates, image.shape[2:], orders, bounds)
    return _Sums(image, taps, derivatives=False).along(0)[0].to(image.dtype)


def push(
    values: Tensor,
    coordinates: Tensor,
    size: Sequence[int],
    orders: Sequence[int],
    bounds: Sequence[str],
) -> Tensor:
    """The adjoint of :func:`pull`: ``(N, C, *size)`` from values ``(N, C, *spatial)``."""
    batch = torch.broadcast_shapes(values.shape[:1], coordinates.shape[:1])[0]
    image = values.new_zeros((batch, values.shape[1], *size))
    values = values.expand(batch, *values.shape[1:])
    adjoint = torch.func.vjp(lambda image: pull(image, coordinates, orders, bounds), image)[1]
    found: Tensor = adjoint(values)[0]
    return found


def grad(
    image: Tensor, coordinates: Tensor, orders: Sequence[int], bounds: Sequence[str]
) -> Tensor:
    """The derivatives of :func:`pull` by the coordinates: ``(N, C, d, *spatial)``."""
    taps = _taps(coordinates, image.shape[2:], orders, bounds)
    _, *found = _Sums(image, taps, derivatives=True).along(0)
    return torch.stack(found, 2).to(image.dtype)


# Of one axis: the weights of the taps, their derivatives, and where the taps read.
_Axis = tuple[list[Tensor], list[Tensor], list[Tensor]]


def _taps(
    coordinates: Tensor, size: Sequence[int], orders: Sequence[int], bounds: Sequence[str]
) -> list[_Axis]:
    axes = []
    for x, n, order, bound in zip(coordinates.unbind(1), size, orders, bounds, strict=True):
        first = torch.floor(x.detach() - (order - 1) / 2)
        fraction = x - first - (order - 1) / 2
        below = weights = [fraction * 0.0 + 1.0]  # with a gradient in order 0, too
        for degree in range(1, order + 1):
            below, weights = weights, _raised(weights, fraction, degree)
        slopes = [x * 0.0] if order == 0 else _differences(below)
        voxels = []
        for tap in range(order + 1):
            voxel, sign = voxel_of(first.long() + tap, n, bound)
            voxels.append(voxel)
            if sign is not None:
                weights[tap] = weights[tap] * sign
                slopes[tap] = slopes[tap] * sign
        axes.append((weights, slopes, voxels))
    return axes


def _raised(weights: list[Tensor], fraction: Tensor, degree: int) -> list[Tensor]:
    """A degree higher by the recursion of Cox and de Boor: weights at equidistant knots."""
    left = [(fraction + (degree - 1 - tap)) * weight for tap, weight in enumerate(weights)]
    right = [(1 + tap - fraction) * weight for tap, weight in enumerate(weights)]
    inner = [after + before for before, after in zip(left, right[1:], strict=False)]
    return [weight / degree for weight in (right[0], *inner, left[-1])]


def _differences(below: list[Tensor]) -> list[Tensor]:
    """The derivatives of the weights, from those that are one degree lower."""
    inner = [previous - own for previous, own in itertools.pairwise(below)]
    return [-below[0], *inner, below[-1]]


class _Sums:
    """An image at the taps of a spline: summed along the last axis first, then along the others.

    So every voxel is read once, for the value and for all derivatives.
    """

    def __init__(self, image: Tensor, taps: Sequence[_Axis], *, derivatives: bool) -> None:
        self._size = image.shape[2:]
        self._spatial = taps[0][2][0].shape
        batch = torch.broadcast_shapes(image.shape[:1], self._spatial[:1])[0]
        self._voxels = image.flatten(2).expand(batch, -1, -1)
        self._derivatives = derivatives
        self._axes = [
            ([x[:, None] for x in weights], [x[:, None] for x in slopes], voxels)
            for weights, slopes, voxels in taps
        ]

    def along(self, axis: int, offset: Tensor | int = 0) -> list[Tensor]:
        """The value at an offset of the axes before, and its derivatives by this axis and on."""
        if axis == len(self._axes):
            assert isinstance(offset, Tensor)
            index = offset.flatten(1).unsqueeze(1).expand(*self._voxels.shape[:2], -1)
            values = self._voxels.gather(2, index).unflatten(2, self._spatial[1:])
            return [values.to(self._axes[0][0][0].dtype)]
        totals: list[Tensor] = []
        for weight, slope, voxel in zip(*self._axes[axis], strict=True):
            value, *inner = self.along(axis + 1, offset * self._size[axis] + voxel)
            terms = [(value, weight)]
            if self._derivatives:
                terms += [(value, slope), *((x, weight) for x in inner)]
            if totals:
                totals = [torch.addcmul(x, *term) for x, term in zip(totals, terms, strict=True)]
            else:
                totals = [x * factor for x, factor in terms]
        return totals
