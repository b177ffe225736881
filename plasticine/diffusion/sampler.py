"""Samplers: from noise to an image, step by step, by a solver chosen by its name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticine.diffusion.denoiser import Denoiser
from plasticine.diffusion.schedule import NoiseSchedule
from plasticine.diffusion.slabs import SlabDenoiser
from plasticine.nn.precision import autocast

Predict = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(y_k, k) to the clean image and the noise that y_k is made of: one run of the network."""

Revise = Callable[[int, Tensor, Tensor], Tensor]
"""(network runs done, clean image, noise) to the condition of the runs that follow."""

Draw = Callable[[], Tensor]
"""Fresh standard normal noise of the image's shape."""

LOWEST_LOG_SNR = -5.1
"""Where a log-SNR grid begins at the latest.

The linear schedule ends there. The cosine schedule goes on to -9.9, and a uniform grid down to
there would spend a third of its steps where the noise hides all of the image.
"""


@dataclass(frozen=True)
class Solver:
    """A way from a noisy image to a clean one.

    Attributes:
        schedules: the kinds of noise schedule that it solves.
        grid: (schedule, start, intervals) to the diffusion steps visited, from start to 0.
        solve: (predict, schedule, y_start, visited, draw) to the clean image.
        runs: network runs of an interval; the last interval, which ends at 0, takes one.
    """

    schedules: tuple[str, ...]
    grid: Callable[[NoiseSchedule, int, int], list[int]]
    solve: Callable[[Predict, NoiseSchedule, Tensor, list[int], Draw], Tensor]
    runs: int = 1

    def visited(self, schedule: NoiseSchedule, start: int, steps: int) -> list[int]:
        """The diffusion steps visited, from ``start`` to 0, with at most ``steps`` network runs.

        Raises:
            ValueError: steps is less than 1, or start is not one of 1 … T.
        """
        if steps < 1 or not 1 <= start <= schedule.steps:
            raise ValueError(
                f"steps must be at least 1 and start within 1 … {schedule.steps}; "
                f"got steps={steps}, start={start}"
            )
        intervals = (steps - 1) // self.runs + 1
        return self.grid(schedule, start, min(start, intervals))

    def network_runs(self, schedule: NoiseSchedule, start: int, steps: int) -> int:
        """How often the network runs; arguments as ``visited``'s."""
        return self.runs * (len(self.visited(schedule, start, steps)) - 2) + 1


def find_solver(name: str, schedule: NoiseSchedule) -> Solver:
    """The solver of that name.

    Raises:
        ValueError: there is none, or it does not solve such a schedule.
    """
    suited = [key for key, solver in SOLVERS.items() if schedule.kind in solver.schedules]
    if name not in suited:
        raise ValueError(
            f'solver must be one of {", ".join(suited)} for the noise schedule "{schedule.kind}"; '
            f"got {name!r}"
        )
    return SOLVERS[name]


@torch.no_grad()
def sample(
    denoiser: Denoiser | SlabDenoiser,
    noisy: Tensor,
    condition: Tensor,
    *,
    solver: str = "ddim",
    start: int,
    steps: int,
    guidance: float = 1.0,
    precision: str = "float32",
    generator: torch.Generator | None = None,
    revise: Revise | None = None,
    progress: Callable[[], None] | None = None,
) -> Tensor:
    """Denoise an image.

    The clean image is held within [-1, 1] at every step, and the noise that goes with it is
    worked out anew, so that the two always add up to the image at hand.

    Args:
        denoiser: the noise predictor, on the whole image or in slabs.
        noisy: (N, 1, *spatial), the image at diffusion step ``start``.
        condition: (N, channels, *spatial), its structure map.
        solver: of a diffusion (schedule "cosine" or "linear"):

            - "ddpm": ancestral sampling (Ho et al., 2020), which adds noise at every step;
            - "ddim": its deterministic limit (Song et al., 2021, η = 0), of first order;
            - "dpm-solver++": 2M, second order (Lu et al., "DPM-Solver++", 2022).

            Of a rectified flow (schedule "flow"): "euler", or "heun" of second order, which
            runs the network twice a step.
        start: the diffusion step to begin from; T for pure noise.
        steps: network runs, at most. There are fewer where the schedule has no more steps to
            visit, and with "heun" where ``steps`` is even.
        guidance: strength of classifier-free guidance; 1 is none.
        precision: of the network's runs by autocast, one of ``nn.precision.PRECISIONS``; the
            solver's arithmetic is float32.
        generator: of the CPU, for the noise of "ddpm", which is one for all images of a batch;
            None is torch's own. The other solvers draw nothing.
        revise: called after every network run but the last, with how many there were and the
            clean image and the noise just predicted; gives the condition of the runs to come.
        progress: called after every network run.

    Returns:
        (N, 1, *spatial) float32 within [-1, 1].

    Raises:
        ValueError: no such solver for the denoiser's schedule, no such precision, or start or
            steps is out of range.
    """
    schedule = denoiser.schedule
    chosen = find_solver(solver, schedule)
    runs, done = chosen.network_runs(schedule, start, steps), 0

    def predict(noisy: Tensor, here: int) -> tuple[Tensor, Tensor]:
        nonlocal condition, done
        k = torch.full((len(noisy),), here, device=noisy.device)
        with autocast(noisy.device, precision):
            clean = denoiser.guided(noisy, condition, k, guidance)[0].clamp(-1, 1)
        signal, spread = schedule.levels(k, noisy.ndim - 2)
        noise = (noisy - signal * clean) / spread
        done += 1
        if progress is not None:
            progress()
        if revise is not None and done < runs:
            condition = revise(done, clean, noise)
        return clean, noise

    def draw() -> Tensor:
        return shared_noise(noisy, generator)

    visited = chosen.visited(schedule, start, steps)
    return chosen.solve(predict, schedule, noisy, visited, draw)


