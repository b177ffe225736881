"""The affine part, and the deformation it makes with a velocity."""

from __future__ import annotations

import math

import pytest
import torch

import plasticine
from plasticine.registration import AffineHead, Deformation, affine_exponential

SIZES = [(32, 24), (21, 35), (9, 16, 11)]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def grid(size: tuple[int, ...], dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.stack(torch.meshgrid(*[torch.arange(n, dtype=dtype) for n in size], indexing="ij"))


def bump(size: tuple[int, ...], amount: float) -> torch.Tensor:
    """A smooth float64 velocity (1, d, *size), zero at the border, ``amount`` voxels at most."""
    axes = [torch.linspace(0, math.pi, n, dtype=torch.float64).sin() ** 2 for n in size]
    window = axes[0]
    for axis in axes[1:]:
        window = window[..., None] * axis
    direction = torch.linspace(1.0, -0.7, len(size), dtype=torch.float64)
    return (amount * window * direction.view(-1, *[1] * len(size)))[None]


class TestAffine:
    @pytest.mark.parametrize("size", SIZES)
    def test_a_zero_logarithm_is_the_identity_exactly(self, size: tuple[int, ...]) -> None:
        d = len(size)
        for affine in affine_exponential(torch.zeros(2, d, d + 1), size):
            assert torch.equal(affine, torch.eye(d, d + 1).expand(2, d, d + 1))

    def test_quarter_turn_about_the_centre(self) -> None:
        turn = math.pi / 2
        log_affine = torch.tensor([[[0, -turn, 0], [turn, 0, 0]]], dtype=torch.float64)
        affine, inverse = affine_exponential(log_affine, (5, 5))
        corner = torch.tensor([0.0, 0.0, 1.0]).double()
        assert torch.allclose(affine[0] @ corner, torch.tensor([4.0, 0.0]).double())
        assert torch.allclose(inverse[0] @ corner, torch.tensor([0.0, 4.0]).double())
        centre = torch.tensor([2.0, 2.0, 1.0]).double()
        assert torch.allclose(affine[0] @ centre, centre[:2])

    def test_scale_and_translation(self) -> None:
        log_affine = torch.zeros(1, 2, 3).double()
        log_affine[0, 0, 0] = math.log(2)
        affine, _ = affine_exponential(log_affine, (5, 7))
        assert torch.allclose(affine[0], torch.tensor([[2, 0, -2], [0, 1, 0]]).double())
        log_affine = torch.tensor([[[0, 0, 1.5], [0, 0, -2.0]]]).double()
        affine, inverse = affine_exponential(log_affine, (5, 7))
        assert torch.allclose(affine[0, :, 2], torch.tensor([1.5, -2.0]).double())
        assert torch.allclose(inverse[0, :, 2], torch.tensor([-1.5, 2.0]).double())

    @pytest.mark.parametrize("size", SIZES)
    def test_inverse_and_orientation(self, size: tuple[int, ...]) -> None:
        d = len(size)
        log_affine = torch.randn(20, d, d + 1, dtype=torch.float64, generator=_generator(0))
        forward, inverse = affine_exponential(log_affine, size)
        assert (torch.linalg.det(forward[:, :, :d]) > 0).all()
        points = torch.randn(20, d, 9, dtype=torch.float64, generator=_generator(1))
        there = forward[:, :, :d] @ points + forward[:, :, d:]
        back = inverse[:, :, :d] @ there + inverse[:, :, d:]
        assert torch.allclose(back, points, atol=1e-9)

    def test_gradcheck_and_errors(self) -> None:
        log_affine = (0.3 * torch.randn(2, 2, 3, generator=_generator(0))).double()
        assert torch.autograd.gradcheck(
            lambda g: affine_exponential(g, (5, 6)), (log_affine.requires_grad_(),)
        )
        with pytest.raises(ValueError, match=r"must be \(N, 2, 3\); got \(2, 3, 4\)"):
            affine_exponential(torch.zeros(2, 3, 4), (5, 6))

    @pytest.mark.parametrize("size", SIZES)
    def test_head_starts_at_zero_and_reads_position(self, size: tuple[int, ...]) -> None:
        head = AffineHead(len(size), channels=2)
        features = torch.randn(3, 2, *size, generator=_generator(0))
        log_affine = head(features, size)
        assert log_affine.shape == (3, len(size), len(size) + 1)
        assert (log_affine == 0).all()
        with torch.no_grad():
            head.last.weight.normal_(generator=_generator(1))
        spot = torch.zeros(1, 2, *size)
        spot[(0, 0, *(n // 3 for n in size))] = 100.0
        assert not torch.allclose(head(spot, size), head(spot.flip(2), size))


class TestDeformation:
    @pytest.mark.parametrize("size", [(20, 17), (11, 12, 10)])
    def test_displacement_is_the_affine_after_the_exponential(self, size: tuple[int, ...]) -> None:
        d = len(size)
        raw = 0.05 * torch.randn(1, d, d + 1, dtype=torch.float64, generator=_generator(0))
        affine, inverse_affine = affine_exponential(raw, size)
        velocity = bump(size, 1.5)
        deformation = Deformation(velocity, affine, inverse_affine)
        p = grid(size)
        reached = p + plasticine.exponential(velocity)[0]
        expected = torch.einsum("ij,j...->i...", affine[0, :, :d], reached)
        expected = expected + affine[0, :, d].view(-1, *[1] * d) - p
        assert torch.allclose(deformation.displacement()[0], expected, atol=1e-10)
        together = deformation.displacements()
        assert torch.equal(together[0], deformation.displacement())
        assert torch.equal(together[1], deformation.inverse_displacement())

    @pytest.mark.parametrize("size", [(40, 36), (24, 22, 26)])
    @pytest.mark.parametrize("inverse_from", ["negation", "head"])
    def test_inverse_takes_every_point_back(self, size: tuple[int, ...], inverse_from: str) -> None:
        """Up to the interpolation between voxels, which shrinks with the field's curvature."""
        d = len(size)
        raw = 0.03 * torch.randn(1, d, d + 1, dtype=torch.float64, generator=_generator(0))
        raw[:, :, d] *= 20
        affine, inverse_affine = affine_exponential(raw, size)
        velocity = bump(size, min(size) / 20)
        deformation = Deformation(
            velocity, affine, inverse_affine, inverse_velocity=-velocity, inverse_from=inverse_from
        )
        u, v = deformation.displacements()
        assert u.norm(dim=1).max() > 1
        for first, second in ((u, v), (v, u)):
            residual = plasticine.compose(second, first).norm(dim=1)
            there = grid(size) + first[0]
            inner = torch.ones(size, dtype=torch.bool)
            for axis, n in enumerate(size):
                inner &= (there[axis] > 1) & (there[axis] < n - 2)
            assert inner.double().mean() > 0.6
            assert residual[0][inner].max() < 0.05

    def test_affine_alone(self) -> None:
        log_affine = torch.zeros(2, 2, 3).double()
        log_affine[:, 0, 0], log_affine[:, 1, 2] = math.log(1.25), 1.0
        affine, inverse = affine_exponential(log_affine, (10, 12))
        deformation = Deformation(torch.zeros(2, 2, 10, 12).double(), affine, inverse)
        assert torch.allclose(deformation.jacobian(), torch.tensor(1.25).double())
        shifted = grid((10, 12)) + deformation.displacement()
        inside = (shifted >= 0).all(1) & (shifted[:, 0] <= 9) & (shifted[:, 1] <= 11)
        assert torch.equal(deformation.valid()[:, 0], inside)
        assert 0 < inside.double().mean() < 1
        u, v = deformation.displacements()
        centre = (slice(None), slice(None), slice(3, 7), slice(3, 8))
        assert plasticine.compose(v, u)[centre].abs().max() < 1e-12

    def test_without_affine_is_the_exponential(self) -> None:
        velocity = bump((12, 12), 1.0)
        deformation = Deformation(velocity)
        u, v = plasticine.exponential(velocity, inverse=True)
        assert torch.equal(deformation.displacement(), u)
        assert torch.equal(deformation.inverse_displacement(), v)

    def test_gradcheck(self) -> None:
        """Of both maps, with respect to velocity and logarithm, away from interpolation's kinks."""
        velocity = (bump((5, 4), 0.7) + 0.013).requires_grad_()
        log_affine = (0.05 * torch.randn(1, 2, 3, generator=_generator(3))).double()

        def maps(v: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return Deformation(v, *affine_exponential(g, (5, 4)), steps=3).displacements()

        assert torch.autograd.gradcheck(maps, (velocity, log_affine.requires_grad_()))

    def test_errors(self) -> None:
        velocity = torch.zeros(1, 2, 4, 4)
        with pytest.raises(ValueError, match="negation, head; got 'newton'"):
            Deformation(velocity, inverse_from="newton")
        with pytest.raises(ValueError, match="both"):
            Deformation(velocity, affine=torch.eye(2, 3)[None])
        with pytest.raises(ValueError, match="inverse=True"):
            Deformation(velocity, inverse_from="head").inverse_displacement()
