"""The trace: a translated image, and for every pixel of it where it came from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from plasticine.nn.finite import check_finite
from plasticine.nn.labels import warp_labels
from plasticine.nn.modes import plain_modes
from plasticine.nn.points import move_points
from plasticine.nn.saved import load_dataclass, save_dataclass
from plasticine.nn.validity import validity_mask
from plasticine.ops.folding import Folding
from plasticine.ops.jacobian import jacobian_determinant
from plasticine.ops.warp import warp
from plasticine.registration.stack import stack_folding

FILE = "trace.safetensors"


@dataclass(frozen=True)
class Trace:
    """The product of a translation.

    Images lie on one grid; the target's voxel p shows what the source has at p + u(p).
    All tensors are on the CPU, float32 unless said otherwise.

    Attributes:
        source: (N, 1, *spatial) within [0, 1], the image x.
        warped: (N, 1, *spatial) within [0, 1], x∘φ: moved, not recoloured.
        translated: (N, 1, *spatial) within [0, 1], ŷ: moved and recoloured.
        displacement: (N, d, *spatial) voxels, u of φ = id + u.
        inverse_displacement: (N, d, *spatial) voxels, that of φ⁻¹.
        residual: (N, 1, *spatial), ŷ − f(x∘φ) with f the one intensity map that explains ŷ
            best: what recolouring alone does not account for.
        inverse_consistency: (N, 1, *spatial) voxels, |φ⁻¹(φ(p)) − p|.
        model: name and version of the model.
        arguments: the arguments of the translation.
        seconds: wall-clock time it took.
        structure_agreement: (N,) within [0, 1], Dice overlap of the structure of ŷ with the
            structure it was asked to have, in the foreground: how far the picture obeys. None
            where the structure map is made of labels, which ŷ does not have.
        structure: (N, channels, *spatial) within [0, 1], S(x)∘φ, the structure map that ŷ was
            drawn from.
        uncertainty: (N, 1, *spatial), the standard deviation of the samples whose mean ŷ is; None
            of a single sample.
    """

    source: Tensor
    warped: Tensor
    translated: Tensor
    displacement: Tensor
    inverse_displacement: Tensor
    residual: Tensor
    inverse_consistency: Tensor
    model: dict[str, Any]
    arguments: dict[str, Any]
    seconds: float
    structure_agreement: Tensor | None = None
    structure: Tensor | None = None
    uncertainty: Tensor | None = None

    @property
    def one_deformation(self) -> bool:
        """Whether one φ moves all of the images, as the slices of a volume."""
        return len(self.source) == 1 or self.arguments["slice_smoothing"] is not None

    @cached_property
    @plain_modes()
    def jacobian(self) -> Tensor:
        """(N, 1, *spatial), det ∇φ; not positive where φ folds.

        Raises:
            ValueError: it is beyond float32's range.
        """
        jacobian = jacobian_determinant(self.displacement)
        check_finite(jacobian, "jacobian")
        return jacobian

    @cached_property
    @plain_modes()
    def valid(self) -> Tensor:
        """(N, 1, *spatial) bool, where φ lands inside the source."""
        return validity_mask(self.displacement)

    @cached_property
    @plain_modes()
    def folding(self) -> Folding:
        """The folding statistics of φ, of each image or of the volume; scheme and region named."""
        return stack_folding(self.displacement, one_field=self.one_deformation)

    def to_source(self, points: Tensor) -> Tensor:
        """Where points of the translated image came from: φ(p).

        Args:
            points: (N, M, d) voxel coordinates in the translated image, ij order.

        Returns:
            (N, M, d) voxel coordinates in the source, the points' dtype.
        """
        return move_points(points, self.displacement)

    def to_target(self, points: Tensor) -> Tensor:
        """Where points of the source went: φ⁻¹(q); arguments as ``to_source``'s."""
        return move_points(points, self.inverse_displacement)

    def labels_to_target(self, labels: Tensor) -> Tensor:
        """A label map of the source, carried to the translated image: labels∘φ, nearest.

        Args:
            labels: (N, 1, *spatial), any integer or bool dtype.

        Returns:
            The carried labels, of the same shape and dtype.

        Raises:
            TypeError: labels are not integers.
            ValueError: their shape is not the trace's, or φ is NaN somewhere.
        """
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"labels must be integers or bool; got {labels.dtype}")
        if labels.shape != self.source.shape:
            raise ValueError(
                f"labels must have the source's shape {tuple(self.source.shape)}; "
                f"got {tuple(labels.shape)}"
            )
        return warp_labels(labels, self.displacement)

    def translated_in_source(self) -> Tensor:
        """ŷ pulled back by φ⁻¹ onto the source's anatomy, to be compared with its true pair."""
        return warp(self.translated, self.inverse_displacement)

    def save(self, folder: str | Path) -> None:
        """Writes ``trace.safetensors``, which appears or changes only when all is written.

        Args:
            folder: where; it is made if it is not there.

        Raises:
            OSError: it cannot be written to.
        """
        save_dataclass(Path(folder) / FILE, self)

    @classmethod
    def load(cls, folder: str | Path) -> Trace:
        """Reads what ``save`` wrote; of the arguments, tuples have become lists.

        Raises:
            FileNotFoundError: there is no ``trace.safetensors`` in the folder.
            ValueError: it is no trace, or of another version.
        """
        return load_dataclass(Path(folder) / FILE, cls)

    def _repr_html_(self) -> str:
        """A picture and a table, for notebooks."""
        from plasticine.report.notebook import trace_in_html

        return trace_in_html(self)
