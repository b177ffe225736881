"""elastix' and transformix' files of parameters, ``TransformParameters.0.txt``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.checks import check_exists
from plasticine.io.itk import LPS
from plasticine.transforms.ends import Ends
from plasticine.transforms.formats.format import Format
from plasticine.transforms.formats.itk_linear import in_space
from plasticine.transforms.formats.itk_parameters import itk_matrix
from plasticine.transforms.places import Grid
from plasticine.transforms.transform import (
    AffineTransform,
    BSplineTransform,
    Chain,
    Transform,
    simplified,
)

_LINE = re.compile(r"^\s*\((\w+)\s+(.*?)\)\s*$")
_WORD = re.compile(r'"([^"]*)"|(\S+)')
_START = 1 << 16
_NONE = "NoInitialTransform"
_INITIAL = ("InitialTransformParameterFileName", "InitialTransformParametersFileName")
_LONGEST_CHAIN = 100
# elastix' names of linear transforms and ITK's, by the number of axes.
_LINEAR = {
    ("TranslationTransform", 2): "TranslationTransform",
    ("TranslationTransform", 3): "TranslationTransform",
    ("EulerTransform", 2): "Euler2DTransform",
    ("EulerTransform", 3): "Euler3DTransform",
    ("SimilarityTransform", 2): "Similarity2DTransform",
    ("SimilarityTransform", 3): "Similarity3DTransform",
    ("AffineTransform", 2): "AffineTransform",
    ("AffineTransform", 3): "AffineTransform",
}
_SPLINES = ("BSplineTransform", "RecursiveBSplineTransform")
Parameters = dict[str, list[str]]


def _recognises(path: Path) -> bool:
    with path.open("rb") as file:
        lines = file.read(_START).decode("latin-1").splitlines()
    return any((found := _LINE.match(line)) and found[1] == "Transform" for line in lines)


def _read(path: Path, ends: Ends, depth: int = 0) -> Transform:
    """A transform and, before it, the ones that it names as its initial transform."""
    if depth == _LONGEST_CHAIN:
        raise ValueError(f"{path}: more than {_LONGEST_CHAIN} initial transforms, one in another")
    parameters = _parameters(path)
    ndim = int(_one(path, parameters, "FixedImageDimension", "3"))
    if ndim not in (2, 3):
        raise ValueError(f"{path}: expected 2 or 3 axes, got {ndim}")
    name = _one(path, parameters, "Transform")
    if name in _SPLINES:
        own: Transform = _spline(path, parameters, ndim)
    elif (name, ndim) in _LINEAR:
        own = _linear(path, parameters, _LINEAR[name, ndim], ndim)
    else:
        known = ", ".join([*dict.fromkeys(name for name, _ in _LINEAR), *_SPLINES])
        raise ValueError(f"{path}: expected one of {known}; got {name}")
    initial = next((parameters[key][0] for key in _INITIAL if parameters.get(key)), _NONE)
    if initial == _NONE:
        return own
    how = _one(path, parameters, "HowToCombineTransforms", "Compose")
    if how != "Compose":
        raise ValueError(f"{path}: expected transforms that are composed, got {how}")
    return simplified([_read(_beside(path, initial), ends, depth + 1), own])


def _parameters(path: Path) -> Parameters:
    found: Parameters = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if (match := _LINE.match(line.split("//")[0])) is not None:
            found[match[1]] = [quoted or bare for quoted, bare in _WORD.findall(match[2])]
    return found


def _one(path: Path, parameters: Parameters, name: str, default: str | None = None) -> str:
    values = parameters.get(name) or ([] if default is None else [default])
    if not values:
        raise ValueError(f"{path}: expected a parameter ({name} ...), got none")
    return values[0]


def _numbers(path: Path, parameters: Parameters, name: str, count: int) -> NDArray[np.float64]:
    values = np.array(parameters.get(name, ()), dtype=np.float64)
    if len(values) != count:
        raise ValueError(f"{path}: expected {count} numbers for {name}, got {len(values)}")
    return values


def _beside(path: Path, name: str) -> Path:
    """The initial transform's file: as it is named, or of that name in the folder of this one."""
    there = path.parent / Path(name)
    found = there if there.exists() else path.parent / Path(name).name
    check_exists(found)
    return found


def _linear(path: Path, parameters: Parameters, kind: str, ndim: int) -> AffineTransform:
    values = np.array(parameters.get("TransformParameters", ()), dtype=np.float64)
    if kind == "TranslationTransform":
        centre = np.zeros(0)
    else:
        centre = _numbers(path, parameters, "CenterOfRotationPoint", ndim)
    if kind == "Euler3DTransform":
        zyx = _one(path, parameters, "ComputeZYX", "false") == "true"
        centre = np.append(centre, float(zyx))
    matrix = itk_matrix(f"{kind}_double_{ndim}_{ndim}", values.tolist(), centre.tolist())
    return AffineTransform(LPS @ in_space(matrix) @ LPS, 2 if ndim == 2 else 3)


