"""Sampling at ``p + u(p)`` as projects that normalise a grid for ``F.grid_sample`` do it."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine import exponential, warp
from plasticine.ops import _autocast


def sample(
    image: Tensor,
    displacement: Tensor,
    *,
    mode: str = "linear",
    padding: str = "zeros",
    align_corners: bool = True,
) -> Tensor:
    """``F.grid_sample`` at ``2 (p + u(p)) / (size - 1) - 1``, of the displacement's size.

    With ``align_corners`` and an image of that size this is :func:`plasticine.warp`. Otherwise the
    image is sampled at ``s (p + u(p)) + t``: with ``s = image size / (size - 1)`` and ``t = -1/2``
    without ``align_corners``, a zero displacement does not give back the image. Along an axis of
    one voxel, ``size - 1`` counts as 1.

    Args:
        image: ``(N, C, *spatial)``.
        displacement: ``(N, d, *output_spatial)`` in voxels.
        mode: of :func:`plasticine.warp`.
        padding: likewise.
        align_corners: of ``F.grid_sample``.
    """
    if image.is_cpu or displacement.is_cpu:
        # F.grid_sample takes all in float32 there, but the widest types on a GPU.
        image, displacement = _autocast.single(image, displacement)
    if image.dtype != displacement.dtype:  # of autocast: the wider is the result's, as of PyTorch's
        dtype = torch.promote_types(image.dtype, displacement.dtype)
        image, displacement = image.to(dtype), displacement.to(dtype)
    image_size, size = image.shape[2:], displacement.shape[2:]
    if align_corners and image_size == size and 1 not in size:
        return warp(image, displacement, mode=mode, padding=padding)
    less = int(align_corners)
    pairs = zip(image_size, size, strict=True)
    scale = displacement.new_tensor([(n - less) / max(m - 1, 1) for n, m in pairs])
    offset = torch.zeros_like(scale) if align_corners else torch.full_like(scale, -0.5)
    affine = torch.cat([torch.diag(scale), offset[:, None]], 1)[None]
    scaled = displacement * scale.view(1, -1, *[1] * len(size))
    return warp(image, scaled, affine=affine, mode=mode, padding=padding)


def integrate(velocity: Tensor, steps: int, scale: float | None = None) -> Tensor:
    """Scaling and squaring with zeros outside of the grid, as MONAI and VoxelMorph do it.

    Args:
        velocity: ``(N, d, *spatial)`` in voxels.
        steps: number of squarings.
        scale: of the velocity before them; None for ``2 ** -steps``.
    """
    # Where an axis has one voxel theirs stays on it, and a scale may be too small for a float.
    if 1 in velocity.shape[2:] or steps > 64:
        u = velocity * (2.0**-steps if scale is None else scale)
        for _ in range(steps):
            u = u + sample(u, u)
        return u
    if scale is not None and scale != 2.0**-steps:
        velocity = velocity * (scale * 2.0**steps)
    steps = int(steps) if isinstance(steps, bool) else steps  # which range() takes
    return exponential(velocity, steps=steps, padding="zeros")
