"""A map of one grid to another: a displacement, then an affine map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from plasticine.nn.resampling import sample_affinely
from plasticine.ops.folding import Folding, folding
from plasticine.ops.invert import invert
from plasticine.ops.warp import warp
from plasticine.registration.deformation import turned

# Steps that leave a tenth of what interpolation did.
_REFINEMENTS = 2


@dataclass(frozen=True)
class AffineDisplacement:
    """φ(p) = A(p + u(p)), from voxels of a fixed image to voxels of a moving one.

    Attributes:
        displacement: (N, d, *fixed spatial), u, voxels of the fixed image.
        affine: (N, d, d + 1), A, from voxels of the fixed image to voxels of the moving one, or
            None for the identity.
        moving_size: the spatial size of the moving image.
    """

    displacement: Tensor
    affine: Tensor | None
    moving_size: Sequence[int]

    def offset(self) -> Tensor:
        """w(p) = A(p + u(p)) - A p, (N, d, *fixed spatial), voxels of the moving image.

        ``plasticine.warp(moving, offset, affine=affine)`` is the moving image at φ.
        """
        if self.affine is None:
            return self.displacement
        return turned(self.affine, self.displacement)

    def warp(self, images: Tensor, *, mode: str = "linear", padding: str = "border") -> Tensor:
        """Images on the moving grid, carried to the fixed one: (N, C, *fixed spatial).

        Args:
            images: (N or 1, C, *moving spatial).
            mode: of ``plasticine.warp``; "nearest" for labels.
            padding: likewise.
        """
        return warp(images, self.offset(), affine=self.affine, mode=mode, padding=padding)

    def folding(self, scheme: str = "central") -> Folding:
        """Of the displacement: whether the affine map mirrors does not count."""
        return folding(self.displacement, scheme=scheme)

    def inverse(self, *, tolerance: float = 1e-3, iterations: int = 100) -> AffineDisplacement:
        """φ⁻¹, on the moving image's grid, in the same form.

        Args:
            tolerance: of ``plasticine.invert``, voxels of the fixed image.
            iterations: likewise.
        """
        # φ⁻¹(q) = v(A⁻¹ q) with v = (id + u)⁻¹ = id + w. In the form B(q + z(q)) with B = A⁻¹,
        # z(q) = A_linear w(A⁻¹ q).
        w = invert(self.displacement, tolerance=tolerance, iterations=iterations).displacement
        size = tuple(self.displacement.shape[2:])
        if self.affine is None:
            if tuple(self.moving_size) == size:
                return replace(self, displacement=w)
            still = torch.eye(w.shape[1], w.shape[1] + 1, dtype=w.dtype, device=w.device)[None]
            return AffineDisplacement(sample_affinely(w, still, self.moving_size), None, size)
        inverse = inverted(self.affine)
        on_moving = sample_affinely(w, inverse, self.moving_size)
        on_moving = _refined(on_moving, self.displacement, inverse)
        return AffineDisplacement(turned(self.affine, on_moving), inverse, size)


def _refined(w: Tensor, u: Tensor, affine: Tensor) -> Tensor:
    """The root w(q) of w + u(B q + w), B affine, from near it; steps that lead away are not made.

    What is interpolated from one grid to another is off by as much as a field is bent between
    voxels, some hundredths of a voxel.
    """

    def residual(w: Tensor) -> tuple[Tensor, Tensor]:
        left = warp(u, w, affine=affine, padding="border").add_(w)
        return left, left.norm(dim=1, keepdim=True)

    left, size = residual(w)
    for _ in range(_REFINEMENTS):
        nearer = w - left
        new_left, new_size = residual(nearer)
        better = new_size < size
        w = torch.where(better, nearer, w)
        left, size = torch.where(better, new_left, left), torch.where(better, new_size, size)
    return w


def inverted(affine: Tensor) -> Tensor:
    """The inverse of (N, d, d + 1) affine maps, worked out in float64."""
    linear = torch.linalg.inv(affine[:, :, :-1].double())
    translation = -linear @ affine[:, :, -1:].double()
    return torch.cat([linear, translation], 2).to(affine.dtype)
