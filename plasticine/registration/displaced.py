"""A map of one grid to another: a displacement, then an affine map."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticine.nn.resampling import sample_affinely
from plasticine.nn.validity import validity_mask
from plasticine.ops.folding import Folding, folding
from plasticine.ops.invert import invert
from plasticine.ops.splat import splat
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
        velocity: (N, d, *fixed spatial), voxels, of which u is the exponential, if it was found so.
    """

    displacement: Tensor
    affine: Tensor | None
    moving_size: Sequence[int]
    velocity: Tensor | None = None

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

    def warp_in_air(self, image: Tensor) -> Tensor:
        """An image as ``warp`` carries it; outside of it, its least value: the air of MR and CT.

        Args:
            image: (N, C, *moving spatial).
        """
        least = image.min()
        return self.warp(image - least, padding="zeros") + least

    def folding(self, scheme: str = "central") -> Folding:
        """Of the displacement: whether the affine map mirrors does not count."""
        return folding(self.displacement, scheme=scheme)

    def inverse(self, *, tolerance: float = 1e-3, iterations: int = 100) -> AffineDisplacement:
        """φ⁻¹, on the moving image's grid, in the same form.

        Args:
            tolerance: of ``plasticine.invert``, voxels of the fixed image.
            iterations: likewise.
        """
        # φ⁻¹(q) = A⁻¹q + w(q), written as B(q + z(q)) with B = A⁻¹ and z = A_linear w.
        u, size = self.displacement, tuple(self.displacement.shape[2:])
        w = invert(u, tolerance=tolerance, iterations=iterations).displacement
        if self.affine is not None or tuple(self.moving_size) != size:
            affine = self.affine
            if affine is None:
                affine = torch.eye(w.shape[1], w.shape[1] + 1, dtype=w.dtype, device=w.device)[None]
            back = inverted(affine)
            w = _refined(sample_affinely(w, back, self.moving_size), u, back)
        w = _balanced(w, self)
        if self.affine is None:
            return AffineDisplacement(w, None, size)
        return AffineDisplacement(turned(self.affine, w), inverted(self.affine), size)


def _balanced(w: Tensor, mapping: AffineDisplacement) -> Tensor:
    """φ⁻¹ with what interpolation leaves shared out between φ∘φ⁻¹ and φ⁻¹∘φ.

    Solved at the voxels of the moving image, φ∘φ⁻¹ is the identity there and φ⁻¹∘φ is not, between
    them: by hundredths of a voxel, for φ⁻¹ is interpolated and bent. This lowers both squared,
    |w - w₀|² + 2 |Ww + u|² with W the interpolation at φ, by a step of Jacobi's method. The 2 makes
    both about as large.

    Args:
        w: (N, d, *moving spatial), w₀, voxels of the fixed image.
        mapping: φ.
    """
    offset, affine = mapping.offset(), mapping.affine
    valid = validity_mask(offset, affine, mapping.moving_size).to(w.dtype)
    left = mapping.warp(w).add_(mapping.displacement).mul_(valid)
    both = splat(
        torch.cat([left, valid], 1), offset, affine=affine, size=tuple(mapping.moving_size)
    )
    return w - both[:, :-1] / (0.5 + both[:, -1:])


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
