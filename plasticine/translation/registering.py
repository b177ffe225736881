"""Finding φ of every image of a translation, before anything is sampled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from plasticine.diffusion.sampler import shared_noise
from plasticine.registration.deformation import Deformation
from plasticine.registration.stack import stack_deformation, stack_part
from plasticine.registration.velocity import VelocityRegistration
from plasticine.translation.model import TranslationModel
from plasticine.translation.sampling import Sampling

FOREGROUND = 0.02
"""Intensity, of [0, 1], above which a voxel counts as body."""


@dataclass(frozen=True)
class Batch:
    """Some of a translation's images, on the model's device.

    Attributes:
        image: (n, 1, *spatial) within [0, 1], source images.
        labels: (n, 1, *spatial) integers, their label maps, where the structure map needs them.
        reference: like image, target images to register to; None lets the model choose.
        reference_labels: like labels, those of the reference.
    """

    image: Tensor
    labels: Tensor | None = None
    reference: Tensor | None = None
    reference_labels: Tensor | None = None

    @property
    def x(self) -> Tensor:
        """The source images within [-1, 1], as the networks take them."""
        return 2 * self.image - 1

    @property
    def y(self) -> Tensor | None:
        """The reference within [-1, 1]."""
        return None if self.reference is None else 2 * self.reference - 1


@dataclass(frozen=True)
class Registration:
    """How the source is to be registered.

    Attributes:
        deform: False keeps its shape: φ = id.
        optimise: instance optimisation of φ against the reference; None leaves φ as the
            registration network sees it.
        slice_smoothing: of the slices of one volume, as ``stack_deformation`` has it; None where
            each image has a φ of its own.
    """

    deform: bool
    optimise: VelocityRegistration | None
    slice_smoothing: float | None

    def check(self, model: TranslationModel, images: Batch, sampling: Sampling) -> None:
        """Whether this goes together with the model and the rest of what was asked for.

        Raises:
            ValueError: it does not.
        """
        reference, refine = images.reference is not None, sampling.refine
        if reference and not self.deform:
            raise ValueError("a reference is registered to, which deform=False forbids")
        if self.optimise is not None and not self.deform:
            raise ValueError("instance optimisation moves the source, which deform=False forbids")
        if self.optimise is not None and not reference:
            raise ValueError("instance optimisation needs a reference to register to; got none")
        if self.slice_smoothing is not None and model.ndim != 2:
            raise ValueError(
                f"slices are for a 2D model to see; this one sees {model.ndim}D images"
            )
        if self.slice_smoothing is not None and refine:
            raise ValueError("refine moves each slice by itself, but a volume has one φ")
        if refine and not self.deform:
            raise ValueError("refine moves the source, which deform=False forbids")


def cut_batches(whole: Batch, size: int, device: torch.device) -> list[Batch]:
    """``size`` images at a time, in order, each batch on the device."""

    def part(images: Tensor, first: int) -> Tensor:
        return images[first : first + size].to(device)

    given = {name: tensor for name, tensor in vars(whole).items() if tensor is not None}
    return [
        Batch(**{name: part(tensor, first) for name, tensor in given.items()})
        for first in range(0, len(whole.image), size)
    ]


def predicted_deformation(model: TranslationModel, batch: Batch, sampling: Sampling) -> Deformation:
    """φ = affine∘exp(v), as the registration network sees it.

    With a reference, the network's pair stem reads x, it, and the denoiser's noise estimate for it.

    Args:
        model: the networks.
        batch: the images.
        sampling: its seed is that of the noise that the estimate is made for.

    Returns:
        The deformation, without the network's features, which are large.
    """
    x, y = batch.x, batch.y
    if y is None:
        return dataclasses.replace(model.velocity(x), features=())
    denoiser = sampling.denoiser(model)
    k = torch.full((len(x),), max(1, denoiser.schedule.steps // 4), device=x.device)
    drawn = shared_noise(y, torch.Generator().manual_seed(sampling.seed))
    noisy = denoiser.schedule.add_noise(y, drawn, k)
    structure = model.structure(y, "target", labels=batch.reference_labels)
    noise = denoiser.predict_noise(noisy, structure, k)
    return dataclasses.replace(model.velocity(x, y, noise), features=())


def find_displacements(
    model: TranslationModel,
    batches: Sequence[Batch],
    registration: Registration,
    sampling: Sampling,
    advance: Callable[[], None],
) -> list[tuple[Tensor, Tensor]]:
    """u and u⁻¹ of φ for every batch.

    With ``registration.slice_smoothing`` the images are the slices of one volume: what is predicted
    becomes one deformation of the volume, from which the slices are optimised, and so does what
    is found then.

    Args:
        model: the networks.
        batches: the images, in order.
        registration: how they are to be registered.
        sampling: as ``predicted_deformation`` takes it.
        advance: called after every iteration of the optimisation.

    Returns:
        (u, u⁻¹) of each batch, each (n, d, *spatial) voxels.
    """
    optimise, slice_smoothing = registration.optimise, registration.slice_smoothing
    predicted = (predicted_deformation(model, batch, sampling) for batch in batches)

    def optimised(batch: Batch, initial: Deformation) -> Deformation:
        if optimise is None:
            return initial
        y = batch.y
        assert y is not None
        found = optimise(
            batch.x,
            y,
            affine=initial.affine,
            initial=initial.velocity,
            progress=lambda *_: advance(),
        ).velocity
        assert found is not None
        return dataclasses.replace(
            initial, velocity=found, inverse_velocity=None, inverse_from="negation"
        )

    if slice_smoothing is None:
        pairs = zip(batches, predicted, strict=True)
        return [optimised(batch, initial).displacements() for batch, initial in pairs]
    body = torch.cat([(batch.image > FOREGROUND).flatten(1).sum(1) for batch in batches])
    stack = stack_deformation(list(predicted), body, slice_smoothing)
    sizes = [len(batch.image) for batch in batches]
    firsts = [sum(sizes[:index]) for index in range(len(sizes))]
    if optimise is not None:
        parts = [
            optimised(batch, stack_part(stack, first, size))
            for batch, first, size in zip(batches, firsts, sizes, strict=True)
        ]
        stack = stack_deformation(parts, body, slice_smoothing)
    u, inverse = stack.displacements()
    return list(zip(u.split(sizes), inverse.split(sizes), strict=True))
