"""The registration losses against analytic values, independent estimates and gradcheck."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from refusal import refuses
from scipy.interpolate import BSpline

from plasticine.nn.losses import (
    alignment,
    inverse_consistency,
    jacobian_hinge,
    mutual_information,
    smoothness,
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


def information_from_definition(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, bins: int
) -> float:
    """The same estimate written from its formula, with scipy's spline and full matrices."""
    spline = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)

    def window(values: np.ndarray) -> np.ndarray:
        position = 1 + (values + 1) / 2 * (bins - 3)
        return np.nan_to_num(spline(position[:, None] - np.arange(bins)))

    joint = np.einsum("v,va,vb->ab", weights, window(x), window(y)) / weights.sum()
    expected = np.outer(joint.sum(1), joint.sum(0))
    some = joint > 0
    return float((joint[some] * np.log(joint[some] / expected[some])).sum())


class TestMutualInformation:
    @pytest.mark.parametrize("bins", [5, 16, 32])
    @pytest.mark.parametrize("shape", [(17, 13), (6, 5, 7)])
    @pytest.mark.parametrize("mask", [None, "bool", "float"])
    def test_equals_its_definition(
        self, bins: int, shape: tuple[int, ...], mask: str | None
    ) -> None:
        x = random_image(3, 1, *shape, dtype=torch.float64)
        y = (0.5 * x + 0.5 * random_image(3, 1, *shape, seed=1, dtype=torch.float64)).clamp(-1, 1)
        x[0, 0, 0], y[0, 0, 0] = -1.0, 1.0  # the ends of the range
        weights = torch.ones_like(x)
        if mask == "bool":
            weights = (random_image(*x.shape, seed=2) > 0.2).double()
        elif mask == "float":
            weights = random_image(*x.shape, seed=2, dtype=torch.float64).abs()
        expected = np.mean(
            [
                information_from_definition(*(t.flatten().numpy() for t in sample), bins)
                for sample in zip(x, y, weights, strict=True)
            ]
        )
        valid = {None: None, "bool": weights.bool(), "float": weights}[mask]
        measured = mutual_information(x, y, bins=bins, valid=valid)
        assert measured.dtype == torch.float64
        assert measured.item() == pytest.approx(expected, abs=1e-12)
        single = mutual_information(
            x.float(), y.float(), bins=bins, valid=valid.float() if mask == "float" else valid
        )
        assert single.dtype == torch.float32
        assert single.item() == pytest.approx(expected, abs=2e-5)

    def test_large_images_pass_in_chunks_with_the_same_result(self) -> None:
        x, y = random_image(1, 1, 200, 190), random_image(1, 1, 200, 190, seed=1)
        y = 0.3 * y + 0.7 * x
        expected = information_from_definition(
            x.double().flatten().numpy(), y.double().flatten().numpy(), np.ones(x.numel()), 32
        )
        assert mutual_information(x, y).item() == pytest.approx(expected, abs=2e-5)

    def test_of_two_equal_classes_is_the_entropy(self) -> None:
        # The windows of -1 and 1 do not meet, so smoothing takes nothing away.
        x = torch.ones(1, 1, 10, 10, dtype=torch.float64)
        x[..., :5] = -1
        assert mutual_information(x, x).item() == pytest.approx(math.log(2), abs=1e-12)
        assert mutual_information(x, -x).item() == pytest.approx(math.log(2), abs=1e-12)
        assert mutual_information(x, x.mT.contiguous()).item() == pytest.approx(0, abs=1e-12)
        x[..., 1:5] = 1
        entropy = -(0.1 * math.log(0.1) + 0.9 * math.log(0.9))
        assert mutual_information(x, x).item() == pytest.approx(entropy, abs=1e-12)

    def test_agrees_with_a_plain_histogram(self) -> None:
        """Independent noise, a noisy copy and an inverted copy, against numpy's histogram."""
        x, noise = random_image(1, 1, 256, 256), random_image(1, 1, 256, 256, seed=1)
        found = {}
        for name, y in (("independent", noise), ("noisy", (x + noise) / 2), ("inverse", -x)):
            counts, _, _ = np.histogram2d(x.flatten(), y.flatten(), bins=29, range=[[-1, 1]] * 2)
            p = counts / counts.sum()
            q = np.outer(p.sum(1), p.sum(0))
            plain = (p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum()
            found[name] = mutual_information(x, y).item(), plain
        parzen, plain = found["independent"]
        assert 0 <= parzen < plain < 0.02
        parzen, plain = found["noisy"]
        assert parzen == pytest.approx(plain, rel=0.1)
        # A window four bins wide blurs a copy, whose information is the log of the bins.
        parzen, plain = found["inverse"]
        assert plain == pytest.approx(math.log(29), abs=0.01)
        assert math.log(29 / 4) < parzen < plain

    def test_counts_valid_voxels_only(self) -> None:
        x, y = random_image(2, 1, 20, 20), random_image(2, 1, 20, 20, seed=1)
        valid = torch.zeros(2, 1, 20, 20, dtype=torch.bool)
        valid[..., :12] = True
        cropped = mutual_information(x[..., :12].contiguous(), y[..., :12].contiguous())
        x[..., 12:] = 0.3  # what lies outside says nothing
        x = x.requires_grad_()
        inside = mutual_information(x, y, valid=valid)
        assert inside.item() == pytest.approx(cropped.item(), abs=1e-6)
        inside.backward()
        assert x.grad is not None
        assert (x.grad[..., 12:] == 0).all()
        assert (x.grad[..., :12] != 0).any()

    def test_is_zero_with_zero_gradient_where_nothing_is_valid(self) -> None:
        x = random_image(2, 1, 8, 8).requires_grad_()
        valid = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
        valid[1] = True
        information = mutual_information(x, x.detach(), valid=valid)
        alone = mutual_information(x[1:], x[1:].detach())
        assert information.item() == pytest.approx(alone.item() / 2, rel=1e-6)
        information.backward()
        assert x.grad is not None
        assert (x.grad[0] == 0).all()
        assert x.grad.isfinite().all()

    @pytest.mark.parametrize("shape", [(4, 3), (2, 3, 2)])
    def test_gradcheck(self, shape: tuple[int, ...]) -> None:
        x = random_image(2, 1, *shape, dtype=torch.float64).requires_grad_()
        y = random_image(2, 1, *shape, seed=1, dtype=torch.float64).requires_grad_()
        valid = random_image(2, 1, *shape, seed=2) > -0.5
        assert torch.autograd.gradcheck(
            lambda a, b: mutual_information(a, b, bins=8, valid=valid), (x, y)
        )
        assert torch.autograd.gradcheck(mutual_information, (x, y))

    def test_constant_image_has_none(self) -> None:
        x = torch.full((1, 1, 6, 6), 0.25).requires_grad_()
        information = mutual_information(x, random_image(1, 1, 6, 6))
        information.backward()
        assert information.item() == pytest.approx(0, abs=1e-6)
        assert x.grad is not None
        assert x.grad.isfinite().all()

    def test_half_precision_images_are_read_in_float32(self) -> None:
        x, y = (random_image(1, 1, 32, 32, seed=seed).bfloat16() for seed in (0, 1))
        x = x.requires_grad_()
        information = mutual_information(x, y)
        assert information.dtype == torch.float32
        assert information.item() == mutual_information(x.float(), y.float()).item()
        information.backward()
        assert x.grad is not None
        assert x.grad.dtype == torch.bfloat16

    def test_autocast_does_not_lower_its_precision(self) -> None:
        x, y = random_image(1, 1, 32, 32).requires_grad_(), random_image(1, 1, 32, 32, seed=1)
        expected = mutual_information(x, y)
        (gradient,) = torch.autograd.grad(expected, x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            information = mutual_information(x, y)
            (inside,) = torch.autograd.grad(information, x)
        assert information.item() == expected.item()
        assert torch.equal(inside, gradient)

    def test_refuses_what_it_cannot_bin(self) -> None:
        x = random_image(1, 1, 8, 8)
        with pytest.raises(ValueError, match=r"\[-1, 1\]; y holds 0 to 255"):
            mutual_information(x, torch.tensor([0.0, 255.0]).repeat(32).view(1, 1, 8, 8))
        refuses(ValueError, "x holds nan", mutual_information, torch.full_like(x, torch.nan), x)
        refuses(ValueError, "one shape", mutual_information, x, x[..., 1:])
        with pytest.raises(ValueError, match="one shape"):
            mutual_information(x.repeat(1, 2, 1, 1), x.repeat(1, 2, 1, 1))
        refuses(ValueError, "not empty", mutual_information, x[:0], x[:0])
        with pytest.raises(ValueError, match="valid must have"):
            mutual_information(x, x, valid=torch.ones(1, 1, 4, 4))
        refuses(ValueError, "5 bins; got 4", mutual_information, x, x, bins=4)
        refuses(TypeError, "one dtype", mutual_information, x, x.double())
        with pytest.raises(TypeError, match="floating-point"):
            mutual_information(x.to(torch.uint8), x.to(torch.uint8))

    def test_is_not_differentiated_twice_in_silence(self) -> None:
        x = random_image(1, 1, 8, 8).requires_grad_()
        (gradient,) = torch.autograd.grad(mutual_information(x, x.detach()), x, create_graph=True)
        refuses(RuntimeError, "once_differentiable", gradient.sum().backward)


class TestSmoothness:
    @pytest.mark.parametrize("shape", [(7, 9), (5, 6, 4)])
    def test_of_a_linear_field_is_its_squared_frobenius_norm(self, shape: tuple[int, ...]) -> None:
        matrix = random_image(len(shape), len(shape), dtype=torch.float64)
        position = torch.stack(
            torch.meshgrid(*[torch.arange(n).double() for n in shape], indexing="ij")
        )
        velocity = torch.einsum("ij,j...->i...", matrix, position)[None].repeat(
            2, 1, *[1] * len(shape)
        )
        assert smoothness(velocity).item() == pytest.approx(matrix.square().sum().item())
        assert smoothness(velocity + 5).item() == pytest.approx(matrix.square().sum().item())

    def test_axis_of_length_one_and_half_precision(self) -> None:
        velocity = random_image(1, 2, 1, 6)
        expected = velocity.diff(dim=3).square().sum(1).mean()
        assert smoothness(velocity).item() == pytest.approx(expected.item())
        assert smoothness(velocity.half()).dtype == torch.float32
        assert smoothness(torch.zeros(1, 2, 1, 1)).item() == 0

    def test_gradcheck(self) -> None:
        velocity = random_image(2, 2, 4, 3, dtype=torch.float64).requires_grad_()
        assert torch.autograd.gradcheck(smoothness, (velocity,))

    def test_errors(self) -> None:
        refuses(ValueError, r"got \(1, 3, 4, 4\)", smoothness, torch.zeros(1, 3, 4, 4))
        refuses(ValueError, "not empty", smoothness, torch.zeros(0, 2, 4, 4))
        refuses(TypeError, "int64", smoothness, torch.zeros(1, 2, 4, 4, dtype=torch.int64))


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


class TestJacobianHinge:
    def test_values_and_gradient(self) -> None:
        jacobian = torch.tensor([1.0, 0.05, 0.0, -0.95]).view(1, 1, 2, 2).requires_grad_()
        hinge = jacobian_hinge(jacobian, 0.05)
        assert hinge.item() == pytest.approx((0.05 + 1.0) / 4)
        hinge.backward()
        assert jacobian.grad is not None
        assert jacobian.grad.flatten().tolist() == [0, 0, -0.25, -0.25]

    def test_errors(self) -> None:
        refuses(ValueError, r"\(N, 1, \*spatial\)", jacobian_hinge, torch.ones(1, 2, 4, 4))
        refuses(TypeError, "int64", jacobian_hinge, torch.ones(1, 1, 4, 4, dtype=torch.int64))


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
