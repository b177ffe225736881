"""A volume as a model takes it: its axes, its spacing, its intensities."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from plasticine.io.grid import ModelGrid
from plasticine.io.intensity import Normalisation, normalise
from plasticine.io.orientation import DEFAULT_ORIENTATION
from plasticine.io.same_grid import read_labels, read_same_grid
from plasticine.io.volume import Volume

_BODY = 0.1
LEAST_BODY = 0.02
"""Images of a user's files with a smaller `body_share` are left out of a domain."""


@dataclasses.dataclass(frozen=True)
class ModelImages:
    """A volume and its images on a model's grid.

    Attributes:
        volume: The volume, placed in space.
        grid: How it lies on the model's grid.
        normalisation: What was done to the intensities.
        source: ``(N, 1, *input_shape)``, intensities in [0, 1] on the volume's own grid.
        images: ``(N, 1, *model_shape)``, the same on the model's grid.
        orientation: Where the model's slices, rows and columns run.
        target_rule: How the model's card normalises the target domain's intensities.
    """

    volume: Volume
    grid: ModelGrid
    normalisation: Normalisation
    source: torch.Tensor
    images: torch.Tensor
    orientation: str
    target_rule: Mapping[str, Any] | None

    def reference(self, path: Path) -> tuple[torch.Tensor, tuple[str, ...]]:
        """Reads an image of the target domain on the volume's voxels.

        Args:
            path: The file, any that `read_volume` takes.

        Returns:
            ``(N, 1, *model_shape)``, float32 in [0, 1], and notes on how it was read.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no image, on another grid, or its intensities do not suit the model.
        """
        assert self.volume.affine is not None
        volume = read_same_grid(path, self.grid, self.volume.affine, self.orientation)
        notes = tuple(f"{path}: {note}" for note in volume.notes)
        return self.of_target(volume), notes

    def of_target(self, volume: Volume) -> torch.Tensor:
        """An image of the target domain, whose axes and voxels are those of `volume`.

        Returns:
            ``(N, 1, *model_shape)``, float32 in [0, 1].

        Raises:
            ValueError: Its intensities do not suit the model.
        """
        intensities, _ = normalise(volume.data, self.target_rule, str(volume.path))
        return _to_model(self.grid, self.grid.to_images(intensities))

    def labels(self, path: Path) -> tuple[torch.Tensor, tuple[str, ...]]:
        """Reads a label map of the volume's voxels onto the model's grid.

        Args:
            path: The file, any that `read_volume` takes, of whole numbers.

        Returns:
            ``(N, 1, *model_shape)``, int64, and notes on how it was read.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is no image, on another grid, or holds other than whole numbers that
                int64 holds.
        """
        assert self.volume.affine is not None
        labels, notes = read_labels(path, self.grid, self.volume.affine, self.orientation)
        return self.grid.labels_to_model(labels), notes


def model_images(volume: Volume, card: Mapping[str, Any]) -> ModelImages:
    """Brings a volume's axes, intensities and spacing to what a model's card says.

    A file without spacing is taken to be on the model's grid.

    Args:
        volume: What `read_volume` gives.
        card: ``ndim`` and optionally ``orientation``, ``spacing_mm``, ``normalisation`` and
            ``target_normalisation``, where the target's is another.

    Returns:
        The images.

    Raises:
        ValueError: The intensities or the orientation do not suit the model.
    """
    orientation = card.get("orientation") or DEFAULT_ORIENTATION
    spacing = card.get("spacing_mm") if volume.affine is not None else None
    placed = volume.placed(orientation)
    assert placed.affine is not None
    grid = ModelGrid.of(
        (placed.data.shape[0], placed.data.shape[1], placed.data.shape[2]),
        placed.affine,
        orientation=orientation,
        ndim=int(card["ndim"]),
        spacing=spacing,
    )
    rule = card.get("normalisation")
    intensities, normalisation = normalise(placed.data, rule, str(volume.path))
    source = grid.to_images(intensities)
    images = _to_model(grid, source)
    target_rule = card.get("target_normalisation", rule)
    return ModelImages(placed, grid, normalisation, source, images, orientation, target_rule)


def _to_model(grid: ModelGrid, images: torch.Tensor) -> torch.Tensor:
    """Images in [0, 1] on the model's grid: interpolation may pass the ends by a rounding error."""
    return grid.to_model(images).clamp(0, 1)


def body_share(images: torch.Tensor) -> torch.Tensor:
    """The share of each image's voxels that are brighter than a tenth of white.

    Args:
        images: ``(N, 1, *spatial)`` in [0, 1].

    Returns:
        ``(N,)``, from 0 to 1.
    """
    return (images > _BODY).flatten(1).float().mean(1)
