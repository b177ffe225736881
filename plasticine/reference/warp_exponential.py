"""Definition of ``warp_exponential``: warp an image by the exponential of a velocity field."""

from __future__ import annotations

from torch import Tensor

from plasticine.reference.exponential import exponential
from plasticine.reference.warp import warp


def warp_exponential(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str = "euler",
    mode: str = "linear",
    padding: str = "border",
    field_padding: str = "border",
) -> Tensor:
    """Samples ``image`` at ``p + exp(velocity)(p)``.

    Args:
        image: ``(N, C, *image_spatial)``, floating point.
        velocity: ``(N, d, *spatial)`` in voxels.
        steps: number of squarings.
        method: "euler", "midpoint" or "rk4".
        mode: "linear" or "nearest".
        padding: how the image continues outside its grid.
        field_padding: how the velocity and the displacements do.

    Returns:
        ``(N, C, *spatial)`` in the dtype of the image.
    """
    return warp(image, exponential(velocity, steps, method, field_padding), None, mode, padding)
