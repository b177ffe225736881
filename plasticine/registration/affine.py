"""The affine part of a deformation: the exponential of its logarithm, and a network head."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def affine_exponential(log_affine: Tensor, size: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The affine map exp(G) about the image centre, and its inverse exp(-G).

    The d x d part of G splits into an antisymmetric half, a rotation in
    radians, and a symmetric half, logarithms of scale and shear; its last column is a
    translation in voxels. The matrix exponential makes every such map invertible and
    orientation-preserving, and its inverse the exponential of the negative: exact up to
    rounding. G = 0 gives the identity exactly.

    Args:
        log_affine: (N, d, d + 1), G, float32 or float64.
        size: spatial size of the image, whose centre is (size - 1) / 2.

    Returns:
        Two (N, d, d + 1) maps in voxels: A p = A[:, :, :d] @ p + A[:, :, d], and its inverse.

    Raises:
        ValueError: log_affine is not (N, d, d + 1) with d the length of ``size``.
    """
    ndim = len(size)
    if log_affine.shape[1:] != (ndim, ndim + 1):
        raise ValueError(
            f"log_affine for {ndim} axes must be (N, {ndim}, {ndim + 1}); "
            f"got {tuple(log_affine.shape)}"
        )
    # In float64, whose products are left alone by autocast and by TF32, which round coordinates.
    square = functional.pad(log_affine, (0, 0, 0, 1)).double()
    centre = square.new_tensor([(n - 1) / 2 for n in size])
    forward = _about(torch.linalg.matrix_exp(square), centre)
    backward = _about(torch.linalg.matrix_exp(-square), centre)
    return forward.to(log_affine.dtype), backward.to(log_affine.dtype)


def _about(square: Tensor, centre: Tensor) -> Tensor:
    """The map of homogeneous matrices (N, d+1, d+1) around ``centre``, (N, d, d+1)."""
    ndim = len(centre)
    linear, translation = square[:, :ndim, :ndim], square[:, :ndim, ndim]
    offset = translation + centre - linear @ centre
    return torch.cat([linear, offset.unsqueeze(2)], 2)


class AffineHead(nn.Module):
    """Features of an image, pooled, to the logarithm of an affine map.

    The features are pooled as spatial moments up to the second order (the mean of each
    channel times 1, x_i and x_i x_j, with x from -1 to 1 across the image), from which
    position, orientation and extent can be read at any image size. The last layer starts at
    zero, so that the first map is the identity.

    Args:
        ndim: spatial axes, 2 or 3.
        channels: channels of the features.
        hidden: width of the hidden layer.
        scale: how far a unit of the last layer's output moves a voxel at the image's edge,
            as a fraction of half the image. It sets the pace at which the affine part learns.
    """

    def __init__(self, ndim: int, channels: int, hidden: int = 64, scale: float = 0.1) -> None:
        super().__init__()
        self.ndim, self.scale = ndim, scale
        self.second = list(itertools.combinations_with_replacement(range(ndim), 2))
        moments = 1 + ndim + len(self.second)
        self.hidden = nn.Linear(channels * moments, hidden)
        self.last = nn.Linear(hidden, ndim * (ndim + 1))
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """The logarithm of the affine map for an image of spatial ``size``.

        Args:
            features: (N, channels, *any), floating point.
            size: the image's spatial size, voxels.

        Returns:
            (N, d, d + 1), of the parameters' dtype, under autocast too.
        """
        with torch.autocast(features.device.type, enabled=False):
            moments = self._moments(features.to(self.last.weight.dtype))
            hidden = functional.leaky_relu(self.hidden(moments), 0.2)
            log_affine = self.scale * self.last(hidden).view(-1, self.ndim, self.ndim + 1)
        half = log_affine.new_tensor([n / 2 for n in size])
        return torch.cat([log_affine[..., :-1], log_affine[..., -1:] * half[:, None]], 2)

    def _moments(self, features: Tensor) -> Tensor:
        """(N, channels, *any) to (N, channels x moments)."""
        axes = [
            torch.linspace(-1, 1, n, dtype=features.dtype, device=features.device).view(
                [-1 if axis == other else 1 for other in range(self.ndim)]
            )
            for axis, n in enumerate(features.shape[2:])
        ]
        flat = features.flatten(2)
        weights = [torch.ones_like(features[0, 0])]
        weights += [axis.expand(features.shape[2:]) for axis in axes]
        weights += [axes[i] * axes[j] + torch.zeros_like(features[0, 0]) for i, j in self.second]
        basis = torch.stack([weight.flatten() for weight in weights], 1)
        return (flat @ basis / flat.shape[2]).flatten(1)
