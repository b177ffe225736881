"""Arrays as text within a page: quantised, differenced, split into bytes, gzip, base64."""

from __future__ import annotations

import base64
import gzip
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.report.viewer.grid import ShownGrid

#: The length of the error that rounding a displacement leaves, in voxels of either image: less than
#: this.
FIELD_ERROR = 0.02
# Grey levels of an image of other than whole numbers: as many as 12 bits hold.
_LEVELS = 4095
# How finely a Jacobian determinant is told.
_JACOBIAN_STEP = 0.002
# Places that an affine map is fitted to.
_FITTED_PLACES = 100_000


def packed(values: NDArray[Any], *, differenced: bool) -> dict[str, Any]:
    """An array of whole numbers as text, exactly.

    Args:
        values: ``(C, I, P, R)`` or ``(I, P, R)``, of an integer type of 1, 2 or 4 bytes.
        differenced: Whether to write differences along the last three axes, with the signs in the
            lowest bit: short for what is smooth, long for what is noise.

    Returns:
        What the page decodes: ``bits``, ``signed``, ``differenced``, ``shape`` and ``data``.
    """
    bits = 8 * values.dtype.itemsize
    codes = values
    if differenced:
        codes = values.astype(f"i{values.dtype.itemsize}")  # differences wrap around, and back
        for axis in (-3, -2, -1):
            first = np.zeros_like(codes.take([0], axis))
            codes = np.diff(codes, axis=axis, prepend=first)
        codes = (codes << 1) ^ (codes >> (bits - 1))
    little = np.ascontiguousarray(codes).astype(codes.dtype.newbyteorder("<"), copy=False)
    planes = little.view(np.uint8).reshape(-1, values.dtype.itemsize).T
    content = gzip.compress(np.ascontiguousarray(planes).tobytes(), compresslevel=6, mtime=0)
    return {
        "bits": bits,
        "signed": values.dtype.kind == "i",
        "differenced": differenced,
        "shape": list(values.shape),
        "data": base64.b64encode(content).decode("ascii"),
    }


def size_of(embedded: Any) -> int:
    """Characters of the arrays in what the functions of this module give."""
    if isinstance(embedded, dict):
        return sum(size_of(value) for value in embedded.values())
    if isinstance(embedded, list):
        return sum(size_of(value) for value in embedded)
    return len(embedded) if isinstance(embedded, str) else 0


def embedded_image(
    grid: ShownGrid, image: NDArray[Any], window: tuple[float, float], *, levels: int = _LEVELS
) -> dict[str, Any]:
    """An image with the window that it is first shown in.

    Whole numbers of a range that 16 bits hold stay as they are; others are rounded to ``levels``
    steps between the least and the greatest.

    Args:
        grid: Of its file.
        image: ``(X, Y, Z)``.
        window: The intensities that are black and white.
        levels: As many steps.

    Returns:
        Values are ``offset + step * code``.
    """
    turned = grid.turned(image).astype(np.float64)
    low, high = float(turned.min()), float(turned.max())
    whole = bool((turned == np.rint(turned)).all()) and high - low <= max(levels, 255)
    step = 1.0 if whole or high == low else (high - low) / levels
    codes = np.rint((turned - low) / step)
    codes = codes.astype(np.uint8 if codes.max() <= 255 else np.uint16)
    # Neighbours of 8 bits are alike already to gzip.
    return {
        "offset": low,
        "step": step,
        "exact": whole,
        "window": list(window),
        "codes": packed(codes, differenced=False),
    }


def embedded_jacobian(grid: ShownGrid, jacobian: NDArray[Any]) -> dict[str, Any]:
    """det ∇φ, rounded so that what is not positive, or NaN, is not positive still.

    Args:
        grid: Of its file.
        jacobian: ``(X, Y, Z)``.
    """
    turned = grid.turned(jacobian).astype(np.float64)
    codes = np.rint(np.clip(turned / _JACOBIAN_STEP, -32767, 32767))
    codes = np.where(turned > 0, np.maximum(codes, 1), np.minimum(codes, 0))
    codes = np.nan_to_num(codes, nan=0).astype(np.int16)
    return {"offset": 0.0, "step": _JACOBIAN_STEP, "codes": packed(codes, differenced=True)}


def embedded_labels(grid: ShownGrid, labels: NDArray[Any]) -> dict[str, Any]:
    """A label map as indices into its ``labels``, exactly.

    Args:
        grid: Of its file.
        labels: ``(X, Y, Z)``, integers.
    """
    found, indices = np.unique(grid.turned(labels), return_inverse=True)
    indices = indices.reshape([labels.shape[axis] for axis in grid.axes])
    kind = np.uint8 if len(found) <= 256 else np.uint16 if len(found) <= 65536 else np.uint32
    return {"labels": found.tolist(), "codes": packed(indices.astype(kind), differenced=False)}