def shared_noise(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Standard normal noise of one image, the same for all of a batch.

    Args:
        like: (N, 1, *spatial).
        generator: of the CPU, whatever the device of ``like``; None is torch's own.
    """
    noise = torch.randn(
        1, 1, *like.shape[2:], generator=generator, dtype=torch.float32, device="cpu"
    )
    return noise.to(like.device).expand_as(like)


def uniform_grid(schedule: NoiseSchedule, start: int, intervals: int) -> list[int]:
    """Diffusion steps evenly spaced from ``start`` to 0."""
    return [round(start * (intervals - index) / intervals) for index in range(intervals + 1)]


def log_snr_grid(schedule: NoiseSchedule, start: int, intervals: int) -> list[int]:
    """Diffusion steps evenly spaced in λ = log(a / s) from ``start`` to 1, and then 0.

    Steps noisier than ``LOWEST_LOG_SNR`` are passed over but for ``start`` itself. There are
    fewer intervals than asked for where two of the grid's values are nearest to one step.
    """
    log_snr = _log_snr(schedule)[1 : start + 1]
    lowest = log_snr[-1].clamp_min(LOWEST_LOG_SNR)
    wanted = lowest + (log_snr[0] - lowest) * torch.linspace(
        0, 1, intervals, dtype=torch.float64, device="cpu"
    )
    nearest = 1 + (log_snr[:, None] - wanted).abs().argmin(0)
    return sorted({start, *nearest[1:].tolist(), 0}, reverse=True)


def _log_snr(schedule: NoiseSchedule) -> Tensor:
    """λ_k = log(a_k / s_k) for k = 0 … T, float64 on the CPU; λ_0 is infinite."""
    return (schedule.signal.log() - schedule.spread.log()).cpu()


def _ddim(
    predict: Predict, schedule: NoiseSchedule, noisy: Tensor, visited: list[int], draw: Draw
) -> Tensor:
    """The predicted image with the predicted noise, at the next level.

    On a flow this is Euler's step: with z = (1−t)·y + t·ε, (1−t')·y + t'·ε is z + (t'−t)·(ε−y).
    """
    signal, spread = schedule.signal.tolist(), schedule.spread.tolist()
    for here, there in itertools.pairwise(visited):
        clean, noise = predict(noisy, here)
        noisy = signal[there] * clean + spread[there] * noise
    return noisy


def _ddpm(
    predict: Predict, schedule: NoiseSchedule, noisy: Tensor, visited: list[int], draw: Draw
) -> Tensor:
    """A draw of the posterior q(y_there | y_here, y) with the predicted image for y."""
    signal, spread = schedule.signal.tolist(), schedule.spread.tolist()
    for here, there in itertools.pairwise(visited):
        clean, noise = predict(noisy, here)
        # The posterior's variance is drawn anew; the rest of the level's noise is kept.
        new = spread[there] / spread[here] * math.sqrt(1 - (signal[here] / signal[there]) ** 2)
        kept = math.sqrt(spread[there] ** 2 - new**2)
        noisy = signal[there] * clean + kept * noise
        if there > 0:
            noisy = noisy + new * draw()
    return noisy


def _dpm_solver(
    predict: Predict, schedule: NoiseSchedule, noisy: Tensor, visited: list[int], draw: Draw
) -> Tensor:
    """Algorithm 2 of the paper: the predicted image, extrapolated linearly in λ, held for a step.

    The first step has nothing to extrapolate from, and the last, to the clean image, has no end
    in λ: both are of first order.
    """
    signal, spread = schedule.signal.tolist(), schedule.spread.tolist()
    log_snr = _log_snr(schedule).tolist()
    before: Tensor | None = None
    width_before = 0.0
    for here, there in itertools.pairwise(visited):
        clean = predict(noisy, here)[0]
        if there == 0:
            return clean
        width = log_snr[there] - log_snr[here]
        held = clean
        if before is not None:
            held = clean + width / (2 * width_before) * (clean - before)
        noisy = spread[there] / spread[here] * noisy - signal[there] * math.expm1(-width) * held
        before, width_before = clean, width
    return noisy


def _heun(
    predict: Predict, schedule: NoiseSchedule, noisy: Tensor, visited: list[int], draw: Draw
) -> Tensor:
    """The mean of the velocity ε − y at both ends of a step; the last step is Euler's.

    At t = 0 the noise, and so the velocity, is no longer to be seen in the image.
    """
    time = schedule.spread.tolist()
    for here, there in itertools.pairwise(visited):
        clean, noise = predict(noisy, here)
        if there == 0:
            return clean
        width, velocity = time[there] - time[here], noise - clean
        clean, noise = predict(noisy + width * velocity, there)
        noisy = noisy + width / 2 * (velocity + noise - clean)
    return noisy


_DIFFUSION, _FLOW = ("cosine", "linear"), ("flow",)

SOLVERS: dict[str, Solver] = {
    "ddpm": Solver(_DIFFUSION, uniform_grid, _ddpm),
    "ddim": Solver(_DIFFUSION, uniform_grid, _ddim),
    "dpm-solver++": Solver(_DIFFUSION, log_snr_grid, _dpm_solver),
    "euler": Solver(_FLOW, uniform_grid, _ddim),
    "heun": Solver(_FLOW, uniform_grid, _heun, runs=2),
}
"""Every solver by its name."""
