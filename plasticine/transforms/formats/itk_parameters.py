"""What the parameters of ITK's linear transforms mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
_Linear = Callable[[Matrix], tuple[Matrix, Matrix]]


def itk_matrix(kind: str, parameters: Sequence[float], fixed: Sequence[float]) -> Matrix:
    """The map of one transform of ITK: x to M (x - c) + c + t.

    Args:
        kind: As ITK names it in files, such as "Euler3DTransform_double_3_3".
        parameters: M and t, as the kind has them.
        fixed: The fixed parameters: the centre c, of an Euler3DTransform also the order of its
            axes.

    Returns:
        ``(d + 1, d + 1)``, along ITK's LPS+ axes.

    Raises:
        ValueError: The kind is not linear or not known, or has another number of parameters.
    """
    name, ndim = _parts(kind)
    values, centre = np.asarray(parameters, np.float64), np.asarray(fixed, np.float64)
    if name == "IdentityTransform":
        return np.eye(ndim + 1)
    if (name, ndim) not in _KINDS:
        known = ", ".join(sorted({name for name, _ in _KINDS}))
        raise ValueError(f"expected a linear transform of ITK ({known}), got {kind}")
    count, linear = _KINDS[name, ndim]
    if values.size != count or centre.size not in (0, ndim, *((4,) if linear is _euler else ())):
        raise ValueError(
            f"{kind}: expected {count} parameters and {ndim} fixed ones, got {values.size} and "
            f"{centre.size}"
        )
    if centre.size == 4 and centre[3]:
        linear = _euler_zyx
    rotation, translation = linear(values)
    middle = centre[:ndim] if centre.size else np.zeros(ndim)
    matrix = np.eye(ndim + 1)
    matrix[:-1, :-1] = rotation
    matrix[:-1, -1] = translation + middle - rotation @ middle
    return matrix


def _parts(kind: str) -> tuple[str, int]:
    """The name in a kind such as "Euler3DTransform_double_3_3", and how many axes it has."""
    name, *rest = kind.split("_")
    if (
        len(rest) != 3
        or rest[0] not in ("double", "float")
        or rest[1:] not in (["2"] * 2, ["3"] * 2)
    ):
        raise ValueError(
            f"expected a transform of ITK such as AffineTransform_double_3_3, got {kind}"
        )
    return name, int(rest[1])


def _matrix(values: Matrix) -> tuple[Matrix, Matrix]:
    ndim = 2 if values.size == 6 else 3
    return values[:-ndim].reshape(ndim, ndim), values[-ndim:]


def _translation(values: Matrix) -> tuple[Matrix, Matrix]:
    return np.eye(values.size), values


def _scale(values: Matrix) -> tuple[Matrix, Matrix]:
    return np.diag(values), np.zeros(values.size)


def _turn(angle: float) -> Matrix:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _about(axis: int, angle: float) -> Matrix:
    """A rotation about an axis of space, by the right hand."""
    turn = np.eye(3)
    others = [(axis + 1) % 3, (axis + 2) % 3]
    turn[np.ix_(others, others)] = _turn(angle)
    return turn


def _euler_2d(values: Matrix) -> tuple[Matrix, Matrix]:
    return _turn(values[0]), values[1:]


def _similarity_2d(values: Matrix) -> tuple[Matrix, Matrix]:
    return values[0] * _turn(values[1]), values[2:]


def _euler(values: Matrix) -> tuple[Matrix, Matrix]:
    x, y, z = (_about(axis, values[axis]) for axis in range(3))
    return z @ x @ y, values[3:]


def _euler_zyx(values: Matrix) -> tuple[Matrix, Matrix]:
    x, y, z = (_about(axis, values[axis]) for axis in range(3))
    return z @ y @ x, values[3:]


def _of_quaternion(x: float, y: float, z: float, w: float) -> Matrix:
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: Matrix = np.eye(3) + 2 * w * cross + 2 * cross @ cross
    return turn


def _versor(values: Matrix) -> tuple[Matrix, Matrix]:
    """The right part of a unit quaternion, then maybe a translation and a scale."""
    x, y, z = values[:3]
    turn = _of_quaternion(x, y, z, max(0.0, 1 - float(values[:3] @ values[:3])) ** 0.5)
    scale = float(values[6]) if values.size == 7 else 1.0
    return scale * turn, values[3:6] if values.size > 3 else np.zeros(3)


def _quaternion(values: Matrix) -> tuple[Matrix, Matrix]:
    x, y, z, w = values[:4] / np.linalg.norm(values[:4])
    return _of_quaternion(x, y, z, w), values[4:]


# By name and number of axes: how many parameters, and what they are.
_KINDS: dict[tuple[str, int], tuple[int, _Linear]] = {
    ("AffineTransform", 2): (6, _matrix),
    ("AffineTransform", 3): (12, _matrix),
    ("MatrixOffsetTransformBase", 2): (6, _matrix),
    ("MatrixOffsetTransformBase", 3): (12, _matrix),
    ("TranslationTransform", 2): (2, _translation),
    ("TranslationTransform", 3): (3, _translation),
    ("ScaleTransform", 2): (2, _scale),
    ("ScaleTransform", 3): (3, _scale),
    ("Euler2DTransform", 2): (3, _euler_2d),
    ("Rigid2DTransform", 2): (3, _euler_2d),
    ("Similarity2DTransform", 2): (4, _similarity_2d),
    ("Euler3DTransform", 3): (6, _euler),
    ("VersorTransform", 3): (3, _versor),
    ("VersorRigid3DTransform", 3): (6, _versor),
    ("Similarity3DTransform", 3): (7, _versor),
    ("QuaternionRigidTransform", 3): (7, _quaternion),
}
