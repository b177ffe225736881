"""The denoiser, its noise schedule and its samplers."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import denoiser

from plasticine.diffusion import Denoiser, NoiseSchedule, UNet
from plasticine.diffusion.unet import channels_to_space, space_to_channels

SMALL = {"channels": (8, 16), "blocks": 1}


def test_cosine_schedule_against_its_formula() -> None:
    schedule = NoiseSchedule("cosine", 1000)

    def level(k: int) -> float:
        return math.cos((k / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2

    for k in (1, 250, 500, 900):
        alpha_bar = schedule.signal[k].item() ** 2
        assert alpha_bar == pytest.approx(level(k) / level(0), rel=1e-9)
        assert schedule.spread[k].item() == pytest.approx(math.sqrt(1 - alpha_bar))
    assert schedule.signal[0] == 1
    assert schedule.signal[-1] > 0


def test_linear_schedule_against_its_formula() -> None:
    schedule = NoiseSchedule("linear", 1000)
    assert (1 - schedule.signal[1] ** 2).item() == pytest.approx(1e-4)
    ratio = schedule.signal[-1] / schedule.signal[-2]
    assert (1 - ratio**2).item() == pytest.approx(0.02)


def test_a_flow_is_a_straight_line_from_the_image_to_the_noise() -> None:
    image, noise = torch.randn(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    noisy = NoiseSchedule("flow", 100).add_noise(image, noise, torch.tensor([0, 30, 100]))
    assert torch.equal(noisy[0], image[0])
    torch.testing.assert_close(noisy[1], 0.7 * image[1] + 0.3 * noise[1])
    assert torch.equal(noisy[2], noise[2])


@pytest.mark.parametrize("kind", ["cosine", "linear", "flow"])
def test_schedules_only_lose_signal(kind: str) -> None:
    schedule = NoiseSchedule(kind, 50)
    assert len(schedule.signal) == len(schedule.spread) == 51
    assert (schedule.signal.diff() < 0).all()
    assert (schedule.spread.diff() > 0).all()


def test_wrong_schedules_are_refused() -> None:
    with pytest.raises(ValueError, match=r"cosine.*linear.*flow.*'sigmoid'"):
        NoiseSchedule("sigmoid")
    with pytest.raises(ValueError, match="at least one"):
        NoiseSchedule("cosine", 0)


@pytest.mark.parametrize("shape", [(2, 3, 12, 18), (1, 2, 6, 8, 10)])
def test_cells_fold_into_channels_and_back(shape: tuple[int, ...]) -> None:
    image = torch.arange(math.prod(shape)).view(shape)
    folded = space_to_channels(image, 2)
    ndim = len(shape) - 2
    assert folded.shape == (shape[0], shape[1] * 2**ndim, *(n // 2 for n in shape[2:]))
    cell = (0, 0, *([slice(0, 2)] * ndim))
    assert torch.equal(folded[(0, slice(0, 2**ndim), *([0] * ndim))], image[cell].flatten())
    assert torch.equal(channels_to_space(folded, 2), image)


@pytest.mark.parametrize("size", [(16, 16), (13, 22), (1, 7), (9, 6, 11)])
@pytest.mark.parametrize("patch_size", [1, 2])
def test_unet_keeps_any_size(size: tuple[int, ...], patch_size: int) -> None:
    torch.manual_seed(0)
    network = UNet(len(size), 3, 2, patch_size=patch_size, **SMALL)
    assert network(torch.randn(2, 3, *size), torch.tensor([1, 900])).shape == (2, 2, *size)


def test_unet_depends_on_image_and_step() -> None:
    torch.manual_seed(0)
    network = UNet(2, 1, 1, **SMALL)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    x, k = torch.randn(1, 1, 16, 16), torch.tensor([10])
    base = network(x, k)
    assert not torch.allclose(base, network(x, torch.tensor([500])))
    assert not torch.allclose(base, network(x + 1, k))


def test_unet_refuses_wrong_input() -> None:
    network = UNet(2, 3, 1, **SMALL)
    with pytest.raises(ValueError, match=r"\(N, 3, \*spatial\).*got \(1, 2, 8, 8\)"):
        network(torch.zeros(1, 2, 8, 8), torch.tensor([1]))
    with pytest.raises(ValueError, match="ndim=1"):
        UNet(1, 3)


@pytest.mark.parametrize("kind", ["cosine", "flow"])
def test_prediction_adds_up_to_the_noisy_image(kind: str) -> None:
    network = denoiser(kind)
    noisy, condition = torch.randn(3, 1, 12, 12), torch.rand(3, 2, 12, 12)
    k = torch.tensor([1, 50, 100])
    with torch.no_grad():
        clean, noise = network.predict(noisy, condition, k)
    torch.testing.assert_close(network.schedule.add_noise(clean, noise, k), noisy)


@pytest.mark.parametrize("kind", ["cosine", "flow"])
def test_loss_is_the_noise_error_over_the_signal_level(kind: str) -> None:
    network = denoiser(kind)
    image, condition, noise = (
        torch.randn(1, 1, 12, 12),
        torch.rand(1, 2, 12, 12),
        torch.randn(1, 1, 12, 12),
    )
    k = torch.tensor([37])
    with torch.no_grad():
        noisy = network.schedule.add_noise(image, noise, k)
        error = (network.predict_noise(noisy, condition, k) - noise).square().mean()
        loss = network.loss(image, condition, noise, k, torch.tensor([True]))
    torch.testing.assert_close(loss, (error / network.schedule.signal[37] ** 2).float())


def test_a_dropped_condition_is_not_seen() -> None:
    network = denoiser()
    image, noise, k = torch.randn(1, 1, 12, 12), torch.randn(1, 1, 12, 12), torch.tensor([40])
    conditions = torch.rand(2, 1, 2, 12, 12)
    losses = {
        keep: [network.loss(image, c, noise, k, torch.tensor([keep])).item() for c in conditions]
        for keep in (True, False)
    }
    assert losses[False][0] == losses[False][1]
    assert losses[True][0] != losses[True][1]


def test_a_flow_regresses_the_velocity() -> None:
    """With its last layer at zero the network says 0, so the loss is the mean of (ε − y)²."""
    network = Denoiser(2, 2, NoiseSchedule("flow", 100), **SMALL)
    image, noise = torch.randn(2, 1, 12, 12), torch.randn(2, 1, 12, 12)
    loss = network.loss(
        image, torch.rand(2, 2, 12, 12), noise, torch.tensor([3, 90]), torch.tensor([True, False])
    )
    torch.testing.assert_close(loss, (noise - image).square().mean())


@pytest.mark.parametrize("kind", ["cosine", "flow"])
def test_guidance_extrapolates_from_the_unconditional(kind: str) -> None:
    network = denoiser(kind)
    noisy, condition, k = torch.randn(1, 1, 8, 8), torch.rand(1, 2, 8, 8), torch.tensor([60])
    with torch.no_grad():
        with_condition = network.predict_noise(noisy, condition, k)
        without = network.predict_noise(noisy, None, k)
        guided = network.guided(noisy, condition, k, 3.0)[1]
        plain = network.guided(noisy, condition, k, 1)[1]
    torch.testing.assert_close(guided, without + 3 * (with_condition - without))
    assert torch.equal(plain, with_condition)
