"""The instances of the spline's Triton kernel that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.spline_coefficients import spline_coefficients

INSTANCES = (
    ("border", False, torch.float32, (2, 3, 8, 16, 33)),
    ("zeros", True, torch.bfloat16, (2, 3, 16, 32)),
    ("reflection", True, torch.float64, (2, 3, 8, 16, 32)),
)


def launch() -> None:
    """Along every axis, in each of the instances."""
    for padding, adjoint, dtype, shape in INSTANCES:
        image = torch.zeros(shape, dtype=dtype)
        spline_coefficients(image, torch.empty_like(image), padding, adjoint)
