"""Pairs of heads with labels, and how well a map carries the labels of one onto the other."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import torch
from torch import Tensor

import plasticine
from plasticine import metrics
from plasticine.nn.validity import validity_mask
from plasticine.registration import AffineDisplacement, AffineRegistration
from plasticine.registration.deformation import turned

FOLDER = Path(os.environ.get("PLASTICINE_DATA", "../shared/data")) / "brain_t1_labels"

# Moving and fixed. The first three are what settings are chosen by, the others what judges them.
CHOOSING = (("012", "013"), ("014", "015"), ("033", "034"))
JUDGING = (("039", "048"), ("049", "051"), ("013", "039"), ("051", "014"))


@dataclass(frozen=True)
class Head:
    """A T1 image.

    Attributes:
        image: (1, 1, *spatial), float32, as stored.
        labels: (1, 1, *spatial), float32.
        affine: (4, 4), voxels to millimetres, right-anterior-superior.
        path: of the image.
    """

    image: Tensor
    labels: Tensor
    affine: np.ndarray
    path: Path


def head(name: str) -> Head:
    path = FOLDER / f"IXI{name}_t1.nii.gz"
    image = nibabel.load(path)
    labels = nibabel.load(FOLDER / f"IXI{name}_labels.nii.gz")
    arrays = [np.array(v.dataobj, np.float32, order="C")[None, None] for v in (image, labels)]
    return Head(*map(torch.from_numpy, arrays), image.affine, path)


def affine_start(moving: Head, fixed: Head) -> Tensor:
    """Our affine registration of two heads, (1, 3, 4), fixed voxels to moving ones."""
    matrices = torch.from_numpy(moving.affine), torch.from_numpy(fixed.affine)
    found = AffineRegistration()(moving.image, fixed.image, *matrices)
    return found.voxels[None].float()


def mean_dice(moving: Head, fixed: Head, displacement: Tensor, affine: Tensor) -> float:
    """Of the labels that either has, carried to the nearest voxel.

    Args:
        moving: whose labels are carried.
        fixed: whose labels they are compared with.
        displacement: (1, 3, *fixed), voxels of the moving image.
        affine: (1, 3, 4), from voxels of the fixed image to those of the moving one.
    """
    carried = plasticine.warp(
        moving.labels, displacement, affine=affine, mode="nearest", padding="zeros"
    )
    return statistics.mean(metrics.dice(carried.long(), fixed.labels.long()).values())


def folding(displacement: Tensor) -> dict[str, float]:
    """Folds by central differences; by all differences of corners, as a volume; and SDlogJ.

    Args:
        displacement: (1, 3, *fixed), in voxels of the fixed image: before an affine part.
    """
    found = plasticine.folding(displacement)
    return {
        "folds": int(found.folds),
        "volume": float(found.non_diffeomorphic_volume),
        "sdlogj": float(found.sd_log_jacobian),
    }


def inverse_consistency(mapping: AffineDisplacement) -> tuple[float, float]:
    """Mean |φ⁻¹∘φ - id| and |φ∘φ⁻¹ - id|, each in voxels of its own grid; 0 where it leads out."""
    means = []
    for there, back in ((mapping, mapping.inverse()), (mapping.inverse(), mapping)):
        offset = there.offset()
        error = there.warp(back.offset()) + (
            offset if back.affine is None else turned(back.affine, offset)
        )
        valid = validity_mask(offset, there.affine, there.moving_size)
        means.append(float((error.norm(dim=1, keepdim=True) * valid).mean()))
    return means[0], means[1]
