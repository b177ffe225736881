"""The Triton kernels: what they compute, in the interpreter, and that they compile for GPUs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import plasticine.kernels

pytest.importorskip("triton", reason="triton is not installed")

CASES = Path(__file__).with_name("kernel_cases")
# Of a GPU and what is compiled for it: see compile_triton.py.
SELECTIONS = {80: "kernels", 90: "axes", 100: "kernels"}
INSTANCES = sorted(CASES.glob("instances_*.py"))


def in_the_interpreter(share: str) -> None:
    """A share of the conformance suite, and of what only these kernels can show, in a process.

    Triton reads TRITON_INTERPRET when it is imported.
    """
    environment = dict(os.environ, TRITON_INTERPRET="1", PLASTICINE_KERNELS="triton")
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    # The interpreter takes a second a case: some of them, with every operator, dtype and size.
    arguments += ["--most-on-gpu", "8", "--share", share]
    suite = CASES.with_name("test_conformance.py")
    cases = [str(path) for path in (suite, *sorted(CASES.glob("cases_*.py")))]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, *cases],
        env=environment,
        # Not the root: the checkout would hide the installed package there.
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\d passed", run.stdout), run.stdout


# Classes, so that they may run beside each other: see --dist loadscope.
class TestFirstShare:
    def test_in_the_interpreter(self):
        in_the_interpreter("1/2")


class TestSecondShare:
    def test_in_the_interpreter(self):
        in_the_interpreter("2/2")


class TestCompilation:
    @pytest.mark.parametrize("architecture", SELECTIONS)
    def test_compiles_without_spilling(self, architecture):
        """Every kernel in kernel_cases/instances_*.py, for a GPU that is not there.

        For sm_90 the first instance of each kernel in 2D and in 3D, for the others of each kernel,
        in each of its configurations;
        register_report.py compiles all of them for all.
        """
        environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
        run = subprocess.run(
            [
                sys.executable,
                str(CASES / "compile_triton.py"),
                "--architecture",
                str(architecture),
                "--first-of",
                SELECTIONS[architecture],
            ],
            env=environment,
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout + run.stderr
        report = json.loads(run.stdout)
        assert not report["unlaunched"], "kernels that no instances_*.py launches"
        compiled = {row["operator"] for row in report["compiled"]}
        assert compiled == {path.stem.removeprefix("instances_") for path in INSTANCES}
        for row in report["compiled"]:
            # Triton keeps no arrays on the stack: what is there was spilled. Of float64 ptxas
            # may put a register or two aside for one more resident block (sm_80).
            allowed = 8 if "ACC=fp64" in row["instance"] else 0
            assert max(row["spill_stores"], row["spill_loads"], row["stack_bytes"]) <= allowed, row


def test_no_target_is_nested():
    """Triton 3.6, which comes with torch 2.11, cannot take ``(a, b), c = ...`` in a kernel."""
    for path in sorted(Path(plasticine.kernels.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for target in node.targets if isinstance(node, ast.Assign) else ():
                for part in target.elts if isinstance(target, ast.Tuple) else ():
                    assert not isinstance(part, ast.Tuple), f"{path.name}, line {part.lineno}"


def test_configurations_are_tried_where_there_are_voxels_enough():
    from plasticine.kernels import tuning

    classes = [
        tuning.size_class(voxels) for voxels in (1, 1 << 16, 1 << 20, 192 * 160 * 224, 1 << 40)
    ]
    assert classes == [tuning.NOT_TRIED, 1, 2, 2, 3]

    class Kernel:
        arg_names = ("size_class", "BLOCK")

        def __getitem__(self, grid):
            return lambda *arguments, **options: (grid(options), arguments, options)

    with mock.patch.object(tuning.triton, "autotune"):
        tuned = tuning.Tuned(
            Kernel(), (tuning.configuration(4, BLOCK=128), tuning.configuration(8, BLOCK=256))
        )
    grid, arguments, options = tuned[lambda chosen: (chosen["BLOCK"],)](7, size_class=0, MODE="x")
    assert (grid, arguments) == ((128,), (7,))
    assert options["num_warps"] == 4
    assert options["MODE"] == "x"
    assert not tuned.trials.__getitem__.called
    tuned[lambda chosen: (chosen["BLOCK"],)](7, size_class=1)
    assert tuned.trials.__getitem__.called
