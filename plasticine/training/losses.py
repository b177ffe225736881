"""The two stages' losses, each over a batch drawn from the domains."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.nn.precision import autocast
from plasticine.registration.transport import moved_by
from plasticine.structure import Labels, StructureMap
from plasticine.training.data import Domains, RandomDeformation, check_size, cut_patches
from plasticine.training.draws import Draws
from plasticine.training.intensity import RandomIntensity
from plasticine.training.pairs import NearestPairs, Pairs, TransportedPairs
from plasticine.training.recipe import DiffusionSettings, RegistrationSettings
from plasticine.translation.model import TranslationModel


class DenoisingLoss:
    """Noise prediction on the target domain alone.

    An image and its structure map go through one random deformation together, so that the
    denoiser meets the soft, interpolated maps that S(x)∘φ gives.

    Args:
        model: whose denoiser is trained.
        target: (n, 1, *spatial) within [-1, 1], on the training device.
        deformation: the random deformation.
        settings: the stage's.
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
        settings: DiffusionSettings,
        labels: Tensor | None = None,
        jitter: RandomIntensity | None = None,
    ) -> None:
        self.denoiser, self.structure = model.denoiser, model.structure
        self.target, self.deformation, self.settings = target, deformation, settings
        self.labels, self.jitter = labels, jitter
        if settings.patch is not None:
            check_size("patch", settings.patch, target)
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
        if self.settings.patch is not None:
            pair = cut_patches(pair, self.settings.patch, draws)
        image, condition = self.deformation(pair, draws)
        if self.jitter is not None:
            condition = self.jitter(condition, draws)
        noise = draws.normal(*image.shape[1:]).to(device)
        k = draws.integers(1, self.denoiser.schedule.steps + 1).to(device)
        keep = draws.uniform() >= self.settings.condition_dropout
        with autocast(device, self.settings.precision):
            loss = self.denoiser.loss(image, condition, noise, k, keep.to(device))
        return loss, {}

    def _condition(self, index: Tensor) -> Tensor:
        if self.labels is None:
            return self.condition[index]
        return self.structure(self.target[index], "target", labels=self.labels[index])


def registration_guide(structure: StructureMap, settings: RegistrationSettings) -> StructureMap:
    """The map whose overlap guides the registration: of ``labels`` or, without, the model's own."""
    if settings.labels is None:
        return structure
    return Labels(structure.ndim, settings.labels)


class RegistrationLoss:
    """The registration objective on pairs of a source and a target that suit one another.

    Args:
        model: whose velocity network is trained; its denoiser, trained already, gives ε̂.
        domains: the images, on the training device.
        deformation: the random deformation of a source and its target together.
        settings: the stage's. ``precision`` is of the denoiser's ε̂; the velocities are float32
            always.

    Raises:
        ValueError: an image may be shown none of the other domain, the domains differ in size,
            or labels are asked for and missing.
    """

    def __init__(
        self,
        model: TranslationModel,
        domains: Domains,
        deformation: RandomDeformation,
        settings: RegistrationSettings,
    ) -> None:
        self.model, self.domains, self.deformation = model, domains, deformation
        self.settings = settings
        if domains.source.shape[2:] != domains.target.shape[2:]:
            raise ValueError(
                "registration needs images of one size; the source's are "
                f"{tuple(domains.source.shape[2:])}, the target's {tuple(domains.target.shape[2:])}"
            )
        self.objective = settings.weights
        self.guide = registration_guide(model.structure, settings)
        self.pairs = self._pairs()

    def _pairs(self) -> Pairs:
        if self.settings.nearest is not None:
            return NearestPairs(self.domains, self.model.structure, self.settings.nearest)
        assert self.settings.transport is not None  # one of them, as the recipe has checked
        return TransportedPairs(self.domains, self.guide, self.settings.transport)

    def __call__(self, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the samples that ``draws`` gives, and the terms to show."""
        source, target = self.pairs(draws)
        x, y, structure_x, structure_y = self._deformed(source, target, draws)
        condition = structure_y
        if self.guide is not self.model.structure:
            condition = self.model.structure(y, "target")
        noise = self._noise_estimate(y, condition, draws)
        jitter = draws.uniform(x.ndim - 2).to(x.device)
        loss, terms = self.objective(
            self.model.velocity, x, y, noise, structure_x, structure_y, jitter
        )
        shown = ("single.mutual_information", "single.structure", "single.jacobian")
        return loss, {name: terms[name] for name in shown if name in terms}

    def _deformed(self, source: Tensor, target: Tensor, draws: Draws) -> list[Tensor]:
        """x, y and their structure, of the pairs of these indices, under one random deformation.

        Two deformations of their own would leave y's place unknowable from x, and teach the
        single stem to move images at random.
        """
        domains = self.domains
        x, y = domains.source[source], domains.target[target]
        offset = self.pairs.offset(source, target)
        if not self.guide.needs_labels:
            x, y = self.deformation([x, y], draws)
            return [x, y, self.guide(x, "source"), self.guide(y, "target")]
        assert domains.source_labels is not None  # as the pairs and the training have checked
        assert domains.target_labels is not None
        # Labels cannot be interpolated; their channels can.
        structure_x = self.guide(x, "source", labels=domains.source_labels[source])
        structure_y = self.guide(y, "target", labels=domains.target_labels[target])
        if offset is not None:
            y, structure_y = moved_by(y, offset), moved_by(structure_y, offset)
        return self.deformation([x, y, structure_x, structure_y], draws)

    @torch.no_grad()
    def _noise_estimate(self, y: Tensor, condition: Tensor, draws: Draws) -> Tensor:
        """ε̂ = ε_θ(y_k, S(y), k) of a small to medium k, without gradient."""
        denoiser = self.model.denoiser
        noise = draws.normal(*y.shape[1:]).to(y.device)
        k = draws.integers(1, self.settings.noise_steps + 1).to(y.device)
        noisy = denoiser.schedule.add_noise(y, noise, k)
        with autocast(y.device, self.settings.precision):
            return denoiser.predict_noise(noisy, condition, k)
