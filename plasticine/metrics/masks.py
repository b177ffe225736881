"""Overlap of label maps, and the growing and shrinking of masks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from plasticine.metrics.images import check_tensor


def dice(
    first: torch.Tensor, second: torch.Tensor, *, labels: Sequence[int] | None = None
) -> dict[int, float]:
    """Dice coefficient of every label, ``2 |A ∩ B| / (|A| + |B|)``.

    Args:
        first: Integer or boolean label map, any shape.
        second: The same shape.
        labels: Which labels to compare; None for all that occur in either, without 0.

    Returns:
        Label to coefficient, from 0 to 1; NaN for a label that occurs in neither map.

    Raises:
        TypeError: A map is no tensor, or holds floating-point or complex numbers.
        ValueError: Shapes or devices differ, or a label is beyond int64.
    """
    first, second = comparable_labels(first, second)
    # One sort of each map, and not three passes for each of perhaps hundreds of labels.
    a, b, both = (_volumes(x) for x in (first, second, first[first == second]))
    if labels is None:
        labels = sorted((a.keys() | b.keys()) - {0})
    scores = {}
    for label in map(int, labels):
        volume = a.get(label, 0) + b.get(label, 0)
        scores[label] = 2 * both.get(label, 0) / volume if volume else math.nan
    return scores


def _volumes(labelled: torch.Tensor) -> dict[int, int]:
    """How many voxels each label has."""
    values, counts = labelled.unique(return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def comparable_labels(
    first: torch.Tensor, second: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two label maps of one type, as they are compared voxel by voxel.

    A narrow type would wrap a label that it cannot hold: ``uint8 == 300`` is true of 44.

    Args:
        first: Any tensor.
        second: What it is to be compared with.

    Returns:
        Both in int64.

    Raises:
        TypeError: A map is no tensor, or holds floating-point or complex numbers.
        ValueError: Shapes or devices differ, or a label is beyond int64.
    """
    for labelled, name in ((first, "first"), (second, "second")):
        check_tensor(labelled, name)
        if labelled.is_floating_point() or labelled.is_complex():
            raise TypeError(f"{name}: expected an integer or boolean map, got {labelled.dtype}")
    if first.shape != second.shape or first.device != second.device:
        raise ValueError(
            f"first and second must agree, got {tuple(first.shape)} on {first.device} "
            f"and {tuple(second.shape)} on {second.device}"
        )
    wide = first.long(), second.long()
    for labelled, held, name in zip((first, second), wide, ("first", "second"), strict=True):
        if labelled.dtype == torch.uint64 and (held < 0).any():
            raise ValueError(f"{name}: expected labels of at most 2^63 - 1, got larger ones")
    return wide


def occurring_labels(first: torch.Tensor, second: torch.Tensor) -> list[int]:
    """The labels that occur in either int64 map, ascending, without 0."""
    found = torch.cat((first.unique(), second.unique())).unique()
    return [int(label) for label in found if label != 0]


def dilate(mask: torch.Tensor, distance: int) -> torch.Tensor:
    """Adds the voxels within a city-block distance of the mask.

    Equal to ``scipy.ndimage.binary_dilation`` with its default structure and
    ``iterations=distance``, slice by slice; nothing grows in from beyond the image.

    Args:
        mask: ``(N, C, *spatial)``, boolean, two or three spatial axes.
        distance: Voxels, at least 0.

    Returns:
        The dilated mask: boolean, the same shape.

    Raises:
        TypeError: The mask is not a boolean tensor.
        ValueError: Another number of axes, or a negative distance.
    """
    _check_morphology(mask, distance)
    for _ in range(distance):
        grown = mask.clone()
        for axis in range(2, mask.dim()):
            length = mask.shape[axis] - 1
            grown.narrow(axis, 0, length).logical_or_(mask.narrow(axis, 1, length))
            grown.narrow(axis, 1, length).logical_or_(mask.narrow(axis, 0, length))
        mask = grown
    return mask


def erode(mask: torch.Tensor, distance: int) -> torch.Tensor:
    """Takes away the voxels within a city-block distance of the outside.

    ``distance`` rounds of erosion with the smallest cross (4 neighbours in 2D, 6 in 3D); what
    lies beyond the image counts as outside. Equal to ``scipy.ndimage.binary_erosion`` with its
    default structure and ``iterations=distance``, slice by slice.

    Args:
        mask: ``(N, C, *spatial)``, boolean, two or three spatial axes.
        distance: Voxels, at least 0.

    Returns:
        The eroded mask: boolean, the same shape.

    Raises:
        TypeError: The mask is not a boolean tensor.
        ValueError: Another number of axes, or a negative distance.
    """
    _check_morphology(mask, distance)
    # What dilates the outside erodes the mask; the margin makes it hold what lies beyond the image.
    outside = F.pad(~mask, (1, 1) * (mask.dim() - 2), value=True)
    eroded = ~dilate(outside, distance)
    for axis in range(2, mask.dim()):
        eroded = eroded.narrow(axis, 1, mask.shape[axis])
    return eroded


def _check_morphology(mask: torch.Tensor, distance: int) -> None:
    check_tensor(mask, "mask")
    if mask.dtype != torch.bool:
        raise TypeError(f"mask: expected a boolean tensor, got {mask.dtype}")
    if mask.dim() not in (4, 5):
        raise ValueError(f"mask: expected (N, C, *spatial) in 2D or 3D, got {tuple(mask.shape)}")
    if distance < 0:
        raise ValueError(f"distance: expected at least 0, got {distance}")
