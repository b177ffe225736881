"""Registering a pair of images: an affine map first, then a diffeomorphism on top of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import torch
from torch import Tensor

from plasticine.nn.validity import validity_mask
from plasticine.ops.folding import Folding, folding
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.registration.affine_objective import METRICS
from plasticine.registration.affine_registration import AffineMap, AffineRegistration
from plasticine.registration.deformation import affine_displacement, turned
from plasticine.registration.displaced import AffineDisplacement
from plasticine.registration.greedy import BUDGETS
from plasticine.registration.similarity import Similarity

TRANSFORMS = ("rigid", "similarity", "affine", "deformable")

# How much of the progress is the affine stage's, in iterations of the deformable one.
_AFFINE_PROGRESS = 20


@dataclasses.dataclass(frozen=True)
class PairRegistration:
    """φ, which carries a moving image to a fixed one: from fixed places to moving ones.

    Attributes:
        affine: the affine stage: φ = affine∘(id + u).
        mapping: φ from fixed voxels to moving voxels, in which the displacement is u alone.
        moving_affine: (d + 1, d + 1) float64, voxel index to millimetres.
        fixed_affine: likewise.
    """

    affine: AffineMap
    mapping: AffineDisplacement
    moving_affine: Tensor
    fixed_affine: Tensor

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

    def inverse_consistency(self) -> Tensor:
        """|φ⁻¹(φ(p)) - p|, (1, 1, *fixed spatial), fixed voxels; 0 outside ``valid``."""
        back = self.mapping.warp(self.inverse.displacement)
        if self.inverse.affine is not None:
            back = turned(self.inverse.affine, back)
        error = (back + self.mapping.displacement).norm(dim=1, keepdim=True)
        return error * self.valid


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


def register(
    moving: Tensor,
    fixed: Tensor,
    moving_affine: Tensor | None = None,
    fixed_affine: Tensor | None = None,
    *,
    transform: str = "deformable",
    budget: str = "default",
    metric: str | None = None,
    moving_mask: Tensor | None = None,
    fixed_mask: Tensor | None = None,
    initial: Tensor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PairRegistration:
    """Registers a moving image to a fixed one: affinely, then by greedy registration.

    Nothing is drawn at random: the result is the same every time.

    Args:
        moving: (1, C, *spatial), 2D or 3D, float32 or float64, in any unit of intensity.
        fixed: (1, C, *its own spatial), of the moving image's dtype and device.
        moving_affine: (d + 1, d + 1), voxel index to millimetres: oblique, flipped, anisotropic as
            it may be. None: voxels of 1 mm.
        fixed_affine: likewise.
        transform: "deformable", or "rigid", "similarity" or "affine": the first stage alone.
        budget: "fast", "default" or "best", of the deformable stage.
        metric: "lncc", "mutual_information" or "mind", of both stages. None is mutual information
            for the affine stage and lncc for the deformable one.
        moving_mask: (1, 1, *spatial of moving), bool or floating: voxels of more than 0 count.
        fixed_mask: likewise of fixed.
        initial: (d + 1, d + 1), fixed to moving millimetres: where the affine stage begins.
        progress: called as (done, all), in iterations of the deformable stage.

    Returns:
        φ.

    Raises:
        TypeError: an argument is no tensor, or the images are not of one floating dtype.
        ValueError: a word is not known, shapes do not fit, an image or a matrix is not finite, a
            matrix has no inverse, or a mask is empty.
        RuntimeError: the field became NaN or infinite.
    """
    for name, word, words in (
        ("transform", transform, TRANSFORMS),
        ("budget", budget, tuple(BUDGETS)),
        ("metric", metric, (None, *METRICS)),
    ):
        if word not in words:
            known = ", ".join(str(w) for w in words if w is not None)
            raise ValueError(f"{name} must be one of {known}; got {word!r}")
    greedy = BUDGETS[budget]
    if metric is not None:
        greedy = dataclasses.replace(greedy, similarity=Similarity(metric))
    deformable = transform == "deformable"
    total = _AFFINE_PROGRESS + (greedy.iterations if deformable else 0)

    def advance(done: int) -> None:
        if progress is not None:
            progress(done, total)

    affine = AffineRegistration(
        "affine" if deformable else transform, metric or "mutual_information"
    )(
        moving,
        fixed,
        moving_affine,
        fixed_affine,
        moving_mask=moving_mask,
        fixed_mask=fixed_mask,
        initial=initial,
        progress=lambda done, levels: advance(_AFFINE_PROGRESS * done // levels),
    )
    voxels = affine.voxels[None].to(fixed)
    ndim, moving_size = fixed.ndim - 2, tuple(moving.shape[2:])
    moving_matrix, fixed_matrix = (
        torch.eye(ndim + 1, dtype=torch.float64) if matrix is None else matrix.detach().double()
        for matrix in (moving_affine, fixed_affine)
    )
    if deformable:
        mapping = greedy(
            moving,
            fixed,
            affine=voxels,
            spacing=fixed_matrix[:-1, :-1].norm(dim=0).tolist(),
            moving_mask=moving_mask,
            fixed_mask=fixed_mask,
            progress=lambda done, _: advance(_AFFINE_PROGRESS + done),
        )
    else:
        still = fixed.new_zeros(1, ndim, *fixed.shape[2:])
        mapping = AffineDisplacement(still, voxels, moving_size)
    return PairRegistration(affine, mapping, moving_matrix.cpu(), fixed_matrix.cpu())
