"""Registrations by other projects, each by the settings that its documentation gives.

Every one takes two heads and returns φ - id on the fixed image's grid, in millimetres along
right-anterior-superior axes, (3, *fixed spatial). All run on one thread.
"""

from __future__ import annotations

import os

# Before ITK is loaded, which looks once.
os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"

import tempfile
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
from numpy.typing import NDArray

from benchmarks.registration.heads import Head

Field = NDArray[np.float64]
Registration = Callable[[Head, Head], Field]

# Between millimetres of NIfTI and of ITK, whose first two axes point the other way.
_FLIP = np.diag([-1.0, -1.0, 1.0, 1.0])


def places(head: Head) -> Field:
    """Where the voxels lie: (3, *spatial) millimetres."""
    voxels = np.indices(head.image.shape[2:], dtype=np.float64)
    return np.einsum("ij,j...->i...", head.affine[:3, :3], voxels) + head.affine[:3, 3].reshape(
        3, 1, 1, 1
    )


def _of_matrix(matrix: NDArray[np.float64], fixed: Head) -> Field:
    """The field of a map of millimetres to millimetres, (4, 4)."""
    at = places(fixed)
    moved = np.einsum("ij,j...->i...", matrix[:3, :3], at) + matrix[:3, 3].reshape(3, 1, 1, 1)
    return moved - at


def _of_itk_file(path: str) -> Field:
    """A displacement file of ITK: (*spatial, 1, 3)."""
    field = np.asarray(nibabel.load(path).dataobj, dtype=np.float64)[..., 0, :]
    return np.moveaxis(field * [-1, -1, 1], -1, 0)


def identity(moving: Head, fixed: Head) -> Field:
    """As the headers place them."""
    return np.zeros((3, *fixed.image.shape[2:]))


