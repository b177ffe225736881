"""The instances of gaussian_smooth's Triton kernel that are compiled: see compile_triton.py."""

from __future__ import annotations

import torch

from plasticine.kernels.gaussian_smooth import gaussian_smooth

INSTANCES = (
    (False, torch.float32, (2, 3, 8, 16, 33)),
    (True, torch.bfloat16, (2, 3, 16, 32)),
    (True, torch.float64, (2, 3, 8, 16, 32)),
)


def launch() -> None:
    """Along every axis, in each of the instances."""
    for adjoint, dtype, shape in INSTANCES:
        images = torch.zeros(shape, dtype=dtype)
        sigma = [1.7, 0.8, 2.0][: len(shape) - 2]
        gaussian_smooth(images, torch.empty_like(images), sigma, adjoint)
