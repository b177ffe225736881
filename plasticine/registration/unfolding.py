"""A displacement without folds, from one that has a few."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from plasticine.ops.folding import folding
from plasticine.ops.gaussian_smooth import gaussian_smooth
from plasticine.reference.jacobian import derivative, determinant

_POOL = {2: functional.max_pool2d, 3: functional.max_pool3d}
_ATTEMPTS = 40


def folds(displacement: Tensor) -> bool:
    """Whether a field folds anywhere: at voxels, or within a cell of them."""
    found = folding(displacement)
    return bool((found.folds > 0).any() or (found.non_diffeomorphic_volume > 0).any())


def unfolded(
    field: Tensor, displacements: Callable[[Tensor], Sequence[Tensor]] = lambda field: (field,)
) -> Tensor:
    """The field, smoothed where it folds and around there until it does so no more.

    Args:
        field: (N, d, *spatial), voxels, finite.
        displacements: what must not fold of a field: of a displacement it is that itself.

    Returns:
        The field itself where nothing folds, which costs one pass over each displacement.
    """
    ndim = field.shape[1]
    margin = 0.01
    for attempt in range(_ATTEMPTS):
        found = displacements(field)
        if not any(map(folds, found)):
            break
        least = torch.stack([smallest_jacobian(u) for u in found]).amin(0)
        near = (least <= margin).to(field.dtype)
        near = _POOL[ndim](near, 5, stride=1, padding=2)
        weight = gaussian_smooth(near, 1.0)
        # Wider and wider, should it take many attempts.
        smooth = gaussian_smooth(field, 1.0 + 0.25 * attempt)
        field = torch.lerp(field, smooth, weight)
        margin = min(1.25 * margin, 0.2)
    return field


def smallest_jacobian(displacement: Tensor) -> Tensor:
    """The least determinant at each voxel, (N, 1, *spatial), of all schemes of differences.

    Central differences, and forward or backward ones on each axis by itself.
    """
    ndim = displacement.shape[1]
    steps = {
        (component, axis, scheme): derivative(displacement[:, component], axis, scheme)
        for component, axis, scheme in itertools.product(
            range(ndim), range(ndim), ("forward", "backward", "central")
        )
    }
    corners = itertools.product(("forward", "backward"), repeat=ndim)
    least: Tensor | None = None
    for schemes in (*corners, ("central",) * ndim):
        rows = [
            [steps[component, axis, schemes[axis]] + (component == axis) for axis in range(ndim)]
            for component in range(ndim)
        ]
        found = determinant(rows)
        least = found if least is None else torch.minimum(least, found)
    assert least is not None
    return least.unsqueeze(1)
