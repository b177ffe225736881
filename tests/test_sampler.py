"""Samplers: their order on a target whose exact score is known, starts, guidance, bits."""

from __future__ import annotations

import math

import pytest
import torch
from small_models import denoiser
from torch import Tensor

from plasticine.diffusion import SOLVERS, Denoiser, NoiseSchedule, find_solver, sample
from plasticine.diffusion.sampler import LOWEST_LOG_SNR

SMALL = {"channels": (8, 16), "blocks": 1}
SCHEDULE = {name: solver.schedules[0] for name, solver in SOLVERS.items()}
DETERMINISTIC = [name for name in SOLVERS if name != "ddpm"]


class Mixture(Denoiser):
    """The exact denoiser of a target whose every voxel is a mixture of three normals."""

    def __init__(self, kind: str, steps: int = 1000) -> None:
        super().__init__(2, 1, NoiseSchedule(kind, steps), **SMALL)
        self.means = torch.tensor([-0.6, 0.1, 0.5], dtype=torch.float64)
        self.deviations = torch.tensor([0.1, 0.15, 0.1], dtype=torch.float64)
        self.weights = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)

    def at(self, k: int) -> tuple[Tensor, Tensor]:
        """Means and deviations of the mixture that y_k has."""
        signal, spread = self.schedule.signal[k], self.schedule.spread[k]
        return signal * self.means, ((signal * self.deviations) ** 2 + spread**2).sqrt()

    def guided(self, noisy, condition, k, guidance):  # type: ignore[no-untyped-def]
        means, deviations = self.at(int(k[0]))
        apart = (noisy[..., None] - means) / deviations
        share = (self.weights.log() - deviations.log() - apart**2 / 2).softmax(-1)
        gain = self.schedule.signal[k[0]] * self.deviations**2 / deviations
        clean = (share * (self.means + gain * apart)).sum(-1)
        return clean, torch.full_like(clean, torch.nan)  # the sampler works the noise out itself

    def share_below(self, value: Tensor, k: int) -> Tensor:
        """The distribution function of y_k."""
        means, deviations = self.at(k)
        apart = (value[..., None] - means) / (deviations * math.sqrt(2))
        return (self.weights * torch.erfc(-apart) / 2).sum(-1)

    def end(self, noisy: Tensor, start: int) -> Tensor:
        """Where the exact flow of probability ends: in one dimension it keeps every quantile."""
        share = self.share_below(noisy, start)
        low, high = torch.full_like(share, -3.0), torch.full_like(share, 3.0)
        for _ in range(60):
            middle = (low + high) / 2
            below = self.share_below(middle, 0) < share
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return low


def quantiles(count: int = 301) -> Tensor:
    """The standard normal distribution, (1, 1, 1, count) float64."""
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return (math.sqrt(2) * torch.erfinv(2 * share - 1)).view(1, 1, 1, -1)


def error(name: str, steps: int, kind: str, start: int = 1000) -> float:
    """Root mean square error against the exact end, from the exact distribution at the start."""
    denoiser, noise = Mixture(kind), quantiles()
    if start < 1000:  # noise scaled to the start's level stands for any image at that level
        noise = noise * denoiser.schedule.spread[start]
    found = sample(denoiser, noise, noise, solver=name, start=start, steps=steps)
    return (found - denoiser.end(noise, start)).square().mean().sqrt().item()


@pytest.mark.parametrize(
    ("name", "kind", "order"),
    [
        ("ddim", "linear", 1),
        ("ddim", "cosine", 1),
        ("dpm-solver++", "linear", 2),
        ("dpm-solver++", "cosine", 2),
        ("euler", "flow", 1),
        ("heun", "flow", 2),
    ],
)
def test_the_error_falls_with_the_order(name: str, kind: str, order: int) -> None:
    errors = [error(name, steps, kind) for steps in (20, 40, 80)]
    if name == "heun":  # its budget of network runs buys half as many steps
        errors = [error(name, steps, kind) for steps in (41, 81, 161)]
    found = math.log2(errors[0] / errors[2]) / 2
    assert found > order - 0.2, errors


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("steps", [10, 20])
def test_dpm_solver_beats_ddim(kind: str, steps: int) -> None:
    assert error("dpm-solver++", steps, kind) < 0.8 * error("ddim", steps, kind)


def test_ten_steps_of_dpm_solver_beat_twenty_of_ddim() -> None:
    assert error("dpm-solver++", 10, "linear") < error("ddim", 20, "linear")


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("start", [700, 333, 50])
def test_any_start_ends_right(name: str, start: int) -> None:
    assert error(name, 60, SCHEDULE[name], start) < 0.02


