"""What the operators compute, written down in NumPy and float64.

Nothing of the package is used: the backends, the reference among them, are held against this.
Sampling is a product of one matrix per axis, so that ``splat`` is the same matrices transposed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """Where, and with what weights, every voxel of a result reads an image.

    Attributes:
        weights: per axis ``(N, voxels of the result, size of the image)``.
        taps: the same, 1 where a voxel is read, be it with a weight of 0.
        undefined: ``(N, voxels)``, whether the coordinate is NaN.
        size: spatial shape of the result.
    """

    weights: list[Array]
    taps: list[Array]
    undefined: NDArray[np.bool_]
    size: tuple[int, ...]

    def read(self, image: Array, matrices: list[Array] | None = None) -> Array:
        """The image ``(N, C, *spatial)`` at the coordinates, ``(N, C, *size)``."""
        matrices = self.weights if matrices is None else matrices
        axes = "xyz"[: len(matrices)]
        rows = ",".join(f"np{axis}" for axis in axes)
        found = np.einsum(f"nc{axes},{rows}->ncp", image, *matrices, optimize=True)
        return found.reshape(*found.shape[:2], *self.size)

    def add(self, values: Array, matrices: list[Array] | None = None) -> Array:
        """Its transpose: values ``(N, C, *size)`` added up, ``(N, C, *spatial)``."""
        matrices = self.weights if matrices is None else matrices
        axes = "xyz"[: len(matrices)]
        rows = ",".join(f"np{axis}" for axis in axes)
        flat = values.reshape(*values.shape[:2], math.prod(self.size))
        defined = np.where(self.undefined[:, None], 0.0, flat)
        return np.einsum(f"ncp,{rows}->nc{axes}", defined, *matrices, optimize=True)

    def magnitudes(self) -> list[Array]:
        """The weights without their signs: what rounding errors are in proportion to."""
        return [np.abs(matrix) for matrix in self.weights]

    def certain(self) -> list[Array]:
        """1 where a voxel is read with a weight that is not 0."""
        return [(matrix != 0).astype(float) for matrix in self.weights]


def sampling(
    sizes: Sequence[int], coordinates: Array, mode: str = "linear", padding: str = "border"
) -> Sampling:
    """How an image of spatial shape ``sizes`` is read at ``coordinates``, ``(N, d, *size)``."""
    batch, _, *size = coordinates.shape
    flat = coordinates.reshape(batch, len(sizes), math.prod(size))
    pairs = [axis_matrices(flat[:, i], n, mode, padding) for i, n in enumerate(sizes)]
    undefined = np.any([undefined for *_, undefined in pairs], axis=0)
    keep = ~undefined[..., None]
    return Sampling(
        [np.where(keep, weights, 0.0) for weights, *_ in pairs],
        [np.where(keep, taps, 0.0) for _, taps, _ in pairs],
        undefined,
        tuple(size),
    )


def axis_matrices(
    x: Array, size: int, mode: str, padding: str
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """Weights and taps ``(..., size)`` of coordinates on one axis; which of them are NaN."""
    if padding == "zeros" or (padding == "border" and mode == "cubic"):
        x = np.clip(x, -3.0, size + 2.0)  # beyond, nothing changes any more
    else:
        x = padded(x, size, padding)
    undefined = np.isnan(x)
    x = np.where(undefined, 0.0, x)
    base, offsets = (np.rint(x), (0,)) if mode == "nearest" else (np.floor(x), (-1, 0, 1, 2))
    if mode == "linear":
        offsets = (0, 1)
    weights, taps = np.zeros((*x.shape, size)), np.zeros((*x.shape, size))
    for offset in offsets:
        weight = kernel(np.abs(x - base - offset), mode)
        here = padded(base + offset, size, padding)[..., None] == np.arange(size)
        weights += weight[..., None] * here
        taps = np.maximum(taps, here)
    return weights, taps, undefined


def padded(x: Array, size: int, padding: str) -> Array:
    """A coordinate or an index as the boundary rule maps it."""
    last = size - 1
    if padding == "border":
        return np.clip(x, 0, last)
    if padding == "reflection":
        with np.errstate(invalid="ignore"):  # of infinity there is no reflection: NaN
            return last - np.abs(last - np.mod(x, 2 * last)) if last else x * 0
    return x


def kernel(distance: Array, mode: str) -> Array:
    """The weight of a voxel at a distance."""
    s, near = distance, distance < 1
    if mode == "nearest":
        return np.ones_like(s)
    if mode == "linear":
        return np.maximum(0, 1 - s)
    if mode == "bspline":
        return np.where(near, 2 / 3 - s**2 + s**3 / 2, np.maximum(0, 2 - s) ** 3 / 6)
    a = -0.75
    far = np.where(s < 2, a * (s**3 - 5 * s**2 + 8 * s - 4), 0)
    return np.where(near, (a + 2) * s**3 - (a + 3) * s**2 + 1, far)


def coordinates(displacement: Array, affine: Array | None = None) -> Array:
    """``A p + t + u(p)``, ``(N, d, *spatial)``."""
    places = np.indices(displacement.shape[2:], dtype=float)
    if affine is None:
        return places + displacement
    moved = np.einsum("nij,jp->nip", affine[..., :-1], places.reshape(len(places), -1))
    moved = moved + affine[..., -1:]
    return moved.reshape(len(affine), *places.shape) + displacement


def spline_matrix(size: int, padding: str) -> Array:
    """The cubic B-spline of coefficients at the voxels of a line, ``(size, size)``."""
    return axis_matrices(np.arange(size, dtype=float), size, "bspline", padding)[0]


def spline_coefficients(image: Array, padding: str, adjoint: bool = False) -> Array:
    """The coefficients whose spline passes through the image; or the transposed solution."""
    for axis in range(2, image.ndim if image.size else 0):
        matrix = spline_matrix(image.shape[axis], padding)
        lines = np.moveaxis(image, axis, 0)
        solved = np.linalg.solve(matrix.T if adjoint else matrix, lines.reshape(len(matrix), -1))
        image = np.moveaxis(solved.reshape(lines.shape), 0, axis)
    return image


def compose(u: Array, v: Array, padding: str = "border") -> Array:
    """``u(p + v(p)) + v(p)``."""
    found = sampling(u.shape[2:], coordinates(v), "linear", padding)
    return np.where(found.undefined.reshape(len(v), 1, *v.shape[2:]), np.nan, found.read(u)) + v


def exponential(velocity: Array, steps: int, method: str, padding: str) -> Array:
    """Scaling and squaring from one Runge-Kutta step."""

    def at(u: Array) -> Array:
        return sampling(velocity.shape[2:], coordinates(u), "linear", padding).read(velocity)

    h = 0.5**steps
    if method == "euler":
        u = h * velocity
    elif method == "midpoint":
        u = h * at(h / 2 * velocity)
    else:
        second = at(h / 2 * velocity)
        third = at(h / 2 * second)
        u = h / 6 * (velocity + 2 * second + 2 * third + at(h * third))
    for _ in range(steps):
        u = compose(u, u, padding)
    return u


def jacobian_determinant(field: Array, scheme: str, spacing: Sequence[float]) -> Array:
    """``det(I + du/dx)``, ``(N, *spatial)``."""
    return determinant(jacobian_matrix(field, scheme, spacing))


def jacobian_matrix(field: Array, scheme: str, spacing: Sequence[float]) -> list[list[Array]]:
    """``I + du_i/dx_j``, each ``(N, *spatial)``."""
    ndim = field.shape[1]
    return [
        [difference(field[:, i], j + 1, scheme) / spacing[j] + (i == j) for j in range(ndim)]
        for i in range(ndim)
    ]


def difference(values: Array, axis: int, scheme: str) -> Array:
    """The finite difference along an axis of voxels, 0 where it has but one."""
    size = values.shape[axis]
    if size < 2:
        return np.zeros_like(values)
    if scheme == "central":
        return np.gradient(values, axis=axis)
    steps = np.diff(values, axis=axis)
    order = [*range(size - 1), size - 2] if scheme == "forward" else [0, *range(size - 1)]
    return np.take(steps, order, axis)


def determinant(rows: Sequence[Sequence[Array]]) -> Array:
    """By Leibniz' formula, of a matrix of arrays."""
    return sum(sign * product for sign, product in _terms(rows))


