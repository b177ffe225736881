"""The registration losses against analytic values, independent estimates and gradcheck."""

from __future__ import annotations

import math

import pytest
import torch
from refusal import refuses

from plasticine.nn import BendingEnergyLoss, DiffusionLoss
from plasticine.nn.losses import (
    alignment,
    inverse_consistency,
    soft_dice,
)
from plasticine.ops.exponential import exponential


def random_image(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, generator=generator, dtype=torch.float64).mul(2).sub(1).to(dtype)


def smooth_velocity(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """A few voxels of velocity made of the grid's slowest cosines, zero at its border."""
    generator = torch.Generator().manual_seed(seed)
    velocity = torch.zeros(1, len(shape), *shape, dtype=torch.float64)
    axes = torch.meshgrid(*[torch.linspace(0, math.pi, n).double() for n in shape], indexing="ij")
    window = torch.stack([axis.sin() for axis in axes]).prod(0)
    for component in range(len(shape)):
        for axis in axes:
            amplitude = 1.5 * torch.randn((), generator=generator)
            velocity[:, component] += amplitude * (2 * axis).sin() * window
    return velocity


class TestInverseConsistency:
    def test_of_opposite_shifts_is_zero_and_of_equal_ones_their_square(self) -> None:
        u = torch.zeros(1, 2, 8, 9)
        u[:, 0], u[:, 1] = 1.5, -2.0
        assert inverse_consistency(u, -u).item() == 0
        assert inverse_consistency(u, u).item() == pytest.approx(9 + 16)

    def test_of_a_map_and_its_exponential_inverse_is_small(self) -> None:
        for shape in ((24, 20), (14, 12, 16)):
            u, v = exponential(smooth_velocity(shape), inverse=True)
            assert u.abs().max() > 1
            assert 0 < inverse_consistency(u, v).item() < 1e-2
            assert inverse_consistency(u, u).item() > 0.1

    def test_counts_only_where_it_is_told(self) -> None:
        u, v = torch.zeros(1, 2, 6, 6), torch.zeros(1, 2, 6, 6)
        v[..., 3] = 1.0
        everywhere = torch.ones(1, 1, 6, 6, dtype=torch.bool)
        elsewhere = everywhere.clone()
        elsewhere[..., 3] = False
        assert inverse_consistency(u, v, everywhere, everywhere).item() == pytest.approx(2 / 6)
        assert inverse_consistency(u, v, elsewhere, elsewhere).item() == 0
        assert inverse_consistency(u, v, ~everywhere, ~everywhere).item() == 0

    def test_gradcheck(self) -> None:
        u = (0.4 * smooth_velocity((5, 4)) + 0.01).requires_grad_()
        v = (-0.3 * smooth_velocity((5, 4), seed=1) - 0.02).requires_grad_()
        everywhere = torch.ones(1, 1, 5, 4, dtype=torch.bool)
        assert torch.autograd.gradcheck(
            lambda a, b: inverse_consistency(a, b, everywhere, everywhere), (u, v)
        )

    def test_errors(self) -> None:
        u = torch.zeros(1, 2, 6, 6)
        refuses(ValueError, "one shape", inverse_consistency, u, u[..., 1:])
        refuses(TypeError, "bool", inverse_consistency, u, u, torch.ones(1, 1, 6, 6))
        with pytest.raises(ValueError, match="validity mask"):
            inverse_consistency(u, u, torch.ones(1, 1, 6, 5, dtype=torch.bool))
        with pytest.raises(TypeError):
            inverse_consistency(u, u.double())


class TestSoftDice:
    def test_of_equal_and_disjoint_maps(self) -> None:
        a = random_image(2, 3, 8, 8).abs()
        assert soft_dice(a, a).item() == pytest.approx(1)
        binary = (a > 0.5).float()
        assert soft_dice(binary, 1 - binary).item() == 0

    def test_of_binary_maps_is_dice_and_empty_channels_agree(self) -> None:
        a, b = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
        a[0, 0, :2], b[0, 0, 1:3] = 1, 1
        assert soft_dice(a, b).item() == pytest.approx((0.5 + 1) / 2)
        a = a.requires_grad_()
        soft_dice(a, b).backward()
        assert a.grad is not None
        assert a.grad.isfinite().all()

    def test_weight_leaves_voxels_out(self) -> None:
        a, b = random_image(1, 2, 6, 6).abs(), random_image(1, 2, 6, 6, seed=1).abs()
        weight = torch.zeros(1, 1, 6, 6, dtype=torch.bool)
        weight[..., :3] = True
        cropped = soft_dice(a[..., :3], b[..., :3])
        assert soft_dice(a, b, weight).item() == pytest.approx(cropped.item())

    def test_gradcheck(self) -> None:
        a = random_image(2, 2, 3, 4, dtype=torch.float64).abs().requires_grad_()
        b = random_image(2, 2, 3, 4, seed=1, dtype=torch.float64).abs().requires_grad_()
        weight = random_image(2, 1, 3, 4, seed=2, dtype=torch.float64).abs()
        assert torch.autograd.gradcheck(lambda p, q: soft_dice(p, q, weight), (a, b))

    def test_errors(self) -> None:
        a = torch.ones(1, 2, 4, 4)
        refuses(ValueError, "one shape", soft_dice, a, a[:, :1])
        refuses(ValueError, "weight must be", soft_dice, a, a, torch.ones(1, 2, 4, 4))
        refuses(TypeError, "one dtype", soft_dice, a, a.double())


class TestAlignment:
    def test_pulls_the_single_stem_only(self) -> None:
        single = [torch.ones(1, k, 4, 4, requires_grad=True) for k in (2, 3)]
        pair = [torch.zeros(1, 2, 4, 4, requires_grad=True), torch.full((1, 3, 4, 4), 3.0)]
        loss = alignment(single, pair)
        assert loss.item() == pytest.approx((1 + 4) / 2)
        loss.backward()
        assert pair[0].grad is None
        assert all(h.grad is not None and (h.grad != 0).all() for h in single)
        assert alignment(single[0], pair[0]).item() == 1

    def test_errors(self) -> None:
        with pytest.raises(ValueError, match="same shapes"):
            alignment([torch.zeros(1, 2)], [torch.zeros(1, 2), torch.zeros(1, 2)])
        refuses(ValueError, "same shapes", alignment, torch.zeros(1, 2), torch.zeros(1, 3))


@pytest.mark.parametrize("loss", [BendingEnergyLoss, DiffusionLoss])
def test_a_normalised_energy_of_half_fields_is_taken_in_float32(generator, loss):
    field = torch.randn(1, 3, 6, 7, 8, generator=generator).bfloat16() * 1e-3
    found = loss(normalize=True)(field)
    torch.testing.assert_close(found, loss(normalize=True)(field.float()))


@pytest.mark.parametrize("options", [{"reduction": "sum"}, {"normalize": True}], ids=str)
@pytest.mark.parametrize("loss", [BendingEnergyLoss, DiffusionLoss])
def test_energies_compile_for_any_size(generator, loss, options):
    torch.compiler.reset()  # other modules' graphs count towards a limit
    module = loss(**options)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    for size in ((5, 6, 7), (6, 6, 5), (4, 8, 9)):
        field = torch.randn(1, 3, *size, generator=generator)
        torch.testing.assert_close(compiled(field), module(field))
