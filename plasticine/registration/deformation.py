"""A deformation as the registration network gives it: affine after diffeomorphism."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from plasticine.nn.resampling import sample_affinely
from plasticine.nn.validity import validity_mask
from plasticine.ops.exponential import exponential
from plasticine.ops.jacobian import jacobian_determinant

INVERSES = ("negation", "head")


@dataclass(frozen=True)
class Deformation:
    """φ(p) = A(exp(v)(p)), from target voxels to source voxels, and its inverse.

    With w = exponential(velocity) and A p = L p + t, the displacement is
    u(p) = A(p + w(p)) - p. Its inverse is φ⁻¹(q) = exp(-v)(A⁻¹ q), so
    u⁻¹(q) = A⁻¹ q + w⁻(A⁻¹ q) - q, where w⁻ is the exponential of -v or, in the faithful
    mode, of a second predicted field. Between voxels and outside the grid w⁻ is interpolated
    and repeats its edge.

    Attributes:
        velocity: (N, d, *spatial) stationary velocity field, voxels.
        affine: (N, d, d + 1) voxel map A, or None for the identity.
        inverse_affine: (N, d, d + 1), the inverse of A, or None with it.
        inverse_velocity: (N, d, *spatial), the field predicted for the inverse, or None
            where it was not run.
        features: what the stem made of the images, one tensor a scale (for the alignment of
            the two stems).
        log_affine: (N, d, d + 1), the logarithm of A about the image centre, or None with it.
        inverse_from: "negation" (w⁻ from -velocity) or "head" (from inverse_velocity).
        steps: squarings of the exponential.
        checkpoint: "store" or "recompute", as ``plasticine.exponential`` has it.
    """

    velocity: Tensor
    affine: Tensor | None = None
    inverse_affine: Tensor | None = None
    inverse_velocity: Tensor | None = None
    features: tuple[Tensor, ...] = ()
    log_affine: Tensor | None = None
    inverse_from: str = "negation"
    steps: int = 7
    checkpoint: str = "store"

    def __post_init__(self) -> None:
        if self.inverse_from not in INVERSES:
            raise ValueError(
                f"inverse_from must be one of {', '.join(INVERSES)}; got {self.inverse_from!r}"
            )
        if (self.affine is None) != (self.inverse_affine is None):
            raise ValueError("affine and inverse_affine must both be given, or neither")

    def displacement(self) -> Tensor:
        """u, (N, d, *spatial) voxels: the source image is sampled at p + u(p)."""
        return self._after_affine(
            exponential(self.velocity, steps=self.steps, checkpoint=self.checkpoint)
        )

    def inverse_displacement(self) -> Tensor:
        """u⁻¹, (N, d, *spatial) voxels: the target image is sampled at q + u⁻¹(q).

        Raises:
            ValueError: the inverse comes from the second head, and that was not run.
        """
        return self._before_affine(
            exponential(self._inverse_field(), steps=self.steps, checkpoint=self.checkpoint)
        )

    def displacements(self) -> tuple[Tensor, Tensor]:
        """(u, u⁻¹) together.

        Raises:
            ValueError: the inverse comes from the second head, and that was not run.
        """
        if self.inverse_from == "negation":
            forward, backward = exponential(
                self.velocity, steps=self.steps, checkpoint=self.checkpoint, inverse=True
            )
            return self._after_affine(forward), self._before_affine(backward)
        return self.displacement(), self.inverse_displacement()

    def jacobian(self) -> Tensor:
        """det ∇φ, (N, 1, *spatial), by central differences of the displacement."""
        return jacobian_determinant(self.displacement())

    def valid(self) -> Tensor:
        """(N, 1, *spatial) bool: where φ lands inside the source image."""
        return validity_mask(self.displacement())

    def _inverse_field(self) -> Tensor:
        if self.inverse_from == "negation":
            return -self.velocity
        if self.inverse_velocity is None:
            raise ValueError(
                "the inverse comes from the second velocity head, which was not run: "
                "call the network with inverse=True"
            )
        return self.inverse_velocity

    def _after_affine(self, w: Tensor) -> Tensor:
        """A(p + w(p)) - p, written so that an identity A leaves w as it is."""
        if self.affine is None:
            return w
        affine = self.affine.to(w.dtype)
        return turned(affine, w) + affine_displacement(affine, w.shape[2:])

    def _before_affine(self, w: Tensor) -> Tensor:
        """A⁻¹ q + w(A⁻¹ q) - q."""
        if self.inverse_affine is None:
            return w
        affine = self.inverse_affine.to(w.dtype)
        return sample_affinely(w, affine, w.shape[2:]) + affine_displacement(affine, w.shape[2:])


def turned(affine: Tensor, field: Tensor) -> Tensor:
    """The vectors of a field under the linear part of (N, d, d + 1) maps: (N, d, *spatial)."""
    # No matrix product, which autocast and TF32 round: these are coordinates.
    linear = affine[:, :, :-1]
    columns = linear.reshape(*linear.shape, *[1] * (field.dim() - 2)).unbind(2)
    result = columns[0] * field[:, :1]
    for axis, column in enumerate(columns[1:], start=1):
        result = result + column * field[:, axis : axis + 1]
    return result


def affine_displacement(affine: Tensor, size: torch.Size) -> Tensor:
    """A p - p on the grid of ``size``, (N, d, *size)."""
    ndim = len(size)
    shape = [1, ndim] + [1] * ndim
    linear = affine[:, :, :ndim] - torch.eye(ndim, dtype=affine.dtype, device=affine.device)
    out = affine[:, :, ndim].reshape(-1, *shape[1:])
    for axis, n in enumerate(size):
        line = torch.arange(n, dtype=affine.dtype, device=affine.device)
        along = [-1 if axis == other else 1 for other in range(ndim)]
        out = out + linear[:, :, axis].reshape(-1, *shape[1:]) * line.view(along)
    return out


def nearest_affine(displacement: Tensor) -> Tensor:
    """The affine map A that is nearest to id + u: least mean |A p - p - u(p)|² over the grid.

    Args:
        displacement: (1, d, *spatial), u, voxels, every axis of 2 voxels at least.

    Returns:
        (d, d + 1) float64, from voxels to voxels.
    """
    u = displacement[0].detach().double()
    ndim = len(u)
    mean = u.flatten(1).mean(1)
    linear = torch.eye(ndim, dtype=torch.float64, device=u.device)
    centre = u.new_tensor([(n - 1) / 2 for n in u.shape[1:]])
    # On a whole grid the coordinates about its centre are uncorrelated: each has its own slope.
    for axis, size in enumerate(u.shape[1:]):
        line = torch.arange(size, dtype=u.dtype, device=u.device) - centre[axis]
        along = u.movedim(axis + 1, 1).flatten(2).mean(2) @ line
        linear[:, axis] += along / line.square().sum()
    return torch.cat([linear, (mean + centre - linear @ centre)[:, None]], 1)