def test_ddpm_gives_the_target_distribution() -> None:
    denoiser = Mixture("cosine", 200)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 1, 64, 64, generator=generator, dtype=torch.float64)
    found = sample(
        denoiser, noise, noise, solver="ddpm", start=200, steps=200, generator=generator
    ).flatten()
    assert found.abs().max() <= 1
    # Kolmogorov and Smirnov's distance; 0.0254 is its 1 % point for 4096 values.
    rank = torch.arange(len(found)) / len(found)
    assert (denoiser.share_below(found.sort().values, 0) - rank).abs().max() < 0.0254


def test_uniform_steps() -> None:
    schedule = NoiseSchedule("cosine", 1000)
    for name in ("ddpm", "ddim"):
        assert SOLVERS[name].visited(schedule, 1000, 4) == [1000, 750, 500, 250, 0]
        assert SOLVERS[name].visited(schedule, 3, 10) == [3, 2, 1, 0]
        assert SOLVERS[name].network_runs(schedule, 3, 10) == 3


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("start", [1000, 600, 4, 1])
@pytest.mark.parametrize("steps", [1, 10, 250])
def test_log_snr_steps(kind: str, start: int, steps: int) -> None:
    schedule = NoiseSchedule(kind, 1000)
    solver = SOLVERS["dpm-solver++"]
    visited = solver.visited(schedule, start, steps)
    assert visited[0] == start
    assert visited[-1] == 0
    assert len(visited) - 1 == solver.network_runs(schedule, start, steps) <= min(start, steps)
    assert visited == sorted(set(visited), reverse=True)
    if steps == 10 and start >= 600:
        log_snr = (schedule.signal / schedule.spread).log()[visited[:-1]]
        log_snr[0] = log_snr[0].clamp_min(LOWEST_LOG_SNR)
        widths = log_snr.diff()
        assert len(widths) == 9
        # λ changes by as much as 0.7 from one step to the next at both ends of a schedule.
        assert (widths - widths.mean()).abs().max() < 0.5


def test_heun_runs_twice_a_step_but_for_the_last() -> None:
    schedule = NoiseSchedule("flow", 1000)
    for steps, runs in ((1, 1), (2, 1), (3, 3), (10, 9), (11, 11)):
        assert SOLVERS["heun"].network_runs(schedule, 1000, steps) == runs
    assert SOLVERS["heun"].visited(schedule, 1000, 10) == [1000, 800, 600, 400, 200, 0]


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r'ddpm, ddim, dpm-solver\+\+ .*"cosine"; got \'euler\''):
        find_solver("euler", NoiseSchedule("cosine", 10))
    with pytest.raises(ValueError, match=r'euler, heun .*"flow"; got \'ddim\''):
        find_solver("ddim", NoiseSchedule("flow", 10))
    schedule = NoiseSchedule("cosine", 10)
    for start, steps in ((10, 0), (0, 3), (11, 3)):
        with pytest.raises(ValueError, match=f"got steps={steps}, start={start}"):
            SOLVERS["ddim"].visited(schedule, start, steps)


@pytest.mark.parametrize("name", SOLVERS)
def test_seeds_give_the_same_bits(name: str) -> None:
    network = denoiser(SCHEDULE[name])
    noise, condition = torch.randn(2, 1, 12, 12), torch.rand(2, 2, 12, 12)
    runs = 0

    def count() -> None:
        nonlocal runs
        runs += 1

    def draw(seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return sample(
            network, noise, condition, solver=name, start=80, steps=5, generator=generator,
            progress=count,
        )  # fmt: skip

    first = draw(3)
    assert runs == SOLVERS[name].network_runs(network.schedule, 80, 5)
    assert first.dtype == torch.float32
    assert first.abs().max() <= 1
    assert torch.equal(first, draw(3))
    assert torch.equal(first, draw(4)) == (name != "ddpm")


@pytest.mark.parametrize("name", SOLVERS)
def test_guidance_reaches_every_solver(name: str) -> None:
    network = denoiser(SCHEDULE[name])
    noise, condition = torch.randn(1, 1, 12, 12), torch.rand(1, 2, 12, 12)

    def draw(guidance: float) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        return sample(
            network, noise, condition, solver=name, start=100, steps=4, guidance=guidance,
            generator=generator,
        )  # fmt: skip

    assert not torch.equal(draw(1.0), draw(3.0))
    without = sample(
        network, noise, torch.zeros_like(condition), solver=name, start=100, steps=4,
        guidance=0.0, generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    torch.testing.assert_close(draw(0.0), without)
