"""Files of transforms: which format one is of, and what it maps."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_exists
from plasticine.io.displacement import read_displacement
from plasticine.io.itk_transform import is_itk_transform, read_itk_transform
from plasticine.io.matrix import read_matrix

_FIELDS = (".nii", ".nii.gz")


@dataclasses.dataclass(frozen=True)
class AffineTransform:
    """A linear map from points of a fixed image to points of a moving one.

    Attributes:
        matrix: ``(4, 4)``, or ``(3, 3)`` of a plane; millimetres.
        axes: "ras" of NIfTI, "lps" of ITK.
    """

    matrix: NDArray[np.float64]
    axes: Literal["ras", "lps"]


@dataclasses.dataclass(frozen=True)
class DisplacementField:
    """A dense map: a point x of a fixed image goes to x + field(x) in a moving one.

    Attributes:
        displacement: ``(3, X, Y, Z)``, voxels, component i along axis i.
        affine: ``(4, 4)``, voxel index to millimetres (RAS+).
    """

    displacement: NDArray[np.float32]
    affine: NDArray[np.float64]


def read_transform(path: Path) -> AffineTransform | DisplacementField:
    """Reads a transform of any format that is known.

    Args:
        path: ``.nii`` or ``.nii.gz``, a displacement field of ours, ITK, ANTs or FreeSurfer; else
            what ITK and ANTs write of linear transforms (``.tfm``, ``.txt``, ``.mat``); else four
            rows of four numbers, as picsl-greedy and c3d write them.

    Returns:
        What it holds.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none of these, or damaged.
        TypeError: A field's elements are no real numbers.
    """
    check_exists(path)
    if path.name.lower().endswith(_FIELDS):
        field, affine = read_displacement(path)
        if len(field) == 2:
            # Of a plane: nothing across it.
            field = np.concatenate([field, np.zeros_like(field[:1])])[..., None]
        return DisplacementField(field, affine)
    with path.open("rb") as file:
        start = file.read(512)
    if path.suffix.lower() == ".mat" and start.lstrip()[:1] in b"+-.0123456789":
        raise ValueError(
            f"{path}: holds text, as matrices of picsl-greedy and of FSL do, which mean other "
            "things: name greedy's .txt"
        )
    if path.suffix.lower() != ".mat" and b"\0" in start:
        raise ValueError(
            f"{path}: expected a transform in .tfm, .txt, .mat, .nii or .nii.gz, got another format"
        )
    if is_itk_transform(path):
        return AffineTransform(read_itk_transform(path), "lps")
    return AffineTransform(read_matrix(path), "ras")
