"""Definition of ``folding``: where and how much a displacement folds, from its Jacobian."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.reference.jacobian import determinant, jacobian_determinant


def folding(
    displacement: Tensor,
    scheme: str = "central",
    interior: bool = False,
    spacing: Sequence[float] | None = None,
) -> Tensor:
    """Folding statistics of each sample.

    Args:
        displacement: ``(N, d, *spatial)`` in the unit of ``spacing``.
        scheme: finite differences of the determinant: "central", "forward" or "backward".
        interior: leave out the outermost layer of voxels of every axis longer than 2.
        spacing: the voxel size along each axis; None for 1.

    Returns:
        ``(N, 6)`` float64: voxels whose ``J`` is not positive, voxels looked at, minimum and
        maximum of ``J``, standard deviation of ``log(max(J, 1e-9))``, non-diffeomorphic volume in
        voxels.
    """
    precision = torch.promote_types(displacement.dtype, torch.float32)
    field = displacement.detach().to(precision)
    ndim = field.shape[1]
    spacing = (1.0,) * ndim if spacing is None else spacing
    jacobian = jacobian_determinant(field, scheme, spacing)
    if interior:
        for axis, size in enumerate(field.shape[2:]):
            if size > 2:
                jacobian = jacobian.narrow(axis + 2, 1, size - 2)
    jacobian = jacobian.flatten(1).double()
    count = jacobian.shape[1]
    folds = (~(jacobian > 0)).sum(1).double()  # NaN is no sign of a map without folds
    volume = non_diffeomorphic_volume(field, spacing)
    if count == 0:
        undefined = torch.full_like(folds, torch.nan)
        return torch.stack([folds, folds, undefined, undefined, undefined, volume], 1)
    logarithm = jacobian.clamp(min=1e-9).log()
    return torch.stack(
        [
            folds,
            torch.full_like(folds, count),
            jacobian.amin(1),
            jacobian.amax(1),
            (logarithm - logarithm.mean(1, keepdim=True)).square().mean(1).sqrt(),
            volume,
        ],
        1,
    )


def non_diffeomorphic_volume(field: Tensor, spacing: Sequence[float]) -> Tensor:
    """The volume, in voxels, of the simplices that ``p + u(p)`` turns over: ``(N,)`` float64.

    Each cell of ``2**d`` voxels is cut into simplices in its two mirror-symmetric ways (2D: along
    either diagonal; 3D: four corner tetrahedra and the one between them) and the two are averaged;
    Liu et al., "On finite difference Jacobian computation in deformable image registration", IJCV
    2024. NaN where a vertex is NaN.
    """
    batch, ndim, *spatial = field.shape
    total = field.new_zeros(batch, dtype=torch.float64)
    if min(spatial) < 2:
        return total
    corners = list(itertools.product((0, 1), repeat=ndim))
    vertices = {corner: _moved_corner(field, corner, spacing) for corner in corners}
    for corner in corners:
        neighbours = [
            (*corner[:axis], 1 - corner[axis], *corner[axis + 1 :]) for axis in range(ndim)
        ]
        total += _overturned_volume(vertices, [corner, *neighbours])
    if ndim == 3:
        for parity in (0, 1):
            inner = [corner for corner in corners if sum(corner) % 2 == parity]
            total += _overturned_volume(vertices, inner)
    return total / 2


def _moved_corner(field: Tensor, corner: tuple[int, ...], spacing: Sequence[float]) -> list[Tensor]:
    """Where one corner of every cell goes, per axis, relative to the cell's own origin."""
    for axis, offset in enumerate(corner):
        field = field.narrow(axis + 2, offset, field.shape[axis + 2] - 1)
    return [field[:, axis] / spacing[axis] + offset for axis, offset in enumerate(corner)]


def _overturned_volume(
    vertices: dict[tuple[int, ...], list[Tensor]], simplex: list[tuple[int, ...]]
) -> Tensor:
    """The volume of one simplex summed over the cells where its orientation has changed."""
    ndim = len(simplex[0])
    origin, *others = simplex
    at_rest = torch.tensor(
        [[v - o for v, o in zip(other, origin, strict=True)] for other in others],
        dtype=torch.float64,
        device="cpu",
    )
    orientation = torch.linalg.det(at_rest).sign().item()
    edges = [
        [vertices[other][axis] - vertices[origin][axis] for axis in range(ndim)] for other in others
    ]
    volume = determinant(edges) * (orientation / (2 if ndim == 2 else 6))
    return torch.where(volume >= 0, 0.0, -volume).flatten(1).sum(1, dtype=torch.float64)
