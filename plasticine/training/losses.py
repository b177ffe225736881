"""The two stages' losses, each over a batch drawn from the domains."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from plasticine.nn.precision import autocast
from plasticine.registration.matching import nearest_targets, structure_descriptor
from plasticine.registration.objective import RegistrationObjective
from plasticine.training.data import Domains, RandomDeformation, check_size, cut_patches
from plasticine.training.draws import Draws
from plasticine.training.intensity import RandomIntensity
from plasticine.translation.model import TranslationModel


class DenoisingLoss:
    """Noise prediction on the target domain alone.

    An image and its structure map go through one random deformation together, so that the
    denoiser meets the soft, interpolated maps that S(x)∘φ gives.

    Args:
        model: whose denoiser is trained.
        target: (n, 1, *spatial) within [-1, 1], on the training device.
        deformation: the random deformation.
        settings: ``condition_dropout``, ``precision`` and optionally ``patch``, the spatial
            size of the patches that are cut at random from the images.
        labels: (n, 1, *spatial), the images' label maps, of a structure map that needs them.
        jitter: a random change of the structure map's intensity, where the map that a
            translation meets differs from the training's; None changes nothing.

    Raises:
        ValueError: the patch does not fit into the images.
    """

    def __init__(
        self,
        model: TranslationModel,
        target: Tensor,
        deformation: RandomDeformation,
        settings: dict[str, Any],
        labels: Tensor | None = None,
        jitter: RandomIntensity | None = None,
    ) -> None:
        self.denoiser, self.structure = model.denoiser, model.structure
        self.target, self.deformation, self.settings = target, deformation, settings
        self.labels, self.jitter = labels, jitter
        self.patch: list[int] | None = settings.get("patch")
        if self.patch is not None:
            check_size("patch", self.patch, target)
        if labels is None:
            # The map is taken before the deformation, so once for all is enough. Of labels it
            # costs nothing, and may have too many channels to be kept.
            self.condition = torch.cat(
                [self.structure(part, "target") for part in target.split(16)]
            )

    def __call__(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the samples that ``draws`` gives, and the terms to show."""
        device = self.target.device
        index = draws.integers(0, len(self.target)).to(device)
        pair = [self.target[index], self._condition(index)]
        if self.patch is not None:
            pair = cut_patches(pair, self.patch, draws)
        image, condition = self.deformation(pair, draws)
        if self.jitter is not None:
            condition = self.jitter(condition, draws)
        noise = draws.normal(*image.shape[1:]).to(device)
        k = draws.integers(1, self.denoiser.schedule.steps + 1).to(device)
        keep = draws.uniform() >= self.settings["condition_dropout"]
        with autocast(device, self.settings["precision"]):
            loss = self.denoiser.loss(image, condition, noise, k, keep.to(device))
        return loss, {}

    def _condition(self, index: Tensor) -> Tensor:
        if self.labels is None:
            return self.condition[index]
        return self.structure(self.target[index], "target", labels=self.labels[index])


class RegistrationLoss:
    """The registration objective on source images and targets near to them in structure.

    Args:
        model: whose velocity network is trained; its denoiser, trained already, gives ε̂.
        domains: the images, on the training device.
        deformation: the random deformation of a source and its target together.
        settings: ``nearest`` (targets to draw from for each source, at most), ``noise_steps``
            (largest diffusion step k of ε̂), ``precision`` (of the denoiser's ε̂; the
            velocities are float32 always) and ``weights`` (of the objective's terms).

    Raises:
        ValueError: a source may be shown no target, or the domains differ in size.
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
        if domains.source.shape[2:] != domains.target.shape[2:]:
            raise ValueError(
                "registration needs images of one size; the source's are "
                f"{tuple(domains.source.shape[2:])}, the target's {tuple(domains.target.shape[2:])}"
            )
        available = len(domains.target)
        if domains.pairable is not None:
            available = int(domains.pairable.sum(1).min())
        if available == 0:
            raise ValueError("a source has no target but those of its own subject")
        self.objective = RegistrationObjective(**settings["weights"])
        source, target = (
            structure_descriptor(
                images, functools.partial(model.structure, domain=domain), labels=labels
            )
            for domain, images, labels in (
                ("source", domains.source, domains.source_labels),
                ("target", domains.target, domains.target_labels),
            )
        )
        self.nearest = nearest_targets(
            source, target, min(settings["nearest"], available), allowed=domains.pairable
        )

    def __call__(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the samples that ``draws`` gives, and the terms to show."""
        device = self.domains.source.device
        index = draws.integers(0, len(self.domains.source)).to(device)
        choice = draws.integers(0, self.nearest.shape[1]).to(device)
        x, y, structure_x, structure_y = self._deformed(index, self.nearest[index, choice], draws)
        noise = self._noise_estimate(y, structure_y, draws)
        jitter = draws.uniform(x.ndim - 2).to(device)
        loss, terms = self.objective(
            self.model.velocity, x, y, noise, structure_x, structure_y, jitter
        )
        shown = ("single.mutual_information", "single.structure", "single.jacobian")
        return loss, {name: terms[name] for name in shown if name in terms}

    def _deformed(self, source: Tensor, target: Tensor, draws: Draws) -> list[Tensor]:
        """x, y, S(x) and S(y) of the pairs of these indices, under one random deformation.

        Two deformations of their own would leave y's place unknowable from x, and teach the
        single stem to move images at random.
        """
        domains, structure = self.domains, self.model.structure
        x, y = domains.source[source], domains.target[target]
        if domains.source_labels is None or domains.target_labels is None:
            x, y = self.deformation([x, y], draws)
            return [x, y, structure(x, "source"), structure(y, "target")]
        # Labels cannot be interpolated; their channels can.
        structure_x = structure(x, "source", labels=domains.source_labels[source])
        structure_y = structure(y, "target", labels=domains.target_labels[target])
        return self.deformation([x, y, structure_x, structure_y], draws)

    @torch.no_grad()
    def _noise_estimate(self, y: Tensor, condition: Tensor, draws: Draws) -> Tensor:
        """ε̂ = ε_θ(y_k, S(y), k) of a small to medium k, without gradient."""
        denoiser = self.model.denoiser
        noise = draws.normal(*y.shape[1:]).to(y.device)
        k = draws.integers(1, self.settings["noise_steps"] + 1).to(y.device)
        noisy = denoiser.schedule.add_noise(y, noise, k)
        with autocast(y.device, self.settings["precision"]):
            return denoiser.predict_noise(noisy, condition, k)
