"""ITK's transforms that SimpleITK reads and writes: composites, fields, B-splines."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.io.itk import LPS, itk_name, simpleitk
from plasticine.transforms.formats.itk_linear import in_space
from plasticine.transforms.places import Grid
from plasticine.transforms.transform import (
    AffineTransform,
    BSplineTransform,
    Chain,
    DisplacementField,
    Transform,
    VelocityField,
    simplified,
)

_CUBIC = 3


def read_composite(path: Path) -> Transform:
    """Reads a file of any transform that SimpleITK opens.

    Args:
        path: ``.h5``, ``.hdf5``, ``.tfm``, ``.txt`` or ``.mat``.

    Returns:
        The transform; of a composite its parts, in the order in which a point goes through them.

    Raises:
        ValueError: It is none, or holds a transform of another kind.
        RuntimeError: SimpleITK is not installed.
    """
    sitk = simpleitk(path)
    return simplified([_of(path, sitk, sitk.ReadTransform(itk_name(path, path)))])


def _of(path: Path, sitk: Any, held: Any) -> Transform:
    kind, ndim = held.GetTransformEnum(), held.GetDimension()
    axes: Literal[2, 3] = 2 if ndim == 2 else 3
    if kind == sitk.sitkComposite:
        whole = sitk.CompositeTransform(held)
        parts = [whole.GetNthTransform(n) for n in range(whole.GetNumberOfTransforms())]
        # ITK begins at the end.
        return Chain(tuple(_of(path, sitk, part) for part in reversed(parts)))
    if kind == sitk.sitkDisplacementField:
        image = sitk.DisplacementFieldTransform(held).GetDisplacementField()
        return _field(sitk, image, ndim)
    if kind == sitk.sitkBSplineTransform:
        spline = sitk.BSplineTransform(held)
        if spline.GetOrder() != _CUBIC:
            raise ValueError(f"{path}: expected cubic splines, got order {spline.GetOrder()}")
        images = [_vectors(sitk, image, ndim) for image in spline.GetCoefficientImages()]
        control = np.zeros((3, *images[0][1].shape), np.float32)
        for axis, (values, _) in enumerate(images):
            control[axis] = values[0] * LPS[axis, axis]
        return BSplineTransform(torch.from_numpy(control), images[0][1], axes)
    if held.IsLinear():
        return AffineTransform(LPS @ in_space(_matrix(held, ndim)) @ LPS, axes)
    raise ValueError(f"{path}: expected a transform that is known, got {held.GetName()}")


def _matrix(held: Any, ndim: int) -> NDArray[np.float64]:
    """What a linear transform does to the origin and to a step along each axis."""
    origin = np.array(held.TransformPoint([0.0] * ndim))
    matrix = np.eye(ndim + 1)
    matrix[:-1, -1] = origin
    for axis, step in enumerate(np.eye(ndim)):
        matrix[:-1, axis] = np.array(held.TransformPoint(step.tolist())) - origin
    return matrix


def _vectors(sitk: Any, image: Any, ndim: int) -> tuple[NDArray[np.float64], Grid]:
    """An image's numbers, ``(C, X, Y, Z)``: vectors along RAS+ axes, or one number each."""
    array = np.asarray(sitk.GetArrayFromImage(image), np.float64)
    if image.GetNumberOfComponentsPerPixel() == 1:
        array = array[..., None]
    array = np.transpose(array, (ndim, *range(ndim - 1, -1, -1)))
    array = array.reshape(*array.shape, *[1] * (3 - ndim))
    if len(array) == ndim:
        whole = np.zeros((3, *array.shape[1:]))
        whole[:ndim] = array
        whole[:2] *= -1
        array = whole
    affine = np.eye(4)
    direction = np.reshape(image.GetDirection(), (ndim, ndim))
    affine[:ndim, :ndim] = direction * image.GetSpacing()
    affine[:ndim, 3] = image.GetOrigin()
    x, y, z = array.shape[1:]
    return array, Grid((x, y, z), LPS @ affine)


