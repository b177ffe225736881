"""Sampling: the arguments of a translation's samples, and the drawing of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plasticine.diffusion.denoiser import Denoiser
from plasticine.diffusion.sampler import find_solver, sample, shared_noise
from plasticine.diffusion.slabs import SlabDenoiser
from plasticine.nn.precision import PRECISIONS
from plasticine.nn.seed import TRANSLATION_BITS, seed_of
from plasticine.translation.model import TranslationModel
from plasticine.translation.warped_source import WarpedSource


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How a translation is sampled: ``Sampling.of(translator.model, steps=20, samples=8)``.

    Attributes:
        solver: as ``diffusion.sample`` names them: "ddpm", "ddim" or "dpm-solver++" of a
            diffusion, "euler" or "heun" of a rectified flow.
        steps: network runs of a sample, at most.
        samples: samples whose mean is the translated image, an even number best: their noises
            are pairs of opposite sign.
        guidance: strength of classifier-free guidance; 1 is none.
        start: K as a fraction of the schedule; 1 starts from noise, less keeps some of x∘φ.
        refine: times that φ is refined, after each of the first sample's first network runs, by
            registering x∘φ to the clean image predicted there.
        seed: of the noise, 0 … 2^48 - 1; the same seed gives the same bits on the same machine.
        slab: voxels of the slabs that take turns in memory, as ``diffusion.SlabDenoiser`` cuts
            the longest axis into; 0 denoises the whole at once.
        overlap: voxels that neighbouring slabs share, at least.
        background: intensity of [0, 1] up to which x∘φ counts as empty: ŷ is 0 in the emptiness
            around the body, so that nothing is drawn where the source has nothing. None leaves
            ŷ as it is drawn, for domains whose background is not 0.
        mirror: every second pair of samples is drawn of the image mirrored along its last axis,
            and mirrored back: the network's errors on either side differ, and the mean has less
            of them. For models that were trained on mirrored images; it changes nothing where
            there are fewer than three samples.
        precision: of the denoiser's runs, one of ``nn.precision.PRECISIONS`` by autocast; φ, the
            warps and the solver are float32 always.

    Raises:
        TypeError: the seed is not a whole number.
        ValueError: an argument is out of range.
    """

    solver: str = "ddim"
    steps: int = 20
    samples: int = 1
    guidance: float = 1.0
    start: float = 1.0
    refine: int = 0
    seed: int = 0
    slab: int = 0
    overlap: int = 16
    background: float | None = None
    mirror: bool = False
    precision: str = "float32"

    def __post_init__(self) -> None:
        object.__setattr__(self, "seed", seed_of(self.seed, TRANSLATION_BITS))
        if self.steps < 1 or self.samples < 1:
            raise ValueError(
                f"steps and samples must be at least 1; got {self.steps} and {self.samples}"
            )
        if not 0 < self.start <= 1:
            raise ValueError(f"start must lie within (0, 1]; got {self.start}")
        if self.refine < 0:
            raise ValueError(f"refine must be at least 0; got {self.refine}")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision must be one of {', '.join(PRECISIONS)}; got {self.precision!r}"
            )

    @classmethod
    def of(cls, model: TranslationModel, **chosen: Any) -> Sampling:
        """What was chosen, and the model's own default for what is None."""
        return cls(**model.configuration.sampling.model_dump()).changed(**chosen)

    def changed(self, **chosen: Any) -> Sampling:
        """The same with what was chosen; what is None stays."""
        given = {name: value for name, value in chosen.items() if value is not None}
        return dataclasses.replace(self, **given)

    def denoiser(self, model: TranslationModel) -> Denoiser | SlabDenoiser:
        """The model's denoiser, in slabs where they are asked for.

        Raises:
            ValueError: slab or overlap do not suit the denoiser.
        """
        if self.slab == 0:
            return model.denoiser
        return SlabDenoiser(model.denoiser, self.slab, self.overlap)

    def start_step(self, model: TranslationModel) -> int:
        """The diffusion step K that a sample begins from."""
        return max(1, round(self.start * model.denoiser.schedule.steps))

    def network_runs(self, model: TranslationModel) -> int:
        """How often the denoiser runs for one sample of a batch."""
        schedule = model.denoiser.schedule
        solver = find_solver(self.solver, schedule)
        return solver.network_runs(schedule, self.start_step(model), self.steps)

    def check(self, model: TranslationModel) -> None:
        """Whether it suits the model.

        Raises:
            ValueError: the solver, slab or overlap do not, or there are not as many network runs
                before the last as refinements.
        """
        runs = self.network_runs(model)
        if self.refine >= runs:
            raise ValueError(
                f"φ can be refined after each of a sample's {runs} network runs but the last: "
                f"refine must be at most {runs - 1}; got {self.refine}"
            )
        self.denoiser(model)  # which refuses slabs


