"""The registration network, its deformation and its objective."""

from __future__ import annotations

import math

import pytest
import torch
from refusal import refuses

import plasticine
from plasticine.nn.losses import soft_dice
from plasticine.registration import (
    Deformation,
    RegistrationObjective,
    VelocityNetwork,
    nearest_targets,
    structure_descriptor,
)
from plasticine.registration.network import refine_velocity

SIZES = [(32, 24), (21, 35), (9, 16, 11)]


def blobs(count: int, size: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Smooth random images (count, 1, *size) that fill [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 1, *[max(2, n // 6) for n in size], generator=generator)
    mode = {2: "bilinear", 3: "trilinear"}[len(size)]
    image = torch.nn.functional.interpolate(coarse, size, mode=mode, align_corners=True)
    low = image.amin(tuple(range(1, image.ndim)), keepdim=True)
    high = image.amax(tuple(range(1, image.ndim)), keepdim=True)
    return ((image - low) / (high - low) * 2 - 1).clamp(-1, 1)


def stirred(network: VelocityNetwork, amount: float = 0.3) -> VelocityNetwork:
    """The network with random weights in its heads, so that it deforms."""
    heads = [network.velocity_head, network.inverse_head]
    heads += [network.affine_head.last] if network.affine_head is not None else []
    with torch.no_grad():
        for head in heads:
            if head is not None:
                for parameter in head.parameters():
                    parameter.normal_(0, amount)
    return network


@pytest.mark.parametrize("cells", [(5, 6), (4, 5, 3)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_a_refined_velocity_is_exact_where_it_is_linear(
    cells: tuple[int, ...], factor: int
) -> None:
    ndim = len(cells)
    size = [factor * n - 1 for n in cells]
    torch.manual_seed(0)
    linear, constant = torch.randn(ndim, ndim).double(), torch.randn(ndim).double()

    def field(axes: list[torch.Tensor]) -> torch.Tensor:
        at = torch.stack(torch.meshgrid(*axes, indexing="ij"))
        return (torch.einsum("ij,j...->i...", linear, at) + constant.view(-1, *[1] * ndim))[None]

    centres = [factor * torch.arange(n).double() + (factor - 1) / 2 for n in cells]
    voxels = [torch.arange(n).double() for n in size]
    refined = refine_velocity(field(centres) / factor, factor, size)
    between = (..., *(slice(factor // 2, n + 1 - factor) for n in size))
    torch.testing.assert_close(refined[between], field(voxels)[between])
    still = torch.ones(1, ndim, *cells, dtype=torch.float64)
    assert torch.equal(
        refine_velocity(still, factor, size), still.new_full((1, ndim, *size), factor)
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class TestVelocityNetwork:
    @pytest.mark.parametrize("size", [*SIZES, (1, 7)])
    @pytest.mark.parametrize("half_resolution", [True, False])
    @pytest.mark.parametrize("inverse_from", ["negation", "head"])
    def test_untrained_is_the_identity_exactly(
        self, size: tuple[int, ...], half_resolution: bool, inverse_from: str
    ) -> None:
        network = VelocityNetwork(
            len(size),
            channels=(4, 6, 8),
            half_resolution=half_resolution,
            inverse_from=inverse_from,
        )
        x, y = blobs(2, size), blobs(2, size, seed=1)
        for deformation in (network(x), network(x, y), network(x, y, torch.randn_like(x))):
            assert deformation.velocity.shape == (2, len(size), *size)
            u, v = deformation.displacements()
            assert (u == 0).all()
            assert (v == 0).all()
            assert torch.equal(plasticine.warp(x, u), x)

    @pytest.mark.parametrize("size", SIZES)
    @pytest.mark.parametrize("affine", [True, False])
    def test_inverse_of_random_weights(self, size: tuple[int, ...], affine: bool) -> None:
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(len(size), channels=(4, 6, 8), affine=affine))
        deformation = network(blobs(2, size), blobs(2, size, seed=1))
        assert (deformation.affine is None) == (not affine)
        u, v = deformation.displacements()
        assert u.abs().max() > 0.05
        inside = deformation.valid()
        residual = plasticine.compose(v, u).norm(dim=1, keepdim=True)[inside]
        assert residual.median() < 0.02 * u.norm(dim=1).max()

    def test_stems_and_heads(self) -> None:
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(2, channels=(4, 6, 8), inverse_from="head"))
        x, y, z = blobs(1, (16, 16)), blobs(1, (16, 16), seed=1), blobs(1, (16, 16), seed=2)
        pair, single = network(x, y), network(x)
        assert [h.shape for h in pair.features] == [h.shape for h in single.features]
        assert not torch.equal(pair.velocity, single.velocity)
        assert not torch.equal(pair.velocity, network(x, z).velocity)
        assert torch.equal(pair.velocity, network(x, y, torch.zeros_like(x)).velocity)
        assert not torch.equal(pair.velocity, network(x, y, z).velocity)
        assert not torch.equal(pair.velocity, pair.inverse_velocity)
        assert network(x, inverse=False).inverse_velocity is None
        assert torch.equal(network(x, inverse=False).velocity, single.velocity)

    def test_half_resolution_velocity_is_linear_between_voxels(self) -> None:
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(2, channels=(4, 6, 8)))
        velocity = network(blobs(1, (18, 13))).velocity
        assert torch.allclose(
            velocity[:, :, 1:-1:2], (velocity[:, :, 0:-2:2] + velocity[:, :, 2::2]) / 2, atol=1e-7
        )
        assert velocity.is_contiguous()

    @pytest.mark.parametrize("size", [(10, 7), (6, 5, 7)])
    def test_pooling_is_the_network_on_the_pooled_images(self, size: tuple[int, ...]) -> None:
        ndim = len(size)
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(ndim, channels=(4, 6), inverse_from="head"))
        pooled = VelocityNetwork(ndim, channels=(4, 6), inverse_from="head", pooling=2)
        pooled.load_state_dict(network.state_dict())
        coarse = blobs(2, size)
        fine = torch.kron(coarse, torch.ones([2] * ndim))
        expected, got = network(coarse), pooled(fine)
        doubled = tuple(2 * n for n in size)
        for name in ("velocity", "inverse_velocity"):
            assert getattr(got, name).shape == (*fine.shape[:1], ndim, *doubled)
            refined = refine_velocity(getattr(expected, name), 2, doubled)
            torch.testing.assert_close(getattr(got, name), refined, atol=1e-5, rtol=0)
        # The affine map is one of the full grid: the same rotation, twice the translation.
        assert got.affine is not None
        torch.testing.assert_close(got.affine[..., :-1], expected.affine[..., :-1])
        torch.testing.assert_close(got.log_affine[..., -1], 2 * expected.log_affine[..., -1])

    @pytest.mark.parametrize("pooling", [2, 3])
    def test_pooled_displacement_is_in_voxels_of_the_full_grid(self, pooling: int) -> None:
        network = VelocityNetwork(3, channels=(2, 2), affine=False, pooling=pooling)
        with torch.no_grad():
            network.velocity_head.bias.copy_(torch.tensor([1.0, 0.0, -0.5]))
        u = network(blobs(1, (9, 8, 11))).displacement()
        expected = pooling * network.velocity_head.bias.view(1, 3, 1, 1, 1).expand(1, 3, 9, 8, 11)
        torch.testing.assert_close(u, expected)

    def test_a_pooled_network_trains(self) -> None:
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(3, channels=(4, 6), pooling=2), amount=0.05)
        x, y = blobs(1, (9, 12, 10)), blobs(1, (9, 12, 10), seed=1)
        loss, _ = RegistrationObjective()(network, x, y)
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.any(), name

    def test_padding_does_not_reach_far(self) -> None:
        """A size that needs no padding and one that does agree away from the new edge."""
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(2, channels=(4, 6), affine=False))
        x = blobs(1, (64, 33))
        whole, cut = network(x).velocity, network(x[:, :, :59]).velocity
        assert torch.allclose(whole[:, :, :40], cut[:, :, :40], atol=1e-6)

    def test_float64_and_velocity_scale(self) -> None:
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(2, channels=(4, 6), velocity_scale=1.0)).double()
        x = blobs(1, (12, 12)).double()
        one = network(x).velocity
        assert one.dtype == torch.float64
        network.velocity_scale = 3.0
        assert torch.allclose(network(x).velocity, 3 * one)

    def test_autocast_keeps_coordinates_in_float32(self) -> None:
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(2, channels=(4, 6, 8)), amount=1.0)
        x = blobs(1, (40, 40))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            deformation = network(x)
            fields = deformation.displacements()
        assert {t.dtype for t in (deformation.velocity, deformation.affine, *fields)} == {
            torch.float32
        }
        again = deformation.displacements()
        assert fields[0].abs().max() > 1
        for inside, outside in zip(fields, again, strict=True):
            assert torch.equal(inside, outside)
        # The features are rounded, the maps are not: 8 bits would not hold this affine.
        affine = deformation.affine
        assert not torch.equal(affine, affine.bfloat16().float())
        back = torch.linalg.inv(affine[:, :, :2])
        assert torch.allclose(back, deformation.inverse_affine[:, :, :2], atol=1e-5)

    def test_errors(self) -> None:
        network = VelocityNetwork(2, channels=(4, 6))
        x = blobs(1, (16, 16))
        refuses(ValueError, "noise without fixed", network, x, noise=x)
        refuses(ValueError, "2 spatial axes", network, blobs(1, (8, 8, 8)))
        refuses(ValueError, "spatial axes; got", network, x.repeat(1, 2, 1, 1))
        refuses(ValueError, "fixed must have the moving image's shape", network, x, x[..., 1:])
        refuses(TypeError, "floating point", network, (x * 255).to(torch.uint8))
        refuses(ValueError, "ndim=4", VelocityNetwork, 4)
        refuses(ValueError, "two or more", VelocityNetwork, 2, channels=(8,))
        refuses(ValueError, "pooling must be at least 1; got 0", VelocityNetwork, 2, pooling=0)
        refuses(ValueError, "inverse_from", VelocityNetwork, 2, inverse_from="minus")


class TestMatching:
    def test_nearest_targets_against_brute_force(self) -> None:
        source = torch.randn(7, 5, generator=_generator(0))
        target = torch.randn(11, 5, generator=_generator(1))
        found = nearest_targets(source, target, 4)
        distance = (source[:, None] - target[None]).norm(dim=2)
        assert torch.equal(found, distance.argsort(1)[:, :4])
        allowed = torch.ones(7, 11, dtype=torch.bool)
        allowed[torch.arange(7), found[:, 0]] = False
        assert torch.equal(nearest_targets(source, target, 3, allowed=allowed), found[:, 1:])
        ties = nearest_targets(source, target[:1].repeat(4, 1), 4)
        assert ties.tolist() == [[0, 1, 2, 3]] * 7

    def test_errors(self) -> None:
        descriptors = torch.zeros(3, 5)
        with pytest.raises(ValueError, match="3 targets to choose from; got count=4"):
            nearest_targets(descriptors, descriptors, 4)
        with pytest.raises(ValueError, match="2 targets"):
            nearest_targets(descriptors, descriptors, 3, allowed=~torch.eye(3, dtype=torch.bool))
        refuses(ValueError, "same features", nearest_targets, descriptors, torch.zeros(3, 4), 1)
        with pytest.raises(ValueError, match="allowed must be bool"):
            nearest_targets(descriptors, descriptors, 1, allowed=torch.ones(3, 3))
        refuses(ValueError, "2 or 3 axes", structure_descriptor, torch.zeros(1, 1, 8), torch.abs)

    @pytest.mark.parametrize("size", SIZES)
    def test_descriptor_is_the_structure_averaged_over_cells(self, size: tuple[int, ...]) -> None:
        x = blobs(5, size)
        described = structure_descriptor(x, torch.abs, cells=1, batch=2)
        assert torch.allclose(described, x.abs().flatten(1).mean(1, keepdim=True))
        described = structure_descriptor(x, lambda image: torch.cat([image, -image], 1), cells=3)
        assert described.shape == (5, 2 * 3 ** len(size))

    def test_finds_the_same_slice_in_other_contrast(self) -> None:
        x = blobs(6, (32, 32))

        def gradient(image: torch.Tensor) -> torch.Tensor:
            return sum(g.abs() for g in torch.gradient(image, dim=(2, 3)))

        order = torch.tensor([3, 1, 5, 0, 2, 4])
        target = -x[order][..., :31]
        found = nearest_targets(
            structure_descriptor(x, gradient), structure_descriptor(target, gradient), 1
        )
        assert torch.equal(order[found[:, 0]], torch.arange(6))


class TestObjective:
    def test_of_an_untrained_network(self) -> None:
        x, y = blobs(2, (24, 20)), blobs(2, (24, 20), seed=1)
        network = VelocityNetwork(2, channels=(4, 6, 8))
        sx, sy = x.abs(), y.abs()
        loss, terms = RegistrationObjective(jitter=0.0)(network, x, y, None, sx, sy)
        information = plasticine.mutual_information(x, y, value_range=(-1, 1)).mean().item()
        for stem in ("pair", "single"):
            assert terms[f"{stem}.mutual_information"].item() == pytest.approx(information)
            assert terms[f"{stem}.inverse_mutual_information"].item() == pytest.approx(information)
            assert terms[f"{stem}.structure"].item() == pytest.approx(1 - soft_dice(sx, sy).item())
            for term in ("smoothness", "inverse_consistency", "jacobian", "affine"):
                assert terms[f"{stem}.{term}"].item() == 0
        assert not any(term.requires_grad for term in terms.values())
        expected = -2 * information + 0.5 * terms["pair.structure"] + 0.1 * terms["alignment"]
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)

    @pytest.mark.parametrize("inverse_from", ["negation", "head"])
    def test_weighs_its_terms(self, inverse_from: str) -> None:
        torch.manual_seed(0)
        network = stirred(
            VelocityNetwork(2, channels=(4, 6, 8), inverse_from=inverse_from), amount=0.5
        )
        x, y = blobs(2, (24, 20)), blobs(2, (24, 20), seed=1)
        weights = {
            "smoothness": 2.0, "alignment": 3.0, "inverse_consistency": 5.0, "structure": 7.0,
            "jacobian": 11.0, "affine": 13.0,
        }  # fmt: skip
        objective = RegistrationObjective(**weights, jacobian_threshold=1.0)
        loss, terms = objective(network, x, y, torch.randn_like(x), x.abs(), y.abs())
        assert all(value.item() > 0 for value in terms.values())
        expected = 3.0 * terms["alignment"].double()
        for stem in ("pair", "single"):
            charge = -terms[f"{stem}.mutual_information"].double()
            charge -= terms[f"{stem}.inverse_mutual_information"].double()
            for name, weight in weights.items():
                if name != "alignment":
                    charge += weight * terms[f"{stem}.{name}"].double()
            expected += charge / 2
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        deformation = network(x)
        rough = plasticine.smoothness(deformation.velocity).mean()
        other = (
            rough
            if inverse_from == "negation"
            else plasticine.smoothness(deformation.inverse_velocity).mean()
        )
        assert terms["single.smoothness"].item() == pytest.approx((rough + other).item(), rel=1e-4)

    @pytest.mark.parametrize("size", [(16, 19), (8, 9, 7)])
    @pytest.mark.parametrize("inverse_from", ["negation", "head"])
    def test_reaches_every_parameter(self, size: tuple[int, ...], inverse_from: str) -> None:
        torch.manual_seed(0)
        network = stirred(VelocityNetwork(len(size), channels=(4, 6, 8), inverse_from=inverse_from))
        x, y = blobs(1, size), blobs(1, size, seed=1)
        loss, _ = RegistrationObjective()(network, x, y, torch.randn_like(x), x.abs(), y.abs())
        loss.backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert (parameter.grad != 0).any(), name

    def test_alignment_does_not_move_the_pair_stem(self) -> None:
        torch.manual_seed(0)
        network = VelocityNetwork(2, channels=(4, 6, 8))
        x, y = blobs(1, (16, 16)), blobs(1, (16, 16), seed=1)
        # The heads are zero, so that of the loss only the alignment reaches the stems.
        loss, _ = RegistrationObjective()(network, x, y)
        loss.backward()
        assert all(
            (p.grad == 0).all() for p in network.pair_stem.parameters() if p.grad is not None
        )
        assert any((p.grad != 0).any() for p in network.single_stem.parameters())

    def test_jitter_takes_away_the_reward_of_blur(self) -> None:
        """Half a voxel's shift of a noisy image denoises it, which is not to be aligned."""
        generator = _generator(0)
        y = blobs(4, (64, 64))
        x = 0.6 * y + 0.4 * (2 * torch.rand(y.shape, generator=generator) - 1)
        at_rest = Deformation(torch.zeros(4, 2, 64, 64))
        shifted = Deformation(torch.full((4, 2, 64, 64), 0.5))

        def gain(jitter: float) -> float:
            objective = RegistrationObjective(jitter=jitter)
            rest, moved = 0.0, 0.0
            for _ in range(20):
                offset = objective.offset(x, torch.rand(4, 2, generator=generator))
                for_rest = objective.deformation_terms(at_rest, x, y, offset=offset)
                for_moved = objective.deformation_terms(shifted, x, y, offset=offset)
                rest += for_rest["mutual_information"].item() / 20
                moved += for_moved["mutual_information"].item() / 20
            return moved - rest

        reward = gain(0.0)
        assert reward > 0.02
        assert abs(gain(0.5)) < 0.2 * reward

    def test_jitter_is_where_it_is_asked_for(self) -> None:
        network = stirred(VelocityNetwork(2, channels=(4, 6)))
        x, y = blobs(2, (20, 20)), blobs(2, (20, 20), seed=1)
        objective = RegistrationObjective()
        first, second, other = (
            objective(network, x, y, shift=torch.rand(2, 2, generator=_generator(seed)))[0]
            for seed in (0, 0, 1)
        )
        assert torch.equal(first, second)
        assert not torch.equal(first, other)
        offset = objective.offset(x)
        assert offset.shape == (2, 2, 20, 20)
        assert 0 < offset.abs().max() <= 0.5
        assert torch.equal(offset, offset[..., :1, :1].expand_as(offset))

    def test_structure_is_optional_but_comes_in_pairs(self) -> None:
        network, x = VelocityNetwork(2, channels=(4, 6)), blobs(1, (16, 16))
        _, terms = RegistrationObjective()(network, x, x)
        assert "pair.structure" not in terms
        refuses(ValueError, "both be given", RegistrationObjective(), network, x, x, None, x)
        refuses(ValueError, "smoothness must be at least 0", RegistrationObjective, smoothness=-1.0)

    def test_learns_a_deformation(self) -> None:
        """Overfits a few pairs in inverted contrast: the loss falls and the truth appears."""
        torch.manual_seed(0)
        x = blobs(3, (40, 40))
        window = torch.linspace(0, math.pi, 40).sin().square()
        direction = torch.tensor([2.5, -1.75]).view(1, 2, 1, 1)
        truth = plasticine.exponential(direction * window[:, None] * window)
        y = -plasticine.warp(x, truth)
        network = VelocityNetwork(2, channels=(8, 16, 16))
        objective = RegistrationObjective(smoothness=0.1)
        optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
        losses = []
        for _ in range(80):
            loss, _ = objective(network, x, y, None, x.abs(), y.abs())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        with torch.no_grad():
            for deformation in (network(x, y), network(x)):
                u = deformation.displacement()
                error = (u - truth).norm(dim=1).mean()
                assert error < 0.6 * truth.norm(dim=1).mean()
                assert plasticine.folding(u).folds.sum() == 0
        assert losses[-1] < losses[0] - 0.2

    def test_repeats_bitwise(self) -> None:
        def train() -> list[torch.Tensor]:
            torch.manual_seed(3)
            network = VelocityNetwork(2, channels=(4, 8, 8))
            optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
            for step in range(4):
                x, y = blobs(2, (24, 24), seed=step), blobs(2, (24, 24), seed=step + 9)
                loss, _ = RegistrationObjective()(
                    network, x, y, torch.randn_like(y), x.abs(), y.abs()
                )
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            return [loss.detach(), *(p.detach().clone() for p in network.parameters())]

        for first, second in zip(train(), train(), strict=True):
            assert torch.equal(first, second)
