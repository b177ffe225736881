"""What registering two volumes leaves, on the grids of their files."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.io.orientation import is_axial
from plasticine.io.pair_space import PairSpace
from plasticine.io.points import CarriedPoints
from plasticine.io.volume import Volume
from plasticine.registration.pair_registration import PairRegistration
from plasticine.transforms.transform import AffineTransform


@dataclasses.dataclass(frozen=True)
class VolumeRegistration:
    """A registration brought back to the grids of the two files.

    Arrays have the axes of their file: those of the fixed image if nothing else is said.

    Attributes:
        moving: What was moved, placed in space.
        fixed: What it was registered to, likewise.
        space: How the volumes became tensors.
        pair: The registration of the tensors.
        before: ``(X, Y, Z)``, the moving image as the two headers place it.
        warped: ``(X, Y, Z)``, the moving image at φ, in its own intensities; its least value where
            φ lands outside of it.
        valid: ``(X, Y, Z)`` bool, whether φ lands inside the moving image.
        displacement: ``(3, X, Y, Z)``, φ - id with the affine map in it, in voxels of the fixed
            image: `write_displacement` takes it with the fixed image's affine.
        inverse_displacement: ``(3, X, Y, Z)`` of the moving image and in its voxels, φ⁻¹ - id.
        jacobian: ``(X, Y, Z)``, det ∇φ, the affine map's included; central differences.
        affine: ``(4, 4)``, fixed to moving millimetres (RAS+), what the affine stage found.
        similarity: Of the fixed image and the moving one "before" (as the headers place it), after
            the "affine" stage and "after" all: mean squared "lncc" in windows of 5 voxels and
            "mutual_information" in nats, over the fixed mask's voxels, or all.
        arguments: What was asked for.
        seconds: How long the registration took, without reading and writing.
        labels: ``(X, Y, Z)`` int64, the moving image's labels at φ; 0 outside of it.
        fixed_labels: ``(X, Y, Z)`` int64, those of the fixed image.
        moving_points: The moving image's points, in the fixed one, by φ⁻¹.
        fixed_points: The fixed image's points, in the moving one, by φ.
        landmark_errors: How far apart the two of each landmark lie, in millimetres: "before", after
            the "affine" stage and "after" all.
        notes: On what was read, the file named in each.
    """

    moving: Volume
    fixed: Volume
    space: PairSpace
    pair: PairRegistration
    before: NDArray[np.float32]
    warped: NDArray[np.float32]
    valid: NDArray[np.bool_]
    displacement: NDArray[np.float32]
    inverse_displacement: NDArray[np.float32]
    jacobian: NDArray[np.float32]
    affine: NDArray[np.float64]
    similarity: dict[str, dict[str, float]]
    arguments: dict[str, Any]
    seconds: float
    labels: NDArray[np.int64] | None = None
    fixed_labels: NDArray[np.int64] | None = None
    moving_points: CarriedPoints | None = None
    fixed_points: CarriedPoints | None = None
    landmark_errors: dict[str, NDArray[np.float64]] | None = None
    notes: tuple[str, ...] = ()

    @property
    def planar(self) -> bool:
        """Whether both files are of two axes, across the third of space: ITK has planes of them."""
        return all(
            len(volume.stored_shape) == 2 and volume.affine is not None and is_axial(volume.affine)
            for volume in (self.moving, self.fixed)
        )

    @property
    def affine_transform(self) -> AffineTransform:
        """``affine``; of two files of two axes a transform of their plane."""
        return AffineTransform(self.affine, 2 if self.planar else 3)

    @functools.cached_property
    def displacement_lengths(self) -> NDArray[np.float32]:
        """How far each voxel is moved beyond the affine map, in millimetres: ``(X, Y, Z)``."""
        assert self.fixed.affine is not None
        field = self.space.field_to_file(self.pair.mapping.displacement, moving=False)[0].cpu()
        turned = np.einsum("ij,jxyz->ixyz", self.fixed.affine[:3, :3], field.double().numpy())
        lengths: NDArray[np.float32] = np.linalg.norm(turned, axis=0).astype(np.float32)
        return lengths