def permanent(rows: Sequence[Sequence[Array]]) -> Array:
    """The same terms without their signs: what the determinant's rounding is in proportion to."""
    return sum(np.abs(product) for _, product in _terms(rows))


def _terms(rows: Sequence[Sequence[Array]]) -> Iterator[tuple[float, Array]]:
    for order in itertools.permutations(range(len(rows))):
        sign = np.linalg.det(np.eye(len(rows))[list(order)]).round()
        yield sign, math.prod(rows[i][j] for i, j in enumerate(order))


def non_diffeomorphic_volume(field: Array, spacing: Sequence[float]) -> float:
    """The voxels' volume that ``p + u(p)`` turns over, of one field ``(d, *spatial)``.

    The mean over the two ways to cut a cell into simplices that are mirror images.
    """
    ndim, *sizes = field.shape
    places = field / np.reshape(spacing, (-1, *[1] * ndim)) + np.indices(sizes)
    corners = list(itertools.product((0, 1), repeat=ndim))
    flips = np.eye(ndim, dtype=int)
    simplices = [[corner, *(tuple(np.bitwise_xor(corner, f)) for f in flips)] for corner in corners]
    if ndim == 3:
        simplices += [[c for c in corners if sum(c) % 2 == parity] for parity in (0, 1)]
    total = 0.0
    for cell in np.ndindex(*(n - 1 for n in sizes)):
        for simplex in simplices:
            rest = np.array(simplex, dtype=float)
            moved = np.array([places[(slice(None), *np.add(cell, corner))] for corner in simplex])
            before, after = (np.linalg.det(x[1:] - x[0]) for x in (rest, moved))
            total += max(0.0, -after * np.sign(before)) / math.factorial(ndim)
    return total / 2
