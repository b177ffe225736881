"""The way from a file's voxels to a model's grid and back."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.orientation import axes_towards
from plasticine.nn.labels import move_labels
from plasticine.nn.resampling import resample
from plasticine.ops.gaussian_smooth import gaussian_smooth

# Headers hold spacings as float32: a hair's difference is not worth an interpolation.
_SAME_SPACING = 1e-4


@dataclasses.dataclass(frozen=True)
class ModelGrid:
    """How a volume's voxels lie on the grid a model works on.

    Two steps, each with its way back. Axes are permuted and flipped to (slice, row, column),
    exactly. Then each image is sampled at the model's spacing: model voxel 0 is input voxel 0,
    and model voxel k is input voxel k · model spacing / input spacing. A two-dimensional model
    sees N slices of two axes and leaves the distance between slices as it is; a
    three-dimensional one sees one image of three axes.

    Attributes:
        file_shape: The volume's shape ``(X, Y, Z)``.
        axes: Which file axis each of (slice, row, column) is.
        flips: Whether each of them runs the other way.
        ndim: Axes of the model's images, 2 or 3.
        input_spacing: Millimetres per input voxel along each of the image's axes.
        scale: Model voxels per input voxel along each of the image's axes; 1 without resampling.
        model_shape: The image's shape on the model's grid.
    """

    file_shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    ndim: int
    input_spacing: tuple[float, ...]
    scale: tuple[float, ...]
    model_shape: tuple[int, ...]

    @classmethod
    def of(
        cls,
        file_shape: tuple[int, int, int],
        affine: NDArray[np.float64],
        *,
        orientation: str,
        ndim: int,
        spacing: float | None,
    ) -> ModelGrid:
        """Lays a volume on a model's grid.

        Args:
            file_shape: ``(X, Y, Z)``.
            affine: ``(4, 4)``, voxel index to millimetres (RAS+); may be oblique.
            orientation: Where the model's slices, rows and columns run, as "SPR".
            ndim: Axes of the model's images, 2 or 3.
            spacing: The model's voxel in millimetres; None to take the voxels as they are.

        Returns:
            The grid.

        Raises:
            ValueError: The orientation names no three axes, or ``ndim`` is neither 2 nor 3.
        """
        if ndim not in (2, 3):
            raise ValueError(f"ndim: expected 2 or 3, got {ndim}")
        axes, flips = axes_towards(affine, orientation)
        millimetres = np.linalg.norm(affine[:3, :3], axis=0)
        image_axes = axes[3 - ndim :]
        input_spacing = tuple(float(millimetres[axis]) for axis in image_axes)
        scale = tuple(
            1.0 if spacing is None or abs(size / spacing - 1) < _SAME_SPACING else size / spacing
            for size in input_spacing
        )
        model_shape = tuple(
            # Far enough to reach the last voxel; the border is repeated beyond it.
            math.ceil((file_shape[axis] - 1) * factor - 1e-6) + 1
            for axis, factor in zip(image_axes, scale, strict=True)
        )
        return cls(file_shape, axes, flips, ndim, input_spacing, scale, model_shape)

    @property
    def resampled(self) -> bool:
        """Whether the model's voxels are others than the file's."""
        return any(factor != 1 for factor in self.scale)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of one image on the input's own grid."""
        return tuple(self.file_shape[axis] for axis in self.axes[3 - self.ndim :])

    def to_images(self, volume: NDArray[Any]) -> torch.Tensor:
        """Turns the file's array into images; exact.

        Args:
            volume: ``(X, Y, Z)``, of any type that torch has.

        Returns:
            ``(N, 1, *input_shape)``, of its type: N slices for a two-dimensional model, else
            N = 1.
        """
        ordered = np.flip(volume.transpose(self.axes), self._flipped_axes())
        images = torch.from_numpy(np.ascontiguousarray(ordered))
        return images[:, None] if self.ndim == 2 else images[None, None]

    def to_file(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Turns images back into the file's array; the exact inverse of `to_images`.

        Args:
            images: ``(N, 1, *input_shape)``.

        Returns:
            ``(X, Y, Z)``.
        """
        ordered = images[:, 0] if self.ndim == 2 else images[0, 0]
        volume = np.flip(ordered.detach().cpu().numpy(), self._flipped_axes())
        return np.ascontiguousarray(volume.transpose(np.argsort(self.axes)))

    def slice_in_file(self, index: int) -> int:
        """The index along the file's slice axis of slice ``index`` of the model's layout."""
        return self.file_shape[self.axes[0]] - 1 - index if self.flips[0] else index

    def displacement_to_file(self, displacement: torch.Tensor) -> NDArray[np.float32]:
        """Turns a displacement of images into one along the file's axes.

        Args:
            displacement: ``(N, ndim, *input_shape)``, input voxels.

        Returns:
            ``(3, X, Y, Z)``, input voxels, component i along file axis i; 0 across slices for a
            two-dimensional model.
        """
        field = np.zeros((3, *self.file_shape), dtype=np.float32)
        for component in range(self.ndim):
            axis = 3 - self.ndim + component
            along = self.to_file(displacement[:, component : component + 1])
            field[self.axes[axis]] = -along if self.flips[axis] else along
        return field

    def displacement_to_images(self, field: NDArray[np.float32]) -> torch.Tensor:
        """Turns a displacement along the file's axes into one of images.

        Undoes `displacement_to_file`; of a two-dimensional model the component across slices is
        left out.

        Args:
            field: ``(3, X, Y, Z)``, input voxels, component i along file axis i.

        Returns:
            ``(N, ndim, *input_shape)``, input voxels.
        """
        components = []
        for axis in range(3 - self.ndim, 3):
            along = self.to_images(field[self.axes[axis]])
            components.append(-along if self.flips[axis] else along)
        return torch.cat(components, 1)

    def to_model(self, images: torch.Tensor) -> torch.Tensor:
        """Samples images at the model's voxels, linearly.

        An input more than twice as fine as the model is smoothed to about half the model's voxel
        first, so that fine detail does not alias.

        Args:
            images: ``(N, C, *input_shape)``, float32.

        Returns:
            ``(N, C, *model_shape)``; ``images`` itself without resampling.
        """
        if not self.resampled:
            return images
        sigma = [0.5 * math.sqrt(max(0, (0.5 / factor) ** 2 - 1)) for factor in self.scale]
        images = gaussian_smooth(images, sigma)
        return resample(images, self.model_shape, [1 / factor for factor in self.scale])

    def labels_to_model(self, labels: torch.Tensor) -> torch.Tensor:
        """Takes the label nearest to each of the model's voxels.

        Args:
            labels: ``(N, 1, *input_shape)``, integers of any width.

        Returns:
            ``(N, 1, *model_shape)``, of the same type; ``labels`` itself without resampling.
        """
        if not self.resampled:
            return labels
        step = [1 / factor for factor in self.scale]
        return move_labels(
            labels, lambda ranks: resample(ranks, self.model_shape, step, mode="nearest")
        )

    def from_model(self, images: torch.Tensor) -> torch.Tensor:
        """Interpolates images on the model's grid at the input's voxels, linearly.

        Args:
            images: ``(N, C, *model_shape)``, float32.

        Returns:
            ``(N, C, *input_shape)``; ``images`` itself without resampling.
        """
        return resample(images, self.input_shape, self.scale) if self.resampled else images

    def displacement_from_model(self, displacement: torch.Tensor) -> torch.Tensor:
        """Brings a displacement to the input's grid, in the input's voxels.

        Args:
            displacement: ``(N, ndim, *model_shape)``, model voxels.

        Returns:
            ``(N, ndim, *input_shape)``, input voxels.
        """
        if not self.resampled:
            return displacement
        factors = torch.tensor(self.scale, dtype=displacement.dtype, device=displacement.device)
        return self.from_model(displacement) / factors.reshape(1, -1, *[1] * self.ndim)

    def _flipped_axes(self) -> tuple[int, ...]:
        return tuple(axis for axis, flip in enumerate(self.flips) if flip)
