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
    """Samples at ``offset + step · index``: a warp whose affine part does all of the work.

    Args:
        images: (N, C, *spatial); beyond their border the edge is repeated.
        size: the spatial size of the result.
        step: voxels of ``images`` from one voxel of the result to the next, along each axis.
        offset: voxels of ``images``, where the result's first voxel lies on every axis.
        mode: of ``plasticine.warp``; for "bspline", images are the coefficients.

    Returns:
        (N, C, *size), of the images' dtype, differentiable.
    """
    ndim = len(size)
    affine = torch.diag(images.new_tensor(list(step)))
    affine = torch.cat([affine, images.new_full((ndim, 1), offset)], 1)[None]
    zero = images.new_zeros(1).expand(1, ndim, *size)
    return warp(images, zero, affine=affine, mode=mode, padding="border", prefilter=False)
