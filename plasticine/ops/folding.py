"""``plasticine.folding``: how much a displacement folds, in numbers that say how they were made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops import _autocast, _checks, _folding_file, _folding_html, _words
from plasticine.ops._derivative import refused
from plasticine.ops._kernels import Kernel, call
from plasticine.ops._operator import REGISTRY, Operator

# The sums of a sample are taken by this many blocks at most, one to so many voxels, then by one.
_CUDA_BLOCKS = 2048
_CUDA_BLOCK_VOXELS = 2048
_CUDA_RECORD = 8


@dataclass(frozen=True)
class Folding:
    """Folding statistics of a batch of displacements; tensors of shape ``(N,)`` on their device.

    The numbers depend on the finite differences and on the voxels that are counted, by factors:
    never quote one without ``scheme`` and ``region``. Of an empty region, fraction, minimum,
    maximum and standard deviation are NaN.

    Attributes:
        folds: voxels whose J is not positive: at most 0, or NaN; int64.
        fraction: ``folds`` over the voxels of the region, float64.
        minimum: the smallest J, float64; NaN if any J is.
        maximum: the largest J, float64; NaN if any J is.
        sd_log_jacobian: population standard deviation of ``log(max(J, 1e-9))``, float64; NaN if any
            J is.
        non_diffeomorphic_volume: the volume, in voxels, of the simplices that are turned over,
            float64; over all cells whatever the scheme and the region. NaN where one has a NaN
            vertex.
        scheme: "central", "forward" or "backward".
        region: "full" (all voxels) or "interior" (without the outermost layer).
    """

    folds: Tensor
    fraction: Tensor
    minimum: Tensor
    maximum: Tensor
    sd_log_jacobian: Tensor
    non_diffeomorphic_volume: Tensor
    scheme: str
    region: str

    def __str__(self) -> str:
        """One line per sample; reads the numbers, and so waits for the device."""
        columns = zip(
            self.folds.tolist(),
            self.fraction.tolist(),
            self.minimum.tolist(),
            self.maximum.tolist(),
            self.sd_log_jacobian.tolist(),
            self.non_diffeomorphic_volume.tolist(),
            strict=True,
        )
        lines = [
            f"sample {i}: {folds} voxels whose J is not positive ({fraction:.3%}), "
            f"J from {minimum:.4g} to {maximum:.4g}, SD log J {deviation:.4g}, "
            f"non-diffeomorphic volume {volume:.4g} voxels"
            for i, (folds, fraction, minimum, maximum, deviation, volume) in enumerate(columns)
        ]
        heading = f"Folding ({self.scheme} differences, {self.region} region)"
        return "\n".join([heading, *lines])

    def save(self, folder: str | Path) -> None:
        """Writes ``folding.safetensors``, which appears or changes only when it is whole.

        Raises:
            OSError: the folder cannot be written to; it is made if it is not there.
        """
        _folding_file.save(Path(folder), vars(self))

    @classmethod
    def load(cls, folder: str | Path) -> Folding:
        """Reads what ``save`` wrote, onto the CPU.

        Raises:
            FileNotFoundError: there is no ``folding.safetensors`` in the folder.
            ValueError: it holds no folding statistics.
        """
        return cls(**_folding_file.load(Path(folder)))

    def _repr_html_(self) -> str:
        """A picture of the determinants' range and a table, for notebooks."""
        return _folding_html.described(vars(self))


@_words.checks_inside
def folding(
    displacement: Tensor,
    *,
    scheme: str = "central",
    spacing: Sequence[float] | None = None,
    region: str = "full",
    backend: str = "auto",
    **_unknown: NoReturn,
) -> Folding:
    """Counts where ``p + u(p)`` folds, and measures how much. Not differentiable.

    The Jacobian determinant's sign at the voxels misses folds between them; the non-diffeomorphic
    volume does not: it cuts every cell of voxels into simplices and adds up those that are turned
    over (Liu et al., "On finite difference Jacobian computation in deformable image registration",
    IJCV 2024; the mean over the two mirror-symmetric ways to cut).

    Args:
        displacement: ``(N, d, *spatial)``, 2D or 3D, float32, float64, float16 or bfloat16, in
            voxels, or in the unit of ``spacing``.
        scheme: the determinant's finite differences, as for ``jacobian_determinant``.
        spacing: the voxel size along each spatial axis; None for a displacement in voxels.
        region: "full", or "interior" to leave out the outermost layer of voxels, whose differences
            are one-sided (of axes longer than 2).
        backend: "auto", "cpu", "cuda", "triton" or "reference"; see :mod:`plasticine.backends`.

    Returns:
        The statistics of each sample, on the device of the displacement, without waiting for it.

    Raises:
        TypeError: ``displacement`` is no tensor or of a dtype that is not served.
        ValueError: a shape or an option is not one of those above.
        RuntimeError: the backend asked for by name is missing or cannot serve the call.
    """
    if _unknown:
        _words.refuse(folding, _unknown)
    _checks.is_tensor(displacement, "displacement")
    ndim = _checks.field(displacement, "displacement")
    sizes = _checks.spacing_of(spacing, ndim)
    statistics = FOLDING(displacement.detach(), scheme, region, sizes, backend)
    folds, count, minimum, maximum, deviation, volume = statistics.unbind(1)
    return Folding(
        folds=folds.long(),
        fraction=folds / count,
        minimum=minimum,
        maximum=maximum,
        sd_log_jacobian=deviation,
        non_diffeomorphic_volume=volume,
        scheme=scheme,
        region=region,
    )


def check(displacement: Tensor, scheme: str, interior: bool, spacing: Sequence[float]) -> None:
    """Raises unless the arguments fit together."""
    _checks.spacing_of(spacing, _checks.field(displacement, "displacement"))


def _results(displacement: Tensor, *_: Any) -> Tensor:
    """``(N, 6)`` float64: folds, voxels, minimum, maximum, SD of log J, volume turned over."""
    return displacement.new_empty((displacement.shape[0], 6), dtype=torch.float64)


def _serve(backend: str) -> Kernel:
    def serve(displacement: Tensor, scheme: str, region: str, spacing: Sequence[float]) -> Tensor:
        options = scheme, region == "interior", spacing
        if backend == "reference":
            return reference.folding(displacement, *options)
        statistics = _results(displacement)
        tensors: tuple[Tensor, ...] = displacement, statistics
        if backend == "cuda":
            blocks = -(-displacement.shape[2:].numel() // _CUDA_BLOCK_VOXELS)
            shape = (displacement.shape[0], min(max(blocks, 1), _CUDA_BLOCKS), _CUDA_RECORD)
            partial = displacement.new_empty(shape, dtype=torch.float64)
            tensors = displacement, partial, statistics
        call(backend, "folding", displacement, *tensors, *options)
        return statistics

    return serve


FOLDING = REGISTRY["folding"] = Operator(
    "folding(Tensor displacement, str scheme, str region, float[] spacing) -> Tensor",
    check=check,
    results=_results,
    derivative=refused("plasticine.folding is not differentiable", constant=(0,)),
    choices={"scheme": _checks.SCHEMES, "region": _checks.REGIONS},
    autocast=_autocast.single,
    serve={backend: _serve(backend) for backend in backends.BACKENDS},
)