def embedded_field(
    of: ShownGrid, to: ShownGrid, displacement: NDArray[np.float32], *, every: int = 1
) -> dict[str, Any]:
    """A map from the voxels of one image to places in another, as a map of places on the page.

    It is ``affine(p) + step * code(p)``, in voxels of the other image: what an affine map explains
    is not rounded.

    Args:
        of: The grid of the first image.
        to: That of the other.
        displacement: ``(3, X, Y, Z)`` of the first image and in its voxels; places are compared in
            millimetres.
        every: Only every so many voxels along each axis are kept; the page interpolates.

    Returns:
        ``affine`` (3 rows of 4), ``step``, ``every``, ``codes`` ``(3, I, P, R)`` along x, y and z,
        and ``error``, the greatest that was measured at the voxels, in voxels of either image.
    """
    turned, placed = _on_page(of, to, displacement)
    places = _places(turned.shape[1:])
    affine = _fitted(places, turned, placed)
    left = turned - _applied(affine[:, :3] - placed[:, :3], affine[:, 3] - placed[:, 3], places)
    # Rounding moves each component by half a step at most; voxels of one may be many of the other.
    back = np.asarray(np.linalg.inv(placed[:, :3]), dtype=np.float64)
    stretch = max(1.0, float(np.linalg.norm(back, 2)))
    step = FIELD_ERROR / stretch
    kept = _reaching(left, every)[:, ::every, ::every, ::every]
    codes = np.rint(kept / step)
    codes = codes.astype(np.int16 if np.abs(codes).max() < 32768 else np.int32)
    return {
        "affine": affine.tolist(),
        "step": step,
        "every": every,
        "error": _error(codes * step, left, every, back),
        "codes": packed(codes, differenced=True),
    }


def _on_page(
    of: ShownGrid, to: ShownGrid, displacement: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """φ - H in voxels of the other image, ``(3, I, P, R)``, and H, ``(3, 4)``: the headers' map."""
    to_other = np.linalg.inv(to.affine @ to.to_file()) @ of.affine
    vectors = np.stack([of.turned(component) for component in displacement.astype(np.float64)])
    turned = np.einsum("ij,j...->i...", to_other[:3, :3], vectors)
    return turned, (to_other @ of.to_file())[:3]


def _places(shape: tuple[int, ...]) -> list[NDArray[np.float64]]:
    """x, y and z of the voxels of ``(I, P, R)``, to be broadcast."""
    z, y, x = np.meshgrid(
        *(np.arange(n, dtype=np.float64) for n in shape), indexing="ij", sparse=True
    )
    return [x, y, z]


def _applied(
    linear: NDArray[np.float64], offset: NDArray[np.float64], places: list[NDArray[np.float64]]
) -> NDArray[np.float64]:
    """An affine map of all places."""
    return np.stack(
        [
            sum((a * place for a, place in zip(row, places, strict=True)), start=np.float64(c))
            for row, c in zip(linear, offset, strict=True)
        ]
    )


def _fitted(
    places: list[NDArray[np.float64]], turned: NDArray[np.float64], placed: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The affine map ``(3, 4)`` nearest to the whole; across a single slice the headers'."""
    count = turned[0].size
    chosen = np.arange(0, count, max(1, count // _FITTED_PLACES))
    columns = [np.broadcast_to(place, turned.shape[1:]).reshape(-1)[chosen] for place in places]
    matrix = np.column_stack([*columns, np.ones(len(chosen))])
    found = np.linalg.lstsq(matrix, turned.reshape(3, -1)[:, chosen].T, rcond=None)[0]
    return placed + found.T


def _reaching(left: NDArray[np.float64], every: int) -> NDArray[np.float64]:
    """A field with so many voxels more, going on straight, that the last one kept is no nearer."""
    for axis in (1, 2, 3):
        more = -(left.shape[axis] - 1) % every
        width = [(0, more if other == axis else 0) for other in range(4)]
        if more and left.shape[axis] > more:
            left = np.pad(left, width, "reflect", reflect_type="odd")
        elif more:
            left = np.pad(left, width, "edge")
    return left


def _error(
    kept: NDArray[Any],
    left: NDArray[np.float64],
    every: int,
    back: NDArray[np.float64],
) -> float:
    """How far what the page interpolates lies off at the voxels, at most."""
    for axis in (1, 2, 3) if every > 1 else ():
        kept = _spread(kept, axis, left.shape[axis], every)
    error = kept - left
    own = np.einsum("ij,j...->i...", back, error)
    return float(max(np.linalg.norm(error, axis=0).max(), np.linalg.norm(own, axis=0).max()))


def _spread(kept: NDArray[np.float64], axis: int, size: int, every: int) -> NDArray[np.float64]:
    """Linear interpolation along an axis; the last kept voxel goes on."""
    place = np.minimum(np.arange(size) / every, kept.shape[axis] - 1)
    low = np.minimum(np.floor(place).astype(int), max(kept.shape[axis] - 2, 0))
    high = np.minimum(low + 1, kept.shape[axis] - 1)
    share = (place - low).reshape([-1 if a == axis else 1 for a in range(kept.ndim)])
    spread: NDArray[np.float64] = kept.take(low, axis) * (1 - share) + kept.take(high, axis) * share
    return spread
