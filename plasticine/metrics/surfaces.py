"""How far the surfaces of two label maps lie apart: HD95 and ASSD, in millimetres."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from plasticine.metrics.masks import comparable_labels, erode, occurring_labels


@dataclasses.dataclass(frozen=True)
class SurfaceDistance:
    """The distances between the surfaces of one label in two maps.

    In the unit of the spacing. Both are infinite where the label is in one of the maps alone, and
    NaN where it is in neither.

    Attributes:
        hd95: 95 % Hausdorff distance: the larger of the two directions' 95th percentiles.
        assd: Average symmetric surface distance: the mean over all voxels of both surfaces.
    """

    hd95: float
    assd: float


def surface_distance(
    first: torch.Tensor,
    second: torch.Tensor,
    *,
    spacing: Sequence[float] | None = None,
    labels: Sequence[int] | None = None,
) -> dict[int, SurfaceDistance]:
    """Surface distances of every label of one image.

    The surface of a label is made of its voxels that have a face neighbour of another label, or
    lie at the image's edge; a voxel's distance is that from its centre to the nearest centre of
    the other surface, exactly. Percentiles are interpolated linearly. These are the definitions of
    Taha and Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC Medical Imaging
    15 (2015) 29, and of MONAI's ``compute_hausdorff_distance(percentile=95)`` and
    ``compute_average_surface_distance(symmetric=True)``.

    Args:
        first: Integer or boolean label map of one image, ``(*spatial)``, 2D or 3D.
        second: The same shape.
        spacing: Voxel size along each axis; None measures in voxels.
        labels: Which labels to compare; None for all that occur in either, without 0.

    Returns:
        Label to distances.

    Raises:
        TypeError: A map is no tensor, or holds floating-point or complex numbers.
        ValueError: Shapes or devices differ, a label is beyond int64, there are not two or three
            axes, or the spacing is not a positive number for each.
    """
    first, second = comparable_labels(first, second)
    if first.dim() not in (2, 3):
        raise ValueError(f"expected one image with 2 or 3 axes, got {tuple(first.shape)}")
    sizes = [1.0] * first.dim() if spacing is None else [float(size) for size in spacing]
    if len(sizes) != first.dim() or not all(0 < size < math.inf for size in sizes):
        raise ValueError(f"spacing: expected {first.dim()} positive numbers, got {sizes}")
    found = occurring_labels(first, second) if labels is None else [int(label) for label in labels]
    return {label: _distance_of(first == label, second == label, sizes) for label in found}


def _distance_of(a: torch.Tensor, b: torch.Tensor, spacing: list[float]) -> SurfaceDistance:
    if not a.any() or not b.any():
        apart = math.inf if a.any() or b.any() else math.nan
        return SurfaceDistance(hd95=apart, assd=apart)
    a, b = _surface(a), _surface(b)
    box = _bounding_box(a | b)
    a, b = a[box], b[box]
    to_b = _squared_distance(b, spacing)[a].sqrt()
    to_a = _squared_distance(a, spacing)[b].sqrt()
    return SurfaceDistance(
        hd95=max(_percentile(to_b, 0.95), _percentile(to_a, 0.95)),
        assd=float(torch.cat((to_a, to_b)).mean()),
    )


def _surface(mask: torch.Tensor) -> torch.Tensor:
    return mask & ~erode(mask[None, None], 1)[0, 0]


def _bounding_box(mask: torch.Tensor) -> tuple[slice, ...]:
    index = mask.nonzero()
    return tuple(
        slice(int(low), int(high) + 1)
        for low, high in zip(index.amin(0), index.amax(0), strict=True)
    )


def _squared_distance(mask: torch.Tensor, spacing: list[float]) -> torch.Tensor:
    """Squared Euclidean distance of every voxel to the nearest of the mask, float64.

    Axis by axis, each voxel takes the least of what lies on its line plus the squared way there.
    The search goes outwards and ends where the way alone is longer than any distance found.
    """
    squared = torch.where(mask, 0.0, math.inf).double()
    for axis, size in enumerate(spacing):
        length = mask.shape[axis]
        nearest = squared.clone()
        for step in range(1, length):
            way = (step * size) ** 2
            if way >= nearest.amax():
                break
            for start, source in ((0, step), (step, 0)):  # both directions along the axis
                part = nearest.narrow(axis, start, length - step)
                part.copy_(part.minimum(squared.narrow(axis, source, length - step) + way))
        squared = nearest
    return squared


def _percentile(distances: torch.Tensor, fraction: float) -> float:
    """Linear interpolation between order statistics; torch.quantile refuses long inputs."""
    ordered = distances.sort().values
    position = fraction * (len(ordered) - 1)
    low = math.floor(position)
    high = min(low + 1, len(ordered) - 1)
    return float(ordered[low] + (position - low) * (ordered[high] - ordered[low]))
