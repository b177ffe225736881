"""The two stages' losses, each over a batch drawn from the domains."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticine.registration.matching import nearest_targets, structure_descriptor
from plasticine.registration.objective import RegistrationObjective
from plasticine.training.data import Domains, RandomDeformation
from plasticine.translation.model import TranslationModel


def _draw(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` indices of ``images``, with repetition."""
    return torch.randint(len(images), (count,), generator=generator)


class DenoisingLoss:
    """Noise prediction on the target domain alone.

    An image and its structure map go through one random deformation together, so that the
    denoiser meets the soft, interpolated maps that S(x)∘φ gives.

    Args:
        model: whose denoiser is trained.
        target: (n, 1, *spatial) within [-1, 1], on the training device.
        deformation: the random deformation.
        settings: ``batch``, ``condition_dropout``, ``bfloat16``.
    """

    def __init__(
        self,
        model: TranslationModel,
        target: Tensor,
        deformation: RandomDeformation,
        settings: dict[str, Any],
    ) -> None:
        self.denoiser = model.denoiser
        self.target, self.deformation, self.settings = target, deformation, settings
        # The map is taken before the deformation, so once for all is enough.
        self.condition = torch.cat([model.structure(part) for part in target.split(16)])

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch drawn with ``generator``, and the terms to show."""
        count, device = self.settings["batch"], self.target.device
        index = _draw(self.target, count, generator).to(device)
        pair = [self.target[index], self.condition[index]]
        image, condition = self.deformation(pair, generator)
        noise = torch.randn(image.shape, generator=generator).to(device)
        steps = self.denoiser.schedule.steps
        k = torch.randint(1, steps + 1, (count,), generator=generator).to(device)
        keep = torch.rand(count, generator=generator) >= self.settings["condition_dropout"]
        with torch.autocast(device.type, torch.bfloat16, enabled=self.settings["bfloat16"]):
            loss = self.denoiser.loss(image, condition, noise, k, keep.to(device))
        return loss, {}


class RegistrationLoss:
    """The registration objective on source images and targets near to them in structure.

    Args:
        model: whose velocity network is trained; its denoiser, trained already, gives ε̂.
        domains: the images, on the training device.
        deformation: the random deformation of a source and its target together.
        settings: ``batch``, ``nearest`` (targets to draw from for each source),
            ``noise_steps`` (largest diffusion step k of ε̂), ``bfloat16`` and ``weights`` (of
            the objective's terms).
    """

    def __init__(
        self,
        model: TranslationModel,
        domains: Domains,
        deformation: RandomDeformation,
        settings: dict[str, Any],
    ) -> None:
        self.model, self.domains, self.deformation = model, domains, deformation
        self.settings = settings
        self.objective = RegistrationObjective(**settings["weights"])
        source, target = (
            structure_descriptor(images, model.structure)
            for images in (domains.source, domains.target)
        )
        self.nearest = nearest_targets(
            source, target, settings["nearest"], allowed=domains.pairable
        )

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch drawn with ``generator``, and the terms to show."""
        count, device = self.settings["batch"], self.domains.source.device
        index = _draw(self.domains.source, count, generator)
        choice = torch.randint(self.nearest.shape[1], (count,), generator=generator)
        target = self.domains.target[self.nearest[index.to(device), choice.to(device)]]
        # One deformation for both: two of their own would leave y's place unknowable from x, and
        # teach the single stem to move images at random.
        x, y = self.deformation([self.domains.source[index.to(device)], target], generator)
        structure_x, structure_y = self.model.structure(x), self.model.structure(y)
        noise = self._noise_estimate(y, structure_y, generator)
        loss, terms = self.objective(
            self.model.velocity, x, y, noise, structure_x, structure_y, generator
        )
        shown = ("single.mutual_information", "single.structure", "single.jacobian")
        return loss, {name: terms[name] for name in shown if name in terms}

    @torch.no_grad()
    def _noise_estimate(self, y: Tensor, condition: Tensor, generator: torch.Generator) -> Tensor:
        """ε̂ = ε_θ(y_k, S(y), k) of a small to medium k, without gradient."""
        denoiser = self.model.denoiser
        noise = torch.randn(y.shape, generator=generator).to(y.device)
        k = torch.randint(1, self.settings["noise_steps"] + 1, (len(y),), generator=generator)
        k = k.to(y.device)
        noisy = denoiser.schedule.add_noise(y, noise, k)
        with torch.autocast(y.device.type, torch.bfloat16, enabled=self.settings["bfloat16"]):
            return denoiser.predict_noise(noisy, condition, k)
