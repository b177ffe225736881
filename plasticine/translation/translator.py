"""The translator: warp by the registration network, recolour by the diffusion model."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from plasticine.metrics.recolouring import intensity_residual
from plasticine.nn.body import exterior
from plasticine.nn.finite import not_finite
from plasticine.nn.losses import soft_dice
from plasticine.nn.modes import plain_modes
from plasticine.ops._checks import is_tensor
from plasticine.ops.compose import compose
from plasticine.registration.velocity import VelocityRegistration
from plasticine.translation.model import (
    ModelError,
    TranslationModel,
    load_model,
    shipped_models,
)
from plasticine.translation.registering import (
    FOREGROUND,
    Batch,
    Registration,
    cut_batches,
    find_displacements,
)
from plasticine.translation.sampling import Sampling, mean_sample
from plasticine.translation.trace import Trace
from plasticine.translation.warped_source import WarpedSource


class Translator:
    """Translates images with a trained model.

    Args:
        model: the networks.
        card: what the model's file says of it.
        device: of torch.
        compile: run the denoiser through ``torch.compile``, on a GPU with CUDA graphs. The first
            translation of each batch size takes a minute more.
    """

    def __init__(
        self,
        model: TranslationModel,
        card: dict[str, Any],
        device: str = "cpu",
        *,
        compile: bool = False,
    ) -> None:
        self.model = model.eval().to(device)
        self.card = card
        self.device = torch.device(device)
        if compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self.model.denoiser.network.compile(mode=mode)

    @classmethod
    def load(
        cls, name_or_path: str | Path, device: str = "cpu", *, compile: bool = False
    ) -> Translator:
        """Load a shipped model by its name, or any by its path; arguments as the class's.

        Raises:
            ModelError: there is no such model, or the file is not a readable one.
        """
        shipped = shipped_models()
        path = shipped.get(str(name_or_path), Path(name_or_path))
        if not path.is_file():
            names = ", ".join(shipped) or "none"
            raise ModelError(
                f"no model {str(name_or_path)!r}: neither a file nor a shipped name ({names})"
            )
        model, card = load_model(path)
        return cls(model, card, device, compile=compile)

    @staticmethod
    def shipped() -> dict[str, Path]:
        """Name and file of each model that comes with the package."""
        return shipped_models()

    def translate(
        self,
        image: Tensor,
        *,
        reference: Tensor | None = None,
        labels: Tensor | None = None,
        reference_labels: Tensor | None = None,
        optimise: VelocityRegistration | None = None,
        deform: bool = True,
        slice_smoothing: float | None = None,
        sampling: Sampling | None = None,
        solver: str | None = None,
        steps: int | None = None,
        samples: int | None = None,
        seed: int | None = None,
        batch: int = 8,
        progress: Callable[[int, int], None] | None = None,
        **others: Any,
    ) -> Trace:
        """Translate images of the source domain.

        φ = affine∘exp(v) comes from the image alone, or from the image and a reference of the
        target domain; x∘φ and S(x)∘φ condition the denoiser, which samples ŷ. The noise of a
        sample is one for all images: neighbouring slices stay alike, and an image's result
        does not depend on which others it comes with. Nor does it depend on torch's global modes:
        default dtype and device, autocast, inference mode.

        Args:
            image: (N, 1, *spatial) float32 within [0, 1], of the model's domain and spacing.
            reference: like image, target images to register to; None lets the model choose.
            labels: (N, 1, *spatial) integers, the images' label maps, of a model whose structure
                map is made of them, and of no other.
            reference_labels: like labels, those of the reference.
            optimise: instance optimisation: φ, as the registration network finds it from image
                and reference, is the start of a gradient descent on this pair's own objective.
                Its iterations count as network runs do where progress is told. Of a volume's
                slices (``slice_smoothing``) the velocities are smoothed anew afterwards.
            deform: False keeps the source's shape: φ = id, intensity translation only.
            slice_smoothing: the images are neighbouring slices of one volume, which gets one φ:
                the standard deviation, in slices, of the Gaussian that smooths the velocity
                across them, as ``stack_deformation`` has it. None: each has a φ of its own.
            sampling: how ŷ is sampled; None is the model's default.
            solver: replaces that of ``sampling``, where it is given, as do steps, samples and
                seed.
            steps: network runs of a sample.
            samples: samples whose mean is ŷ.
            seed: of the noise.
            batch: images translated at a time.
            progress: called as (network runs and iterations done, those in all).
            others: any other attribute of ``Sampling``, likewise.

        Returns:
            The trace.

        Raises:
            TypeError: an image is not a float32 tensor, the seed not a whole number, or there is
                no such argument.
            ValueError: its shape or values are not right, or an argument is out of range.
            RuntimeError: NaN or infinity came out: of damaged weights, or of a ``precision`` of
                too small a range.
        """
        whole = Batch(image, labels, reference, reference_labels)
        self._check_images(whole)
        sampling = (sampling or Sampling.of(self.model)).changed(
            solver=solver, steps=steps, samples=samples, seed=seed, **others
        )
        registration = Registration(deform, optimise, slice_smoothing)
        registration.check(self.model, whole, sampling)
        sampling.check(self.model)
        with plain_modes(), torch.no_grad():
            return self._translate(whole, registration, sampling, batch, progress)

    def displacement(
        self,
        image: Tensor,
        reference: Tensor,
        *,
        slice_smoothing: float | None = None,
        batch: int = 8,
    ) -> Tensor:
        """φ - id of images to references, as the registration network's pair stem sees it.

        Args:
            image: as ``translate`` takes it.
            reference: likewise.
            slice_smoothing: likewise.
            batch: likewise.

        Returns:
            (N, d, *spatial), voxels, on the CPU.

        Raises:
            TypeError: as ``translate``.
            ValueError: likewise.
        """
        whole = Batch(image, reference=reference)
        self._check_images(whole)
        sampling = Sampling.of(self.model)
        registration = Registration(True, None, slice_smoothing)
        registration.check(self.model, whole, sampling)
        with plain_modes(), torch.no_grad():
            batches = cut_batches(whole, batch, self.device)
            found = find_displacements(self.model, batches, registration, sampling, lambda: None)
            return torch.cat([displacement.cpu() for displacement, _ in found])

    def _translate(
        self,
        whole: Batch,
        registration: Registration,
        sampling: Sampling,
        batch: int,
        progress: Callable[[int, int], None] | None,
    ) -> Trace:
        began = time.perf_counter()
        batches = cut_batches(whole, batch, self.device)
        optimise = registration.optimise
        iterations = 0 if optimise is None else optimise.iterations
        runs = sampling.samples * sampling.network_runs(self.model)
        done, total = itertools.count(1), len(batches) * (iterations + runs)

        def advance() -> None:
            if progress is not None:
                progress(next(done), total)

        sources = self._warped_sources(batches, registration, sampling, advance)
        parts = [self._translate_batch(source, sampling, advance) for source in sources]
        joined = {name: torch.cat([part[name] for part in parts]).cpu() for name in parts[0]}
        residual = intensity_residual(joined["translated"], joined["warped"])
        self._check_results({"residual": residual}, sampling.precision)
        return Trace(
            source=whole.image.cpu(),
            **joined,
            residual=residual,
            model={key: self.card[key] for key in ("name", "title") if key in self.card},
            arguments={
                "reference": whole.reference is not None,
                "labels": whole.labels is not None,
            }
            | dataclasses.asdict(registration)
            | dataclasses.asdict(sampling),
            seconds=time.perf_counter() - began,
        )

    def _check_results(self, results: dict[str, Tensor], precision: str) -> None:
        """Hands on nothing that is not finite: no part of such a translation can be relied on."""
        for name, tensor in results.items():
            found = not_finite(tensor)
            if found is not None:
                raise RuntimeError(
                    f"the translation by {self.card.get('name', 'the model')} is of no use: of "
                    f"{name}, {found} (precision {precision})"
                )

    def _check_images(self, whole: Batch) -> None:
        """Whether images, references and labels are what the model can take."""
        image, reference = whole.image, whole.reference
        self._check("image", image)
        if reference is not None:
            self._check("reference", reference)
            if reference.shape != image.shape:
                raise ValueError(
                    f"reference must have the image's shape {tuple(image.shape)}; "
                    f"got {tuple(reference.shape)}"
                )
            self.model.structure.check(reference, labels=whole.reference_labels)
        elif whole.reference_labels is not None:
            raise ValueError("labels of a reference were given, but no reference")
        self.model.structure.check(image, labels=whole.labels)

    def _check(self, name: str, image: Tensor) -> None:
        is_tensor(image, name)
        ndim = self.model.ndim
        if image.dtype != torch.float32:
            raise TypeError(f"{name} must be float32 within [0, 1]; got {image.dtype}")
        if image.ndim != ndim + 2 or image.shape[1] != 1 or 0 in image.shape:
            raise ValueError(
                f"{name} must be (N, 1, *spatial) with {ndim} spatial axes, not empty; "
                f"got {tuple(image.shape)}"
            )
        low, high = image.aminmax()
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(
                f"{name} must lie within [0, 1], without NaN; got {float(low)} to {float(high)}"
            )

    def _warped_sources(
        self,
        batches: list[Batch],
        registration: Registration,
        sampling: Sampling,
        advance: Callable[[], None],
    ) -> Iterator[WarpedSource]:
        """x and S(x) of every batch, warped by φ; φ of all batches is found before the first."""
        displacements: list[tuple[Tensor, Tensor]] | None = None
        if registration.deform:
            displacements = find_displacements(self.model, batches, registration, sampling, advance)
        for index, batch in enumerate(batches):
            x = batch.x
            structure = self.model.structure(x, "source", labels=batch.labels)
            if displacements is None:
                yield WarpedSource.undeformed(x, structure)
            else:
                yield WarpedSource(x, structure, *displacements[index])

    def _translate_batch(
        self, source: WarpedSource, sampling: Sampling, advance: Callable[[], None]
    ) -> dict[str, Tensor]:
        y, deviation, source = mean_sample(self.model, source, sampling, advance)
        warped = ((source.image + 1) / 2).clamp(0, 1)
        if sampling.background is not None:
            empty = exterior(warped, sampling.background)
            y = y.masked_fill(empty, -1)
            if deviation is not None:
                deviation = deviation.masked_fill(empty, 0)
        u, u_inverse = source.displacement, source.inverse_displacement
        result = {
            "warped": warped,
            "translated": (y + 1) / 2,
            "displacement": u,
            "inverse_displacement": u_inverse,
            "structure": source.structure,
            "inverse_consistency": torch.linalg.vector_norm(compose(u_inverse, u), dim=1)[:, None],
        }
        if deviation is not None:
            result["uncertainty"] = deviation / 2  # from [-1, 1] to [0, 1]
        self._check_results(result, sampling.precision)
        if not self.model.structure.needs_labels:  # nobody has labelled ŷ
            drawn = self.model.structure(y, "target")
            body = (warped > FOREGROUND).to(y.dtype)
            agreement = [
                soft_dice(drawn[i : i + 1], source.structure[i : i + 1], body[i : i + 1])
                for i in range(len(y))
            ]
            result["structure_agreement"] = torch.stack(agreement)
        return result
