"""Images on another grid of the same axes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.ops.warp import warp


def resample(
    images: Tensor,
    size: Sequence[int],
    step: Sequence[float],
    offset: float = 0.0,
    mode: str = "linear",
) -> Tensor:
    """Samples at ``offset + step · index`` along every axis.

    Args:
        images: (N, C, *spatial); beyond their border the edge is repeated.
        size: the spatial size of the result.
        step: voxels of ``images`` from one voxel of the result to the next, along each axis.
        offset: voxels of ``images``, where the result's first voxel lies on every axis.
        mode: of ``plasticine.warp``; for "bspline", images are the coefficients.

    Returns:
        (N, C, *size), of the images' dtype, differentiable.
    """
    affine = torch.diag(images.new_tensor(list(step)))
    affine = torch.cat([affine, images.new_full((len(size), 1), offset)], 1)[None]
    return sample_affinely(images, affine, size, mode)


def sample_affinely(
    images: Tensor, affine: Tensor, size: Sequence[int], mode: str = "linear"
) -> Tensor:
    """Samples at ``A p + t`` for every voxel ``p`` of a grid; the edge is repeated beyond it.

    Args:
        images: (N, C, *spatial).
        affine: (N or 1, d, d + 1), voxels of the result to voxels of ``images``.
        size: the spatial size of the result.
        mode: of ``plasticine.warp``; for "bspline", images are the coefficients.

    Returns:
        (N, C, *size), of the images' dtype, differentiable.
    """
    still = images.new_zeros(1).expand(1, len(size), *size)
    return warp(images, still, affine=affine, mode=mode, padding="border", prefilter=False)


def resize_displacement(u: Tensor, size: Sequence[int]) -> Tensor:
    """A displacement on another grid whose first and last voxels lie where the old ones did.

    Args:
        u: (N, d, *spatial), voxels.
        size: the spatial size of the result.

    Returns:
        (N, d, *size), in voxels of that grid; ``u`` itself where the size is the same.
    """
    before = u.shape[2:]
    if tuple(size) == tuple(before):
        return u
    ratio = [max(n - 1, 1) / max(m - 1, 1) for n, m in zip(size, before, strict=True)]
    fine = resample(u, size, [1 / r for r in ratio])
    return fine * fine.new_tensor(ratio).view(1, -1, *[1] * len(ratio))