def read_vector_image(path: Path) -> DisplacementField:
    """Reads a displacement field in another of ITK's image formats.

    Args:
        path: ``.mha``, ``.mhd``, ``.nrrd`` or ``.nhdr``, in each voxel a vector of as many numbers
            as axes, millimetres along LPS+ axes.

    Raises:
        ValueError: It holds something else.
        RuntimeError: SimpleITK is not installed.
    """
    sitk = simpleitk(path)
    image = sitk.ReadImage(itk_name(path, path))
    ndim, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    if ndim not in (2, 3) or components != ndim:
        raise ValueError(
            f"{path}: expected a displacement field, a vector for each voxel, got {components} "
            f"numbers for each of {ndim} axes"
        )
    return _field(sitk, image, ndim)


def _field(sitk: Any, image: Any, ndim: int) -> DisplacementField:
    vectors, grid = _vectors(sitk, image, ndim)
    if not np.isfinite(vectors).all():
        raise ValueError("the displacement holds NaN or infinite values")
    return DisplacementField.of_vectors(vectors, grid, 2 if ndim == 2 else 3)


def write_vector_image(path: Path, field: DisplacementField) -> None:
    """Writes a displacement field as `read_vector_image` reads it, compressed."""
    sitk = simpleitk(path)
    image = sitk.Cast(_field_image(sitk, field, field.ndim), sitk.sitkVectorFloat32)
    sitk.WriteImage(image, itk_name(path, path), useCompression=True)


def write_composite(path: Path, transform: Transform) -> None:
    """Writes a transform by SimpleITK, its parts as parts of a composite.

    A velocity becomes the displacement that it comes to.

    Args:
        path: ``.h5``, ``.hdf5``, ``.tfm`` or ``.txt``; ``.mat`` of one linear transform.
        transform: Linear transforms, fields and B-splines.

    Raises:
        ValueError: A part is of another kind: an inverse without a closed form.
        RuntimeError: SimpleITK is not installed.
    """
    sitk = simpleitk(path)
    whole = simplified([transform])
    parts = whole.transforms if isinstance(whole, Chain) else (whole,)
    made = [_made(path, sitk, part, whole.ndim) for part in parts]
    held = made[0] if len(made) == 1 else sitk.CompositeTransform(made[::-1])
    sitk.WriteTransform(held, itk_name(path, path))


def _made(path: Path, sitk: Any, part: Transform, ndim: int) -> Any:
    if isinstance(part, VelocityField):
        part = part.displacement_field
    if isinstance(part, AffineTransform):
        matrix = LPS @ part.matrix @ LPS
        affine = sitk.AffineTransform(ndim)
        affine.SetMatrix(matrix[:ndim, :ndim].ravel().tolist())
        affine.SetTranslation(matrix[:ndim, 3].tolist())
        return affine
    if isinstance(part, DisplacementField):
        return sitk.DisplacementFieldTransform(_field_image(sitk, part, ndim))
    if isinstance(part, BSplineTransform):
        control = part.coefficients.double().numpy()
        images = [
            _image(sitk, control[axis : axis + 1] * LPS[axis, axis], part.grid, ndim)
            for axis in range(ndim)
        ]
        return sitk.BSplineTransform(images, _CUBIC)
    raise ValueError(
        f"{path}: ITK's files hold no {type(part).__name__}: write a displacement field (.nii.gz)"
    )


def _field_image(sitk: Any, field: DisplacementField, ndim: int) -> Any:
    """A field as ITK's image of vectors."""
    return _image(sitk, field.vectors.astype(np.float64), field.grid, ndim)


def _image(sitk: Any, values: NDArray[np.float64], grid: Grid, ndim: int) -> Any:
    """Numbers ``(C, X, Y, Z)`` as ITK's image: vectors turned to LPS+, or one number each."""
    is_vector = len(values) > 1
    if is_vector:
        values = values[:ndim] * np.diag(LPS)[:ndim].reshape(-1, *[1] * 3)
    array = values.reshape(*values.shape[: ndim + 1]).transpose(*range(ndim, 0, -1), 0)
    array = np.ascontiguousarray(array if is_vector else array[..., 0])
    image = sitk.GetImageFromArray(array, isVector=is_vector)
    affine = LPS @ grid.affine
    spacing = grid.spacing[:ndim]
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:ndim, 3].tolist())
    image.SetDirection((affine[:ndim, :ndim] / spacing).ravel().tolist())
    return image
