"""exponential against the integrators of MONAI, VoxelMorph and deepali."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import plasticine

ROUNDING = {"rtol": 0, "atol": 1e-8}


def to_cube(field: Tensor) -> Tensor:
    """Voxels along the axes in order, to [-1, 1] along x, y, z."""
    last = torch.tensor(field.shape[2:]).view(1, -1, *[1] * (field.ndim - 2)) - 1
    return (field * 2 / last).flip(1)


@pytest.mark.parametrize("padding", ["border", "zeros"])
@pytest.mark.parametrize("steps", [1, 7])
def test_monai_dvf2ddf(fields, steps, padding):
    blocks = pytest.importorskip("monai.networks.blocks")
    expected = blocks.DVF2DDF(num_steps=steps, padding_mode=padding)(fields.velocity)
    found = plasticine.exponential(fields.velocity, steps=steps, padding=padding)
    torch.testing.assert_close(found, expected, **ROUNDING)


@pytest.mark.parametrize("steps", [0, 7])
def test_voxelmorph_integrate_velocity_field(fields, steps):
    modules = pytest.importorskip("voxelmorph.nn.modules")
    expected = modules.IntegrateVelocityField(steps=steps)(fields.velocity)
    found = plasticine.exponential(fields.velocity, steps=steps, padding="zeros")
    torch.testing.assert_close(found, expected, **ROUNDING)


def test_deepali_expv(fields):
    functional = pytest.importorskip("deepali.core.functional")
    forward, backward = plasticine.exponential(fields.velocity, inverse=True)
    for found, inverse in ((forward, False), (backward, True)):
        expected = functional.expv(to_cube(fields.velocity), steps=7, inverse=inverse)
        torch.testing.assert_close(to_cube(found), expected, **ROUNDING)


def test_gradients_of_monai_dvf2ddf(fields):
    blocks = pytest.importorskip("monai.networks.blocks")
    layer = blocks.DVF2DDF(num_steps=7, padding_mode="border")
    gradients = []
    for integrate in (layer, plasticine.exponential):
        velocity = fields.velocity.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(integrate(velocity).square().sum(), velocity)
        gradients.append(gradient)
    scale = gradients[0].abs().max().item()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-8 * scale)
