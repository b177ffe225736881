"""Definition of ``splat``: the transpose of ``warp`` as a linear map of its image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.reference.warp import warp


def splat(
    image: Tensor,
    displacement: Tensor,
    affine: Tensor | None = None,
    size: Sequence[int] | None = None,
    mode: str = "linear",
    padding: str = "border",
    prefilter: bool = True,
) -> Tensor:
    """What makes ``<splat(y, u), x> = <y, warp(x, u)>`` hold for every image ``x``.

    Args:
        image: ``y``, ``(N, C, *spatial)``, floating point.
        displacement: ``u``, ``(N, d, *spatial)`` in voxels.
        affine: ``(N, d, d + 1)`` in voxels, or None for the identity.
        size: the spatial size of the result and of ``x``; None for that of the image.
        mode: a mode of ``warp``.
        padding: "zeros", "border" or "reflection".
        prefilter: of "bspline", as ``warp`` takes it.

    Returns:
        ``(N, C, *size)`` in the dtype of the image.
    """
    size = image.shape[2:] if size is None else size
    with torch.enable_grad():
        # warp is linear in its image: its derivative, at zero as anywhere, is the map itself.
        origin = image.new_zeros((*image.shape[:2], *size), requires_grad=True)
        warped = warp(origin, displacement, affine, mode, padding, prefilter)
        (result,) = torch.autograd.grad(warped, origin, image, create_graph=True)
    return result if torch.is_grad_enabled() else result.detach()
