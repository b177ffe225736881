"""What a registration of two images finds: φ, with all that is asked of it."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import torch
from torch import Tensor

from plasticine.nn.points import move_points
from plasticine.nn.saved import load_dataclass, save_dataclass
from plasticine.nn.validity import validity_mask
from plasticine.ops.folding import Folding, folding
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.registration.affine_registration import AffineMap
from plasticine.registration.deformation import affine_displacement, turned
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.landmarks import Landmarks, mapped

FILE = "registration.safetensors"


@dataclasses.dataclass(frozen=True)
class PairRegistration:
    """φ, which carries a moving image to a fixed one: from fixed places to moving ones.

    Attributes:
        affine: the affine stage: φ = affine∘(id + u).
        mapping: φ from fixed voxels to moving voxels, in which the displacement is u alone.
        moving_affine: (d + 1, d + 1) float64, voxel index to millimetres.
        fixed_affine: likewise.
        contrasts_differ: whether the images were found to show the same tissues in unlike
            contrasts, and φ was smoothed more; None where the affine stage is all.
    """

    affine: AffineMap
    mapping: AffineDisplacement
    moving_affine: Tensor
    fixed_affine: Tensor
    contrasts_differ: bool | None = None

    @functools.cached_property
    def inverse(self) -> AffineDisplacement:
        """φ⁻¹ from moving voxels to fixed voxels, on the moving grid."""
        return self.mapping.inverse()

    @functools.cached_property
    def displacement(self) -> Tensor:
        """φ - id with the affine map in it, (1, d, *fixed spatial), voxels of the fixed image.

        Fixed and moving places are compared in millimetres, and what lies between them is told in
        voxels of the fixed image, as ``plasticine.io.write_displacement`` takes it.
        """
        return total_displacement(
            self.mapping.displacement, self.affine.physical, self.fixed_affine
        )

    @functools.cached_property
    def inverse_displacement(self) -> Tensor:
        """φ⁻¹ - id, (1, d, *moving spatial), voxels of the moving image."""
        back = torch.linalg.inv(self.affine.physical)
        return total_displacement(self.inverse.displacement, back, self.moving_affine)

    @functools.cached_property
    def jacobian(self) -> Tensor:
        """det ∇φ, (1, 1, *fixed spatial): millimetres cubed of moving for one of fixed.

        By central differences, the affine map's included.
        """
        return jacobian_determinant(self.displacement)

    @functools.cached_property
    def folding(self) -> Folding:
        """Of φ, the affine map included."""
        return folding(self.displacement)

    @functools.cached_property
    def valid(self) -> Tensor:
        """(1, 1, *fixed spatial) bool: where φ lands inside the moving image."""
        mapping = self.mapping
        return validity_mask(mapping.offset(), mapping.affine, mapping.moving_size)

    def landmark_errors(self, landmarks: Landmarks) -> dict[str, Tensor]:
        """How far landmarks of the fixed image end from those of the moving one, millimetres.

        Args:
            landmarks: (1, K, d), millimetres; of the fixed image, within it.

        Returns:
            (K,) float64 each: "before", as the headers place them; after the "affine" map; "after"
            all.
        """
        fixed, moving = landmarks.fixed.double().cpu(), landmarks.moving.double().cpu()
        u = self.mapping.displacement.double().cpu()
        voxels = move_points(mapped(torch.linalg.inv(self.fixed_affine), fixed), u)
        places = {
            "before": fixed,
            "affine": mapped(self.affine.physical, fixed),
            "after": mapped(self.affine.physical @ self.fixed_affine, voxels),
        }
        return {stage: (place - moving)[0].norm(dim=1) for stage, place in places.items()}

    def inverse_consistency(self) -> Tensor:
        """|φ⁻¹(φ(p)) - p|, (1, 1, *fixed spatial), fixed voxels; 0 outside ``valid``."""
        back = self.mapping.warp(self.inverse.displacement)
        if self.inverse.affine is not None:
            back = turned(self.inverse.affine, back)
        error = (back + self.mapping.displacement).norm(dim=1, keepdim=True)
        return error * self.valid

    def save(self, folder: str | Path) -> None:
        """Writes ``registration.safetensors``, which appears or changes only when it is whole.

        Raises:
            OSError: the folder cannot be written to; it is made if it is not there.
        """
        save_dataclass(Path(folder) / FILE, self)

    @classmethod
    def load(cls, folder: str | Path) -> PairRegistration:
        """Reads what ``save`` wrote, onto the CPU.

        Raises:
            FileNotFoundError: there is no ``registration.safetensors`` in the folder.
            ValueError: it is no registration, or of another version.
        """
        return load_dataclass(Path(folder) / FILE, cls)


def total_displacement(displacement: Tensor, physical: Tensor, affine: Tensor) -> Tensor:
    """Of P∘(id + u) as one displacement: B(p + u(p)) - p, where B is P in voxels.

    Args:
        displacement: (1, d, *spatial), u, voxels.
        physical: (d + 1, d + 1) float64, P, from millimetres to millimetres.
        affine: (d + 1, d + 1) float64, voxel index to millimetres.

    Returns:
        (1, d, *spatial), voxels.
    """
    in_voxels = (torch.linalg.inv(affine) @ physical @ affine)[None, :-1]
    in_voxels = in_voxels.to(displacement.device)
    # Coordinates in float64: of the sum no more is rounded than of a displacement.
    moved = affine_displacement(in_voxels, displacement.shape[2:]).to(displacement.dtype)
    return turned(in_voxels.to(displacement.dtype), displacement) + moved