def mean_sample(
    model: TranslationModel,
    source: WarpedSource,
    sampling: Sampling,
    advance: Callable[[], None],
) -> tuple[Tensor, Tensor | None, WarpedSource]:
    """The samples' mean and deviation, each from noise of its own, and φ as they were drawn.

    The first sample refines φ, if it is to be refined: after each of its first network runs the
    registration network sees x∘φ and the clean image predicted there. So early, the noisy image
    holds next to nothing of the anatomy that is about to move; it is left as it is
    (interpolated, its noise would no longer be white). x and S(x) are warped anew by the whole
    φ, and condition the runs that follow. The other samples keep that φ.

    Args:
        model: the networks.
        source: x∘φ and S(x)∘φ.
        sampling: the arguments.
        advance: called after every network run.

    Returns:
        The mean, (N, 1, *spatial) float32 within [-1, 1]; the standard deviation of the samples
        about it (of n - 1), like it, None of a single sample; and ``source``, refined.
    """
    denoiser = sampling.denoiser(model)
    start = sampling.start_step(model)
    mean = torch.zeros_like(source.image)
    total = torch.zeros_like(source.image)  # whose bits the mean of the result has
    squares = torch.zeros_like(source.image)  # of differences from the mean (Welford 1962)

    def revise(runs: int, clean: Tensor, noise: Tensor) -> Tensor:
        nonlocal source
        if runs <= sampling.refine:
            source = source.refined(model.velocity, clean, noise)
        return source.structure

    for index in range(sampling.samples):
        noise, generator = antithetic_noise(source.image, sampling.seed, index)
        k = torch.full((len(mean),), start, device=mean.device)
        noisy = denoiser.schedule.add_noise(source.image, noise, k)
        mirrored = [-1] if sampling.mirror and index % 4 >= 2 else []
        drawn = sample(
            denoiser,
            noisy.flip(mirrored),
            source.structure.flip(mirrored),
            solver=sampling.solver,
            start=start,
            steps=sampling.steps,
            guidance=sampling.guidance,
            precision=sampling.precision,
            generator=generator,
            revise=revise if index == 0 else None,
            progress=advance,
        )
        drawn = drawn.flip(mirrored)
        total += drawn
        before = drawn - mean
        mean += before / (index + 1)
        squares += before * (drawn - mean)
    deviation = None
    if sampling.samples > 1:
        deviation = (squares / (sampling.samples - 1)).clamp(min=0).sqrt()
    return total / sampling.samples, deviation, source


def antithetic_noise(image: Tensor, seed: int, index: int) -> tuple[Tensor, torch.Generator]:
    """The noise that a sample starts from, and the generator of what its solver adds.

    Every second sample starts from the one before's noise with the other sign: what of a sample
    is odd in its noise cancels in their mean, which so comes nearer to that of many samples
    (antithetic variates; Jia et al. 2025, arXiv 2506.06185). Noise that a solver adds on its way
    is each sample's own.

    Args:
        image: (N, 1, *spatial), for shape and device.
        seed: of the translation.
        index: which of its samples.
    """
    first = index - index % 2
    generator = torch.Generator().manual_seed((seed << 16) + first)
    noise = shared_noise(image, generator)
    if index == first:
        return noise, generator
    return -noise, generator.manual_seed((seed << 16) + index)
