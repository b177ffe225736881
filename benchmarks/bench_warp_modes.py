"""warp, nearest, cubic and B-spline, and the spline's prefilter alone."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from torch import Tensor

import plasticine
from benchmarks import peers
from benchmarks.contest import (
    BATCH_2D,
    FULL_3D,
    HALF_DTYPES,
    MEDIUM_3D,
    SINGLE_2D,
    Case,
    Contender,
    Contest,
    Prepared,
    forward_in_float32,
    forward_of_one,
    in_float32,
    ours,
    peer,
    with_dtypes,
    without_long_waits,
)

CASES = (
    SINGLE_2D,
    BATCH_2D,
    MEDIUM_3D,
    FULL_3D,
    *with_dtypes(MEDIUM_3D, dtypes=HALF_DTYPES),
)


def floor(ndim: int, backward: bool) -> float:
    return 2 + ndim + (2 + ndim + ndim + 3 if backward else 0)


def warp(mode: str, padding: str = "border") -> functools.partial[Tensor]:
    return functools.partial(plasticine.warp, mode=mode, padding=padding)


def reference_warp(mode: str, padding: str = "border") -> functools.partial[Tensor]:
    return functools.partial(plasticine.warp, mode=mode, padding=padding, backend="reference")


def almost_everywhere(case: Case, result: Tensor) -> dict[str, float]:
    """A location between two voxels rounds to either, by what normalising it has cost."""
    expected = NEAREST.expectation(case, False)[0]
    differing = (result != expected).double().mean().item()
    assert differing <= 1e-3, f"{differing:.2%} of the voxels differ"
    return {"differing_voxels": differing}


def in_2d(case: Case, direction: str) -> bool:
    return case.ndim == 2 and in_float32(case, direction)


NEAREST = Contest(
    "warp_nearest",
    inputs=lambda case: (case.image(), case.field()),
    expected=reference_warp("nearest"),
    floor=floor,
    cases=CASES,
    contenders=(
        Contender("grid_sample", peers.grid_sample("nearest"), in_float32, check=almost_everywhere),
        *ours("warp", warp("nearest"), check=almost_everywhere),
    ),
    directions=("forward",),
)

CUBIC = Contest(
    "warp_cubic",
    inputs=NEAREST.inputs,
    expected=reference_warp("cubic"),
    floor=floor,
    cases=CASES,
    contenders=(
        Contender("grid_sample", peers.grid_sample("bicubic"), in_2d),
        *ours("warp", warp("cubic")),
    ),
)

# Mirrored about the outermost voxels' centres, as SciPy and torch-interpol can do it too.
BSPLINE = Contest(
    "warp_bspline",
    inputs=NEAREST.inputs,
    expected=reference_warp("bspline", "reflection"),
    floor=lambda ndim, backward: floor(ndim, backward) + (4 if backward else 2) * ndim,
    cases=CASES,
    contenders=(
        Contender(
            "interpol",
            functools.partial(peers.interpol_pull, order=3, bound="dct1"),
            without_long_waits,
        ),
        Contender(
            "scipy",
            functools.partial(peers.scipy_map_coordinates, order=3, mode="mirror"),
            forward_of_one,
        ),
        *ours("warp", warp("bspline", "reflection")),
    ),
)


def interpol_coefficients(case: Case, image: Tensor) -> Prepared:
    coefficients = peer("interpol").spline_coeff_nd
    return Prepared(lambda image: coefficients(image, 3, "dct1", dim=case.ndim))


def scipy_filter(case: Case, image: Tensor) -> Prepared:
    spline_filter = peer("scipy.ndimage").spline_filter

    def run(image: np.ndarray) -> np.ndarray:
        return spline_filter(image, order=3, output=np.float32, mode="mirror")

    return Prepared(run, (image[0, 0].numpy(),), lambda out: torch.from_numpy(out)[None, None])


COEFFICIENTS = Contest(
    "spline_coefficients",
    inputs=lambda case: (case.image(),),
    expected=lambda image: plasticine.spline_coefficients(
        image, padding="reflection", backend="reference"
    ),
    # Read and written along each axis.
    floor=lambda ndim, backward: 2 * ndim * (2 if backward else 1),
    cases=CASES,
    contenders=(
        # Its gradient takes the filter for its own adjoint; with mirrored edges it is not.
        Contender("interpol", interpol_coefficients, forward_in_float32),
        Contender("scipy", scipy_filter, forward_of_one),
        *ours(
            "spline_coefficients",
            lambda image, backend: plasticine.spline_coefficients(
                image, padding="reflection", backend=backend
            ),
        ),
    ),
)


@pytest.mark.parametrize(("case", "direction", "contender"), NEAREST.entries())
def test_warp_nearest(case, direction, contender, run_contest):
    run_contest(NEAREST, case, direction, contender)


@pytest.mark.parametrize(("case", "direction", "contender"), CUBIC.entries())
def test_warp_cubic(case, direction, contender, run_contest):
    run_contest(CUBIC, case, direction, contender)


@pytest.mark.parametrize(("case", "direction", "contender"), BSPLINE.entries())
def test_warp_bspline(case, direction, contender, run_contest):
    run_contest(BSPLINE, case, direction, contender)


@pytest.mark.parametrize(("case", "direction", "contender"), COEFFICIENTS.entries())
def test_spline_coefficients(case, direction, contender, run_contest):
    run_contest(COEFFICIENTS, case, direction, contender)
