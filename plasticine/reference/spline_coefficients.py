"""Definition of ``spline_coefficients``: one tridiagonal system per line and axis."""

from __future__ import annotations

import torch
from torch import Tensor


def spline_coefficients(image: Tensor, padding: str = "border", adjoint: bool = False) -> Tensor:
    """The coefficients whose cubic B-spline passes through the image at every voxel.

    Args:
        image: ``(N, C, *spatial)``, floating point.
        padding: "zeros", "border" or "reflection".
        adjoint: solve the transposed systems.

    Returns:
        ``(N, C, *spatial)`` in the dtype of the image; half types are computed in float32.
    """
    if image.numel() == 0:
        return image * 1
    precision = torch.promote_types(image.dtype, torch.float32)
    coefficients = image.to(precision)
    for axis in range(2, image.dim()):
        system = spline_matrix(image.shape[axis], padding).to(coefficients)
        if adjoint:
            system = system.T
        lines = coefficients.movedim(axis, 0)
        solved = torch.linalg.solve(system, lines.reshape(len(system), -1))
        coefficients = solved.reshape(lines.shape).movedim(0, axis)
    return coefficients.to(image.dtype)


def spline_matrix(size: int, padding: str) -> Tensor:
    """The spline's values at ``size`` voxels as a matrix on its coefficients, float64.

    A coefficient beyond the edge is 0 ("zeros"), that of the edge ("border"), or its mirror image
    about the edge voxel's centre ("reflection").
    """
    matrix = torch.zeros(size, size, dtype=torch.float64, device="cpu")
    last = size - 1
    for voxel in range(size):
        for neighbour, weight in ((voxel - 1, 1), (voxel, 4), (voxel + 1, 1)):
            if padding == "border":
                neighbour = min(max(neighbour, 0), last)
            elif padding == "reflection":
                neighbour = abs(neighbour)
                neighbour = abs(2 * last - neighbour) if neighbour > last else neighbour
                neighbour = 0 if last == 0 else neighbour
            if 0 <= neighbour <= last:
                matrix[voxel, neighbour] += weight / 6
    return matrix
