"""ITK's files of linear transforms: text (``.tfm``, ``.txt``) and MATLAB 4 (``.mat``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from plasticine.io.checks import check_affine, check_exists, named_errors
from plasticine.transforms.formats.itk_parameters import itk_matrix
from plasticine.transforms.formats.matlab import read_matlab

_FIRST_LINE = "#Insight Transform File V1.0"


def is_itk_text(path: Path) -> bool:
    """Whether a file begins as ITK's text files of transforms do."""
    with path.open("rb") as file:
        return file.read(len(_FIRST_LINE)) == _FIRST_LINE.encode()


def read_itk_transform(path: Path) -> NDArray[np.float64]:
    """Reads a linear transform that ITK, SimpleITK or ANTs wrote.

    Args:
        path: Text that begins with ``#Insight Transform File V1.0``, or a MATLAB 4 file such as
            ``0GenericAffine.mat``: affine, Euler, versor, similarity, translation and scale
            transforms, about any centre, or a composite of these.

    Returns:
        ``(d + 1, d + 1)``, from points of the fixed image to points of the moving one, in
        millimetres along ITK's LPS+ axes.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is none, is damaged, holds another kind of transform or several that are not
            one composite, or cannot be inverted.
    """
    check_exists(path)
    with named_errors(path):
        if path.suffix.lower() == ".mat":
            held = _of_arrays(read_matlab(path))
        else:
            held = _of_text(path.read_text(encoding="utf-8", errors="replace"))
    begin = first_part(path, [kind for kind, _, _ in held])
    try:
        matrices = [itk_matrix(*transform) for transform in held[begin:]]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    # A composite applies the last one first.
    matrix = np.linalg.multi_dot(matrices) if len(matrices) > 1 else matrices[0]
    check_affine(path, in_space(matrix))
    return matrix


def first_part(path: Path, kinds: Sequence[str]) -> int:
    """Which transform of a file is the first that counts: of a composite the one after it.

    Raises:
        ValueError: There is none, or several that are not one composite.
    """
    composite = bool(kinds) and kinds[0].startswith("CompositeTransform")
    parts = len(kinds) - composite
    if not parts or (parts > 1 and not composite):
        held = ", ".join(kinds) or "none"
        raise ValueError(f"{path}: expected one transform or a composite, got {held}")
    return int(composite)


def in_space(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map of a plane, ``(3, 3)``, as one of space that leaves the third axis alone."""
    if len(matrix) == 4:
        return matrix
    whole = np.eye(4)
    whole[np.ix_([0, 1, 3], [0, 1, 3])] = matrix
    return whole


def write_itk_affine(path: Path, matrix: NDArray[np.float64], *, comment: str = "") -> None:
    """Writes an affine map as ITK reads it: text, an AffineTransform about the origin.

    Args:
        path: ``.tfm`` or ``.txt``.
        matrix: ``(d + 1, d + 1)`` with 2 or 3 axes, from points of the fixed image to points of the
            moving one, in millimetres along ITK's LPS+ axes.
        comment: What the file says of itself.

    Raises:
        OSError: The file cannot be written.
    """
    ndim = len(matrix) - 1
    numbers = [*matrix[:-1, :-1].ravel(), *matrix[:-1, -1]]
    lines = [
        _FIRST_LINE,
        # On this line, which all readers pass over: nitransforms takes no other comment.
        f"#Transform 0 {' '.join(comment.split())}".rstrip(),
        f"Transform: AffineTransform_double_{ndim}_{ndim}",
        f"Parameters: {' '.join(f'{number:.17g}' for number in numbers)}",
        f"FixedParameters: {' '.join(['0'] * ndim)}",
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


_Held = tuple[str, list[float], list[float]]


def _of_arrays(arrays: list[tuple[str, NDArray[np.float64]]]) -> list[_Held]:
    """Kind, parameters and fixed parameters of each transform of a MATLAB file."""
    names = [name for name, _ in arrays]
    if len(arrays) % 2 or set(names[1::2]) - {"fixed"}:
        raise ValueError(f"expected each transform's parameters and then 'fixed'; got {names}")
    return [
        (kind, parameters.tolist(), fixed.tolist())
        for (kind, parameters), (_, fixed) in zip(arrays[::2], arrays[1::2], strict=True)
    ]


def _of_text(text: str) -> list[_Held]:
    """Likewise of a text file."""
    first, *lines = text.splitlines() or [""]
    if first.strip() != _FIRST_LINE:
        raise ValueError(f"expected the first line {_FIRST_LINE!r}, got {first[:60]!r}")
    held: list[_Held] = []
    for line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        word, colon, value = line.partition(":")
        if word == "Transform" and colon:
            held.append((value.strip(), [], []))
        elif word in ("Parameters", "FixedParameters") and colon and held:
            _, parameters, fixed = held[-1]
            numbers = parameters if word == "Parameters" else fixed
            numbers.extend(float(number) for number in value.split())
        else:
            raise ValueError(f"expected a transform and its parameters, got the line {line[:60]!r}")
    return held
