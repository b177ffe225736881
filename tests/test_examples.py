"""The examples, each run as its reader would: the loss without and with its line is the same."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
NEEDS = {
    "monai_voxelmorph": "monai",
    "own_training_loop": None,
    "transmorph_layer": None,
    "voxelmorph_train": "voxelmorph",
}

pytestmark = pytest.mark.skipif(not EXAMPLES.is_dir(), reason="not in a source checkout")


@pytest.mark.parametrize("name", sorted(NEEDS))
def test_an_example_has_the_same_loss_with_its_line(name, data_location):
    peer = NEEDS[name]
    if peer is not None and find_spec(peer) is None:
        pytest.skip(f"{peer} is not installed")
    found = subprocess.run(
        [sys.executable, "-W", "ignore", f"{name}.py", "--size", "16", "--steps", "2"],
        cwd=EXAMPLES,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PLASTICINE_DATA": str(data_location)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
    assert "times less time" in found.stdout


def test_a_trace_is_read():
    if find_spec("nilearn") is None:
        pytest.skip("nilearn, whose template it translates, is not installed")
    command = [sys.executable, "-W", "ignore", "translate_and_trace.py", "--steps", "2"]
    found = subprocess.run(
        command, cwd=EXAMPLES, capture_output=True, text=True, timeout=300, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "came from" in found.stdout
    assert " folds in " in found.stdout


def test_two_brains_are_registered(data_location):
    if find_spec("SimpleITK") is None:
        pytest.skip("SimpleITK, which is asked for the same image, is not installed")
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "register_two_brains.py", "--budget", "fast"],
        cwd=EXAMPLES,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PLASTICINE_DATA": str(data_location)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert found.returncode == 0, found.stderr
    assert "\n0 folds in" in found.stdout
    assert "SimpleITK warps to the same: 0.000" in found.stdout


def test_an_example_is_short():
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 80, path.name
