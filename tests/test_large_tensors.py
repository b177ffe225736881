"""Tensors that span more than 2**31 elements: every offset is counted in 64 bits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import plasticine


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_more_voxels_than_32_bits_count(native, mode):
    """A field of one voxel repeated along both axes, composed and warped where 5 voxels look."""
    many = torch.full((1, 2, 1, 1), 0.25, dtype=torch.float64).expand(1, 2, 2**17, 2**17)
    few = torch.full((1, 2, 1, 5), 2.0**16, dtype=torch.float64, requires_grad=True)
    moved = plasticine.warp(many, few, mode=mode, padding="zeros", backend="cpu")
    assert torch.equal(moved, torch.full_like(moved, 0.25))
    composed = plasticine.compose(many, few, padding="zeros", backend="cpu")
    assert torch.equal(composed, few + 0.25)
    (gradient,) = torch.autograd.grad(composed.sum(), few)
    assert torch.equal(gradient, torch.ones_like(few))


@pytest.mark.parametrize(
    ("backend", "selection"),
    # In float32 the reference counts a spline's taps in coordinates, which skip every other voxel.
    [("cpu", ""), ("reference", "not bspline")],
)
def test_an_axis_whose_last_voxel_float32_rounds_up(backend, selection):
    """The cases that the GPU kernels are tested by, without a GPU."""
    if backend == "cpu" and plasticine.backends.NATIVE is None:
        pytest.skip(str(plasticine.backends.NATIVE_ERROR))
    cases = Path(__file__).with_name("kernel_cases") / "cases_long_axis.py"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-o", "addopts=--import-mode=importlib", "-k", selection, str(cases)]
    run = subprocess.run(
        command,
        env=os.environ | {"PLASTICINE_KERNELS": backend},
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
