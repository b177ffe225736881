"""Translating a volume with a model that works on another grid."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.domain import check_domain
from plasticine.io.grid import ModelGrid
from plasticine.io.intensity import Normalisation
from plasticine.io.model_images import ModelImages, model_images
from plasticine.io.volume import KINDS_WITHOUT_SPACING, Volume
from plasticine.nn.modes import plain_modes
from plasticine.nn.validity import validity_mask
from plasticine.ops.folding import Folding
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.ops.warp import warp
from plasticine.registration.stack import stack_folding

if TYPE_CHECKING:
    from plasticine.translation import Trace, Translator


SLICE_SMOOTHING = 4.0
"""Millimetres: the Gaussian that smooths a 2D model's velocity across the slices of a volume."""


@dataclasses.dataclass(frozen=True)
class VolumeTrace:
    """A translation brought back to the grid of the volume it was made from.

    Tensors are on the input's own grid, in the model's layout ``(N, ·, *s)``: N slices of a
    volume for a two-dimensional model. `grid` turns them into the file's axis order.

    Attributes:
        volume: The input; its notes are followed by those on the labels and the reference.
        grid: How the input lies on the model's grid.
        normalisation: What was done to the intensities.
        trace: The model's own trace, on the model's grid.
        card: What the model's file says of it.
        device: Where the model ran.
        source: ``(N, 1, *s)``, the input's intensities in [0, 1].
        warped: ``(N, 1, *s)``, x∘φ of the full-resolution input, in the input's own intensities.
        translated: ``(N, 1, *s)`` in [0, 1]; interpolated where the grids differ.
        displacement: ``(N, d, *s)``, input voxels; interpolated where the grids differ.
        jacobian: ``(N, 1, *s)``, of `displacement`, central differences.
        valid: ``(N, 1, *s)`` bool: whether φ lands inside the image.
        residual: ``(N, 1, *s)``, the trace's intensity residual; interpolated likewise.
        folding: Folding statistics of `displacement`, per image; of one field of the volume
            where it has one φ.
        labels: The file of the volume's label map, where the model needs one.
        reference: The file of the target image that was registered to, if one was given.
        uncertainty: ``(N, 1, *s)``, the standard deviation of the samples whose mean `translated`
            is; interpolated likewise. None of a single sample.
    """

    volume: Volume
    grid: ModelGrid
    normalisation: Normalisation
    trace: Trace
    card: dict[str, Any]
    device: str
    source: torch.Tensor
    warped: torch.Tensor
    translated: torch.Tensor
    displacement: torch.Tensor
    jacobian: torch.Tensor
    valid: torch.Tensor
    residual: torch.Tensor
    folding: Folding
    labels: Path | None = None
    reference: Path | None = None
    uncertainty: torch.Tensor | None = None

    @property
    def affine(self) -> NDArray[np.float64]:
        """``(4, 4)``, voxel index to millimetres (RAS+), of every output."""
        affine = self.volume.affine
        assert affine is not None
        return affine

    @property
    def warped_source(self) -> torch.Tensor:
        """``(N, 1, *s)``, x∘φ in the normalised intensities of `source`."""
        return warp(self.source, self.displacement, padding="border")

    @property
    def structure(self) -> torch.Tensor | None:
        """``(N, channels, *s)``, the trace's structure map; interpolated where the grids differ."""
        structure = self.trace.structure
        return None if structure is None else self.grid.from_model(structure)

    @functools.cached_property
    def domain_check(self) -> dict[str, Any]:
        """How far the input lies from the model's training images, as `check_domain` says it."""
        spaced = self.volume.kind not in KINDS_WITHOUT_SPACING
        return check_domain(
            self.card.get("domain"),
            self.trace.source,
            spacing=self.grid.input_spacing if spaced else None,
            model_spacing=self.card.get("spacing_mm"),
            agreement=self.trace.structure_agreement,
        )

    @functools.cached_property
    def displacement_lengths(self) -> torch.Tensor:
        """How far each voxel's sample lies, in millimetres: ``(N, 1, *s)``."""
        spacing = self.displacement.new_tensor(self.grid.input_spacing)
        spacing = spacing.reshape(1, -1, *[1] * self.grid.ndim)
        return (self.displacement * spacing).square().sum(1, keepdim=True).sqrt()


@plain_modes()
def translate_volume(
    translator: Translator,
    volume: Volume,
    *,
    labels: Path | None = None,
    reference: Path | None = None,
    **options: Any,
) -> VolumeTrace:
    """Translates a volume in its own space.

    The volume's axes are brought to the model's (slice, row, column), its intensities to [0, 1]
    as the model's card says, and its images to the model's spacing, where the model translates
    them. The displacement is interpolated back to the input's voxels; x∘φ, J and the folding
    statistics are computed there from the full-resolution input. The translated image and the
    residual are interpolated back. A file without spacing is taken to be on the model's grid.

    A volume has one φ. A two-dimensional model gives it slice by slice: all slices share an affine
    map, and the velocity is smoothed across them (`SLICE_SMOOTHING`), as
    `registration.stack_deformation` says. Without spacing, images are pictures of their own, and
    so is each one's φ.

    Args:
        translator: The model.
        volume: What `read_volume` gives.
        labels: File of the volume's label map, on its voxels, of a model that needs one. The
            label nearest to each of the model's voxels is taken.
        reference: File of a target image on the volume's voxels to register to, normalised as
            the card says.
        options: What `Translator.translate` takes besides, by name: sampling, or what it is
            made of, deform, optimise, batch, progress.

    Returns:
        The trace on the volume's grid.

    Raises:
        FileNotFoundError: There is no file ``labels`` or ``reference``.
        ValueError: The intensities, the orientation, the labels, the reference or an option do
            not suit the model.
    """
    laid = model_images(volume, translator.card)
    grid = laid.grid
    across = slice_smoothing(laid, volume)
    label_map, label_notes = (None, ()) if labels is None else laid.labels(labels)
    target, target_notes = (None, ()) if reference is None else laid.reference(reference)
    trace = translator.translate(
        laid.images,
        labels=label_map,
        reference=target,
        slice_smoothing=across,
        **options,
    )
    displacement = grid.displacement_from_model(trace.displacement)
    notes = (*laid.volume.notes, *label_notes, *target_notes)
    return VolumeTrace(
        volume=dataclasses.replace(laid.volume, notes=notes),
        grid=grid,
        normalisation=laid.normalisation,
        trace=trace,
        card=dict(translator.card),
        device=str(translator.device),
        source=laid.source,
        warped=warp(grid.to_images(laid.volume.data), displacement, padding="border"),
        translated=grid.from_model(trace.translated),
        displacement=displacement,
        jacobian=jacobian_determinant(displacement),
        valid=validity_mask(displacement),
        residual=grid.from_model(trace.residual),
        folding=stack_folding(displacement, one_field=trace.one_deformation),
        labels=labels,
        reference=reference,
        uncertainty=None if trace.uncertainty is None else grid.from_model(trace.uncertainty),
    )


def slice_smoothing(laid: ModelImages, volume: Volume) -> float | None:
    """`SLICE_SMOOTHING` in slices; None where the images are not slices of one volume.

    Args:
        laid: The volume's images on a model's grid.
        volume: As it was read, not placed.
    """
    if laid.grid.ndim == 3 or volume.affine is None or len(laid.images) == 1:
        return None
    assert laid.volume.affine is not None
    across = laid.volume.affine[:3, laid.grid.axes[0]]
    return SLICE_SMOOTHING / float(np.linalg.norm(across))
