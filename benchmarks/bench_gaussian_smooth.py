"""gaussian_smooth of a field, as a registration smooths its steps, beside SciPy, MONAI and ITK."""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import plasticine
from benchmarks.contest import (
    FULL_3D,
    HALF_DTYPES,
    SIZES,
    Case,
    Contender,
    Contest,
    Prepared,
    forward_in_float32,
    in_float32,
    ours,
    peer,
    with_dtypes,
)
from benchmarks.peers import from_sitk, sitk_image
from plasticine import reference

SIGMA = 1.7
RADIUS = round(3 * SIGMA)


def by_convolutions(case: Case, field: Tensor) -> Prepared:
    """PyTorch's own, one for each axis, as most projects write it."""
    weights = torch.tensor([math.exp(-0.5 * (k / SIGMA) ** 2) for k in range(-RADIUS, RADIUS + 1)])
    weights = (weights / weights.sum()).to(field)
    convolve = F.conv3d if case.ndim == 3 else F.conv2d

    def smooth(field: Tensor) -> Tensor:
        channels = field.flatten(0, 1)[:, None]
        for axis in range(case.ndim):
            shape = [1] * case.ndim
            shape[axis] = -1
            pad = [0, 0] * (case.ndim - 1 - axis) + [RADIUS, RADIUS] + [0, 0] * axis
            channels = convolve(F.pad(channels, pad, mode="replicate"), weights.view(1, 1, *shape))
        return channels.view(field.shape)

    return Prepared(smooth)


def monai_filter(case: Case, field: Tensor) -> Prepared:
    """Its layer, whose weights do not quite sum to 1, with zeros outside: another gradient."""
    layer = peer("monai.networks.layers").GaussianFilter(
        case.ndim, SIGMA, truncated=3.0, approx="sampled"
    )
    return Prepared(layer.to(field))


def scipy_filter(case: Case, field: Tensor) -> Prepared:
    """All samples and components in one call, which smooths along no axis of these."""
    smooth = functools.partial(
        peer("scipy.ndimage").gaussian_filter,
        sigma=SIGMA,
        truncate=3.0,
        mode="nearest",
        axes=tuple(range(2, 2 + case.ndim)),
    )
    return Prepared(smooth, (field.numpy(),), torch.from_numpy)


def recursive_filter(case: Case, field: Tensor) -> Prepared:
    """ITK's recursive one, which is not cut off; of single samples."""
    sitk = peer("SimpleITK")
    if case.batch > 1:
        pytest.skip("SimpleITK knows no batch")
    image = sitk.Cast(sitk_image(field), sitk.sitkVectorFloat32)
    return Prepared(
        lambda image: sitk.SmoothingRecursiveGaussian(image, [SIGMA] * case.ndim),
        (image,),
        from_sitk,
    )


def discrete_filter(case: Case, field: Tensor) -> Prepared:
    """ITK's Gaussian of discrete space, of single samples, component by component."""
    sitk = peer("SimpleITK")
    if case.batch > 1:
        pytest.skip("SimpleITK knows no batch")
    images = tuple(sitk.GetImageFromArray(x.numpy()) for x in field[0])

    def smooth(*images: Any) -> list[Any]:
        return [
            sitk.DiscreteGaussian(image, SIGMA**2, 2 * RADIUS + 1, 0.01, False) for image in images
        ]

    def result(images: list[Any]) -> Tensor:
        arrays = [sitk.GetArrayFromImage(image) for image in images]
        return torch.from_numpy(np.stack(arrays))[None]

    return Prepared(smooth, images, result)


CONTEST = Contest(
    "gaussian_smooth",
    inputs=lambda case: (case.field(),),
    expected=functools.partial(reference.gaussian_smooth, sigma=SIGMA),
    floor=lambda ndim, backward: 2 * ndim * (2 if backward else 1),
    cases=(*SIZES, *with_dtypes(FULL_3D, dtypes=HALF_DTYPES)),
    contenders=(
        Contender("torch", by_convolutions, in_float32),
        Contender("monai", monai_filter, forward_in_float32, margin=RADIUS, tolerance=0.01),
        Contender("scipy", scipy_filter, forward_in_float32),
        # Other weights.
        Contender("sitk_recursive", recursive_filter, forward_in_float32, tolerance=0.03),
        Contender("sitk_discrete", discrete_filter, forward_in_float32, tolerance=0.03),
        *ours("gaussian_smooth", functools.partial(plasticine.gaussian_smooth, sigma=SIGMA)),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), CONTEST.entries())
def test_gaussian_smooth(case, direction, contender, run_contest):
    run_contest(CONTEST, case, direction, contender)
