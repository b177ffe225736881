"""Moving label maps without a detour of the labels through floating-point numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from plasticine.ops.warp import warp

LABEL_INTERPOLATIONS = ("nearest", "linear")

# Voxels that linear weights are worked out for at once: some 50 MB.
_CHUNK = 1 << 18


def move_labels(labels: Tensor, move: Callable[[Tensor], Tensor]) -> Tensor:
    """Samples a label map; exact for labels of any size.

    The ranks of the labels that occur take the labels' place on the way.

    Args:
        labels: any shape, any integer dtype or bool.
        move: takes a float64 map of the labels' shape and gives one of its values at each place
            of the result: ``warp`` or ``resample`` of mode "nearest", padded by its border.

    Returns:
        The labels, of the result's shape and the labels' dtype.

    Raises:
        ValueError: a place of the result has no value (its displacement is NaN).
    """
    values, ranks = labels.unique(return_inverse=True)
    moved = move(ranks.double())
    _check_places(moved)
    return values[moved.long()]


def warp_labels(
    labels: Tensor,
    displacement: Tensor,
    affine: Tensor | None = None,
    *,
    interpolation: str = "nearest",
) -> Tensor:
    """A label map at A p + u(p), as ``plasticine.warp`` samples images; exact for any labels.

    "linear" takes the label of the greatest weight: what the linear interpolation of a map for
    each label and the greatest of these would give, in memory that does not depend on how many
    labels there are. Of labels of equal weight it takes the least.

    Args:
        labels: (N, 1, *spatial), any integer dtype or bool; the edge is repeated beyond it.
        displacement: (N, d, *its own spatial), u, voxels of the labels.
        affine: (N or 1, d, d + 1), A, or None for the identity.
        interpolation: "nearest" or "linear".

    Returns:
        (N, 1, *spatial of the displacement), of the labels' dtype.

    Raises:
        ValueError: a displacement is NaN, or the interpolation is not known.
    """
    if interpolation not in LABEL_INTERPOLATIONS:
        raise ValueError(
            f"interpolation of labels must be one of {', '.join(LABEL_INTERPOLATIONS)}; "
            f"got {interpolation!r}"
        )
    if interpolation == "nearest":
        # The labels' ranks move in float64, and so must the map.
        offset, matrix = displacement.double(), None if affine is None else affine.double()
        return move_labels(labels, lambda ranks: warp(ranks, offset, affine=matrix, mode="nearest"))
    count, ndim = displacement.shape[:2]
    if affine is None:
        affine = torch.eye(ndim, ndim + 1, device=displacement.device)[None]
    matrices = affine.double().expand(count, -1, -1)
    moved = [
        _linear(one[0].contiguous(), u, matrix)
        for one, u, matrix in zip(labels, displacement, matrices, strict=True)
    ]
    return torch.stack(moved)[:, None]


def _check_places(places: Tensor) -> None:
    if places.isnan().any():
        raise ValueError(f"labels cannot follow a map that is NaN at {int(places.isnan().sum())}")


def _linear(labels: Tensor, u: Tensor, affine: Tensor) -> Tensor:
    """A label map (*spatial) at A p + u(p) of u (d, *its own spatial), chunk by chunk."""
    result = labels.new_empty(u.shape[1:])
    rows = max(1, _CHUNK // math.prod(u.shape[2:]))
    for begin in range(0, len(result), rows):
        places = _places(u[:, begin : begin + rows], affine, begin)
        _check_places(places)
        result[begin : begin + rows] = _heaviest(labels, places)
    return result


def _places(u: Tensor, affine: Tensor, begin: int) -> Tensor:
    """A p + u(p) in float64, of a part of a grid that begins at a row."""
    places = u.double() + affine[:, -1].view(-1, *[1] * (u.ndim - 1))
    for axis, size in enumerate(u.shape[1:]):
        first = begin if axis == 0 else 0
        line = torch.arange(first, first + size, dtype=torch.float64, device=u.device)
        along = line.view([-1 if axis == other else 1 for other in range(u.ndim - 1)])
        places += affine[:, axis].view(-1, *[1] * (u.ndim - 1)) * along
    return places


def _heaviest(labels: Tensor, places: Tensor) -> Tensor:
    """The label of the greatest linear weight at each of places (d, *any)."""
    ndim, shape = len(places), places.shape[1:]
    flat, places = labels.reshape(-1), places.reshape(ndim, -1)
    last = torch.tensor(labels.shape, device=places.device)[:, None] - 1
    places = places.clamp(torch.zeros_like(last), last)
    below = places.long()
    step = torch.tensor(labels.stride(), device=places.device)[:, None]
    corner = (below * step).sum(0)
    # From a voxel to the next along an axis; none at the end.
    onwards = torch.where(below < last, step, 0)
    sides = list(itertools.product((0, 1), repeat=ndim))
    found = torch.stack(
        [flat[corner + sum(onwards[axis] * side[axis] for axis in range(ndim))] for side in sides]
    )
    heaviest = found[0].clone()
    # Within a region all corners are alike, and there is nothing to weigh.
    mixed = (found != heaviest).any(0).nonzero()[:, 0]
    found, above = found[:, mixed], (places - below)[:, mixed]
    weights = torch.stack(
        [
            torch.stack([a if s else 1 - a for a, s in zip(above, side, strict=True)]).prod(0)
            for side in sides
        ]
    )
    best, label = torch.zeros_like(weights[0]), found[0].clone()
    for candidate in found:
        weight = (weights * (found == candidate)).sum(0)
        better = (weight > best) | ((weight == best) & (candidate < label))
        best, label = torch.where(better, weight, best), torch.where(better, candidate, label)
    heaviest[mixed] = label
    return heaviest.view(shape)
