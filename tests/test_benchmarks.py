"""The GPU round, in its dry run: every step of the script, on the CPU."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not on PATH")
def test_gpu_round_dry_run(tmp_path):
    for module in ("pytest_benchmark", "setuptools", "pybind11"):
        pytest.importorskip(module)
    # A copy, so that its build does not meet another one in the checkout.
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("build", ".*", "*.so", "__pycache__", "*.egg-info", "results")
    shutil.copytree(ROOT, copy, ignore=ignored)
    output = tmp_path / "round"
    run = subprocess.run(
        ["bash", str(copy / "benchmarks" / "gpu_round.sh"), "--dry-run", str(output)],
        env={**os.environ, "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr

    record = json.loads((output / "round.json").read_text())
    assert record["dry_run"]
    status = {step["step"]: step.get("status", step.get("left_out")) for step in record["steps"]}
    assert status == {
        "install": 0,
        "device": 0,
        "tests": 0,
        "benchmarks": 0,
        "registers": 0,
        "sanitizer": "this is a dry run",
    }
    assert json.loads((output / "device.json").read_text())["plasticine"]["versions"]["torch"]

    benchmarks = json.loads((output / "benchmarks.json").read_text())
    assert "node" not in benchmarks["machine_info"]
    measured = {entry["extra_info"]["contender"]: entry for entry in benchmarks["benchmarks"]}
    assert "grid_sample" in measured
    for entry in measured.values():
        information = entry["extra_info"]
        assert information["share_of_floor"] > 0
        assert information["floor_bytes"] > 0


def test_gpu_round_reports_a_failing_step(tmp_path):
    """A step that fails does not stop the round, and is not hidden."""
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\n[ "$2" = json.tool ] && exit 0\necho broken; exit 3\n')
    broken.chmod(0o755)
    run = subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "gpu_round.sh"), "--dry-run", str(tmp_path / "round")],
        env={**os.environ, "PYTHON": str(broken), "GPU_ROUND_STEPS": "tests"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    record = json.loads((tmp_path / "round" / "round.json").read_text())
    statuses = {step["step"]: step.get("status") for step in record["steps"]}
    assert statuses["install"] == 3
    assert statuses["tests"] == 3
    assert statuses["benchmarks"] is None  # not asked for
    assert "FAILED with status 3" in run.stdout