def simpleitk_affine(moving: Head, fixed: Head) -> Field:
    """Mutual information by gradient descent, from the images' centres."""
    import SimpleITK as sitk  # noqa: N813 (its users' name for it)

    images = [sitk.ReadImage(str(head.path), sitk.sitkFloat32) for head in (fixed, moving)]
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(numberOfHistogramBins=50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.2, seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescent(1.0, 100, 1e-6, 10)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([2, 1, 0])
    start = sitk.CenteredTransformInitializer(
        *images, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    method.SetInitialTransform(start, inPlace=True)
    method.Execute(*images)
    linear = np.array(start.GetMatrix()).reshape(3, 3)
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    centre = np.array(start.GetFixedParameters()[:3])
    matrix[:3, 3] = np.array(start.GetTranslation()) + centre - linear @ centre
    return _of_matrix(_FLIP @ matrix @ _FLIP, fixed)


def _ants(kind: str) -> Registration:
    def register(moving: Head, fixed: Head) -> Field:
        import ants

        images = [ants.image_read(str(head.path)) for head in (fixed, moving)]
        start = None
        if kind == "SyNOnly":
            affine = ants.registration(*images, "Affine", random_seed=1)
            start = affine["fwdtransforms"][0]
        found = ants.registration(*images, kind, initial_transform=start, random_seed=1)
        with tempfile.TemporaryDirectory() as folder:
            path = ants.apply_transforms(*images, found["fwdtransforms"], compose=f"{folder}/")
            field = _of_itk_file(path)
        for name in (*found["fwdtransforms"], *found["invtransforms"]):
            Path(name).unlink(missing_ok=True)
        return field

    register.__doc__ = f"antspyx, type_of_transform={kind!r}."
    return register


def _greedy(
    *, affine_only: bool = False, velocity: bool = False, metric: str = "NCC 2x2x2"
) -> Registration:
    metric = f"-m {metric} -n 100x50x10"

    def register(moving: Head, fixed: Head) -> Field:
        from picsl_greedy import Greedy3D

        greedy = Greedy3D()
        with tempfile.TemporaryDirectory() as folder:
            matrix, field, both = (f"{folder}/{name}" for name in ("a.mat", "u.nii", "b.nii"))
            images = f"-d 3 -threads 1 -V 0 -i {fixed.path} {moving.path}"
            greedy.execute(f"{images} -a -dof 12 -ia-image-centers {metric} -o {matrix}")
            if affine_only:
                return _of_matrix(np.loadtxt(matrix), fixed)
            kind = "-sv" if velocity else ""
            greedy.execute(f"{images} -it {matrix} {metric} {kind} -o {field}")
            greedy.execute(f"-d 3 -threads 1 -V 0 -rf {fixed.path} -rc {both} -r {field} {matrix}")
            return _of_itk_file(both)

    register.__doc__ = f"picsl-greedy, affine and then {metric}, by the settings of its guide."
    return register


def elastix_bspline(moving: Head, fixed: Head) -> Field:
    """itk-elastix: its default translation, affine and B-spline, one after the other."""
    import itk

    itk.MultiThreaderBase.SetGlobalMaximumNumberOfThreads(1)
    images = [itk.imread(str(head.path), itk.F) for head in (fixed, moving)]
    settings = itk.ParameterObject.New()
    for name in ("translation", "affine", "bspline"):
        settings.AddParameterMap(itk.ParameterObject.GetDefaultParameterMap(name))
    _, found = itk.elastix_registration_method(
        *images, parameter_object=settings, number_of_threads=1, log_to_console=False
    )
    with tempfile.TemporaryDirectory() as folder:
        # It writes the field, too: to the working folder, if it is not told where.
        moved = itk.transformix_deformation_field(images[1], found, output_directory=folder)
        field = itk.array_from_image(moved)
    return np.moveaxis(field.astype(np.float64) * [-1, -1, 1], -1, 0).transpose(0, 3, 2, 1)


def dipy_syn(moving: Head, fixed: Head) -> Field:
    """dipy: centres, translation, rigid and affine by mutual information; SyN by correlation."""
    from dipy.align import affine_registration
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    arrays = [head.image[0, 0].double().numpy() for head in (fixed, moving)]
    grids = {"static_affine": fixed.affine, "moving_affine": moving.affine}
    _, affine = affine_registration(
        arrays[1], arrays[0], **grids, pipeline=["center_of_mass", "translation", "rigid", "affine"]
    )
    syn = SymmetricDiffeomorphicRegistration(CCMetric(3), level_iters=[10, 10, 5])
    mapping = syn.optimize(
        *arrays, static_grid2world=fixed.affine, moving_grid2world=moving.affine, prealign=affine
    )
    at = places(fixed)
    moved = mapping.transform_points(at.reshape(3, -1).T)
    return moved.T.reshape(at.shape) - at


def _convexadam(start_metric: str = "NCC 2x2x2") -> Registration:
    """convexAdam's MIND, from picsl-greedy's affine map: it takes images that are aligned."""
    affine = _greedy(affine_only=True, metric=start_metric)

    def register(moving: Head, fixed: Head) -> Field:
        return _convexadam_from(affine(moving, fixed), moving, fixed)

    register.__doc__ = _convexadam.__doc__
    return register


def _convexadam_from(start: Field, moving: Head, fixed: Head) -> Field:
    import torch
    from convexAdam.convex_adam_MIND import convex_adam_pt

    import plasticine

    offset = torch.from_numpy(in_moving_voxels(start, moving, fixed)).float()[None]
    aligned = plasticine.warp(moving.image, offset, padding="border")
    found = convex_adam_pt(fixed.image[0, 0], aligned[0, 0], device=torch.device("cpu"))
    u = torch.from_numpy(np.moveaxis(np.asarray(found, np.float32), -1, 0))[None]
    # φ = A∘(id + u): the affine field where u leads to, and the way there.
    linear = fixed.affine[:3, :3]
    there = plasticine.warp(torch.from_numpy(start).float()[None], u, padding="border")[0]
    return there.double().numpy() + np.einsum("ij,j...->i...", linear, u[0].double().numpy())


def in_moving_voxels(field: Field, moving: Head, fixed: Head) -> Field:
    """Where φ leads to, in voxels of the moving image, less the fixed voxel's index."""
    at = places(fixed) + field
    back = np.linalg.inv(moving.affine)
    moved = np.einsum("ij,j...->i...", back[:3, :3], at) + back[:3, 3].reshape(3, 1, 1, 1)
    return moved - np.indices(field.shape[1:])


PEERS: dict[str, Registration] = {
    "identity": identity,
    "SimpleITK affine": simpleitk_affine,
    "picsl-greedy affine": _greedy(affine_only=True),
    "picsl-greedy": _greedy(),
    "picsl-greedy SVF": _greedy(velocity=True),
    "antspyx SyN": _ants("SyN"),
    "antspyx SyNOnly, from its affine": _ants("SyNOnly"),
    "itk-elastix B-spline": elastix_bspline,
    "convexadam, from picsl-greedy's affine": _convexadam(),
    "dipy SyN": dipy_syn,
    "antspyx SyNCC": _ants("SyNCC"),
}

# Of two modalities: mutual information; ANTs' SyN takes it by default.
MULTIMODAL: dict[str, Registration] = {
    "picsl-greedy affine, NMI": _greedy(affine_only=True, metric="NMI"),
    "picsl-greedy, NMI": _greedy(metric="NMI"),
    "antspyx SyN": _ants("SyN"),
    "convexadam, from picsl-greedy's affine by NMI": _convexadam("NMI"),
}
