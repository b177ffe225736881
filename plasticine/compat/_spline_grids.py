"""B-splines of any order, other ones along each axis, in plain PyTorch: the reference.

It serves what no kernel does: the orders 2 and 4 to 7, orders that differ between axes, one spatial
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
    return _sum(image, taps, [weights for weights, _, _ in taps])


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
    found = []
    for axis in range(len(orders)):
        weights = [slopes if i == axis else own for i, (own, slopes, _) in enumerate(taps)]
        found.append(_sum(image, taps, weights))
    return torch.stack(found, 2)


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


def _sum(image: Tensor, taps: Sequence[_Axis], weights: Sequence[Sequence[Tensor]]) -> Tensor:
    """The voxels of an image at all taps, by the products of their weights."""
    size = image.shape[2:]
    spatial = taps[0][2][0].shape
    batch = torch.broadcast_shapes(image.shape[:1], spatial[:1])[0]
    flat = image.flatten(2).expand(batch, -1, -1)
    total: Tensor | float = 0.0
    for nodes in itertools.product(*(range(len(own)) for own in weights)):
        weight, offset = torch.ones_like(weights[0][0]), torch.zeros_like(taps[0][2][0])
        for axis, node in enumerate(nodes):
            weight = weight * weights[axis][node]
            offset = offset * size[axis] + taps[axis][2][node]
        index = offset.flatten(1).unsqueeze(1).expand(batch, image.shape[1], -1)
        values = flat.gather(2, index).unflatten(2, spatial[1:])
        total = total + values * weight[:, None]
    assert isinstance(total, Tensor)
    return total.to(image.dtype)