def _spline(path: Path, parameters: Parameters, ndim: int) -> BSplineTransform:
    order = int(_one(path, parameters, "BSplineTransformSplineOrder", "3"))
    cyclic = _one(path, parameters, "UseCyclicTransform", "false")
    if order != 3 or cyclic != "false":
        raise ValueError(
            f"{path}: expected cubic splines, not cyclic, got order {order} and cyclic {cyclic}"
        )
    size = [int(n) for n in _numbers(path, parameters, "GridSize", ndim)]
    spacing = _numbers(path, parameters, "GridSpacing", ndim)
    origin = _numbers(path, parameters, "GridOrigin", ndim)
    first = np.array(parameters.get("GridIndex", ["0"] * ndim), dtype=np.float64)
    # By columns.
    direction = np.array(parameters.get("GridDirection", np.eye(ndim).ravel()), dtype=np.float64)
    affine = np.eye(4)
    affine[:ndim, :ndim] = direction.reshape(ndim, ndim).T * spacing
    affine[:ndim, 3] = origin + affine[:ndim, :ndim] @ first
    count = ndim * int(np.prod(size))
    values = _numbers(path, parameters, "TransformParameters", count)
    # The first axis runs fastest.
    control = values.reshape(ndim, *reversed(size)).transpose(0, *range(ndim, 0, -1))
    whole = np.zeros((3, *size, *[1] * (3 - ndim)), np.float32)
    whole[:ndim] = control.reshape(ndim, *whole.shape[1:])
    whole[:2] *= -1
    x, y, z = whole.shape[1:]
    axes: Literal[2, 3] = 2 if ndim == 2 else 3
    return BSplineTransform(torch.from_numpy(whole), Grid((x, y, z), LPS @ affine), axes)


def _write(path: Path, transform: Transform, ends: Ends) -> None:
    """A linear transform, or the control points of a cubic B-spline."""
    whole = simplified([transform])
    if not isinstance(whole, AffineTransform | BSplineTransform):
        what = "several" if isinstance(whole, Chain) else "a field"
        raise ValueError(
            f"{path}: elastix' files hold a linear transform or a B-spline's control points, got "
            f"{what}"
        )
    ndim = whole.ndim
    own = _affine_lines(whole) if isinstance(whole, AffineTransform) else _spline_lines(whole)
    lines = [
        f"// {ends.note}",
        *own,
        f'({_INITIAL[0]} "{_NONE}")',
        '(HowToCombineTransforms "Compose")',
        f"(FixedImageDimension {ndim})",
        f"(MovingImageDimension {ndim})",
        '(FixedInternalImagePixelType "float")',
        '(MovingInternalImagePixelType "float")',
        *_domain(ends.fixed_for(path, "elastix"), ndim),
        '(UseDirectionCosines "true")',
        '(ResampleInterpolator "FinalLinearInterpolator")',
        '(Resampler "DefaultResampler")',
        "(DefaultPixelValue 0)",
        '(ResultImageFormat "nii.gz")',
        '(ResultImagePixelType "float")',
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(name: str, numbers: NDArray[np.float64]) -> str:
    return f"({name} {' '.join(f'{number:.17g}' for number in np.ravel(numbers))})"


def _affine_lines(affine: AffineTransform) -> list[str]:
    ndim = affine.ndim
    matrix = LPS @ affine.matrix @ LPS
    values = np.append(matrix[:ndim, :ndim].ravel(), matrix[:ndim, 3])
    return [
        '(Transform "AffineTransform")',
        f"(NumberOfParameters {len(values)})",
        _row("TransformParameters", values),
        _row("CenterOfRotationPoint", np.zeros(ndim)),
    ]


def _spline_lines(spline: BSplineTransform) -> list[str]:
    ndim = spline.ndim
    control = spline.coefficients[:ndim].double().numpy().copy()
    control[:2] *= -1
    control = control.reshape(ndim, *spline.grid.shape[:ndim])
    values = control.transpose(0, *range(ndim, 0, -1)).ravel()
    return [
        '(Transform "BSplineTransform")',
        f"(NumberOfParameters {len(values)})",
        _row("TransformParameters", values),
        "(BSplineTransformSplineOrder 3)",
        '(UseCyclicTransform "false")',
        *_domain(spline.grid, ndim, "Grid"),
    ]


def _domain(grid: Grid, ndim: int, of: str = "") -> list[str]:
    """Where voxels or control points lie, as elastix has it."""
    affine = (LPS @ grid.affine)[:ndim]
    spacing = grid.spacing[:ndim]
    direction = affine[:, :ndim] / spacing
    return [
        f"({of}Size {' '.join(map(str, grid.shape[:ndim]))})",
        f"({of}Index {' '.join(['0'] * ndim)})",
        _row(f"{of}Spacing", spacing),
        _row(f"{of}Origin", affine[:, 3]),
        _row(f"{of}Direction", direction.T),
    ]


FORMAT = Format(
    name="elastix",
    title="elastix",
    suffixes=(".txt",),
    recognises=_recognises,
    read=_read,
    write=_write,
    holds=("affine", "b-spline"),
)
