"""Our samplers against diffusers' schedulers: the same levels, steps, predictions and noise."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from plasticine.diffusion import SOLVERS, NoiseSchedule

diffusers = pytest.importorskip("diffusers", reason='diffusers is absent: pip install ".[bench]"')

STEPS = 1000
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def predicted_image(noisy: Tensor, k: int) -> Tensor:
    """A smooth stand-in for a network, within [-1, 1]; it depends on the image and the step."""
    return 0.9 * torch.tanh(1.3 * noisy.roll(1, 2) - 0.4 * noisy + k / STEPS)


def ours(
    schedule: NoiseSchedule, name: str, noisy: Tensor, visited: list[int], seed: int = 0
) -> Tensor:
    generator = torch.Generator().manual_seed(seed)

    def predict(noisy: Tensor, k: int) -> tuple[Tensor, Tensor]:
        clean = predicted_image(noisy, k)
        return clean, (noisy - schedule.signal[k].float() * clean) / schedule.spread[k].float()

    def draw() -> Tensor:
        return torch.randn(noisy.shape, generator=generator)

    return SOLVERS[name].solve(predict, schedule, noisy, visited, draw)


def theirs(scheduler: Any, noisy: Tensor, seed: int = 0, **options: Any) -> Tensor:
    """A scheduler's loop; its timestep t is our k - 1."""
    for t in scheduler.timesteps:
        image = predicted_image(noisy, int(t) + 1)
        noisy = scheduler.step(image, t, noisy, **options).prev_sample
    return noisy


def betas(schedule: NoiseSchedule) -> Any:
    level = schedule.signal.square()
    return (1 - level[1:] / level[:-1]).numpy()


@pytest.fixture
def noise() -> Tensor:
    return torch.randn(1, 1, 12, 15, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [10, 40])
def test_ddim(noise: Tensor, kind: str, steps: int) -> None:
    schedule = NoiseSchedule(kind, STEPS)
    scheduler = diffusers.DDIMScheduler(
        trained_betas=betas(schedule),
        prediction_type="sample",
        timestep_spacing="trailing",
        clip_sample=False,
    )
    scheduler.set_timesteps(steps)
    visited = SOLVERS["ddim"].visited(schedule, STEPS, steps)
    assert [k - 1 for k in visited[:-1]] == scheduler.timesteps.tolist()
    expected = theirs(scheduler, noise)
    torch.testing.assert_close(ours(schedule, "ddim", noise, visited), expected, **CLOSE)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [10, STEPS])
def test_ddpm_with_the_same_generator(noise: Tensor, kind: str, steps: int) -> None:
    schedule = NoiseSchedule(kind, STEPS)
    scheduler = diffusers.DDPMScheduler(
        trained_betas=betas(schedule), prediction_type="sample", clip_sample=False
    )
    visited = SOLVERS["ddpm"].visited(schedule, STEPS, steps)
    scheduler.set_timesteps(timesteps=[k - 1 for k in visited[:-1]])
    expected = theirs(scheduler, noise, generator=torch.Generator().manual_seed(7))
    torch.testing.assert_close(
        ours(schedule, "ddpm", noise, visited, seed=7), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("start", [STEPS, 400])
@pytest.mark.parametrize("steps", [10, 25])
def test_dpm_solver(noise: Tensor, kind: str, start: int, steps: int) -> None:
    """At our steps, since theirs on a log-SNR grid lie between the network's own."""
    schedule = NoiseSchedule(kind, STEPS)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas(schedule),
        prediction_type="sample",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    # Theirs keeps ᾱ in float32, where 1 - ᾱ has lost four digits at the last steps.
    scheduler.alphas_cumprod = schedule.signal[1:].square()
    visited = SOLVERS["dpm-solver++"].visited(schedule, start, steps)
    scheduler.set_timesteps(timesteps=[k - 1 for k in visited[:-1]])
    expected = theirs(scheduler, noise)
    torch.testing.assert_close(ours(schedule, "dpm-solver++", noise, visited), expected, **CLOSE)


@pytest.mark.parametrize("steps", [4, 10])
def test_the_log_snr_grid_is_lus(steps: int) -> None:
    """Theirs is rounded to the nearest of the network's steps, as ours, but from σ of float32."""
    schedule = NoiseSchedule("linear", STEPS)
    scheduler = diffusers.DPMSolverMultistepScheduler(
        trained_betas=betas(schedule), use_lu_lambdas=True, final_sigmas_type="zero"
    )
    scheduler.set_timesteps(steps)
    visited = SOLVERS["dpm-solver++"].visited(schedule, STEPS, steps)
    theirs = scheduler.timesteps + 1
    assert len(visited) == len(theirs) + 1
    assert (torch.tensor(visited[:-1]) - theirs).abs().max() <= 1


def flow_prediction(noisy: Tensor, k: float) -> Tensor:
    """The velocity ε − y of the predicted image."""
    return (noisy - predicted_image(noisy, round(k))) / (k / STEPS)


def test_euler_on_a_flow(noise: Tensor) -> None:
    schedule = NoiseSchedule("flow", STEPS)
    visited = SOLVERS["euler"].visited(schedule, STEPS, 10)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=STEPS)
    scheduler.set_timesteps(sigmas=[k / STEPS for k in visited[:-1]])
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(flow_prediction(expected, float(t)), t, expected).prev_sample
    torch.testing.assert_close(ours(schedule, "euler", noise, visited), expected, **CLOSE)


def test_heun_on_a_flow(noise: Tensor) -> None:
    schedule = NoiseSchedule("flow", STEPS)
    scheduler = diffusers.FlowMatchHeunDiscreteScheduler(num_train_timesteps=STEPS)
    scheduler.set_timesteps(4)  # 1000, 667, 334 and 1, each but the first and last twice
    expected = noise
    for t in scheduler.timesteps:
        expected = scheduler.step(flow_prediction(expected, float(t)), t, expected).prev_sample
    visited = [1000, 667, 334, 1, 0]
    torch.testing.assert_close(ours(schedule, "heun", noise, visited), expected, **CLOSE)
