"""The benchmarks, cut short; what the report makes of a run; the GPU round, dry."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from command_line import ran

import plasticine

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the tests are not in a source checkout"
)


# Of a pytest of its own, which must not take itself for a worker.
XDIST = "PYTEST_XDIST"


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory) -> Path:
    """The JSON of all benchmarks of ours on a dozen voxels an axis."""
    pytest.importorskip("pytest_benchmark")
    folder = tmp_path_factory.mktemp("benchmarks")
    # From an empty folder, as the checkout's plasticine could hide an installed one.
    command = [sys.executable, "-m", "pytest", str(ROOT / "benchmarks"), "-q", "-rs"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += ["-p", "no:cacheprovider", "--device", "cpu", "--tiny", "--no-peers"]
    command += ["--seconds", "0", "--benchmark-only", "--benchmark-json", str(folder / "run.json")]
    run = ran(*command, folder=folder, without=XDIST)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder / "run.json"


def report(*arguments: object, succeeds: bool = True) -> str:
    """What ``python -m benchmarks.report`` prints."""
    run = ran(sys.executable, "-m", "benchmarks.report", *arguments, folder=ROOT)
    assert (run.returncode == 0) == succeeds, run.stdout + run.stderr
    return run.stdout + run.stderr


def test_every_operator_is_measured(native, tiny_run):
    content = json.loads(tiny_run.read_text())
    assert "node" not in content["machine_info"]
    measured = {entry["extra_info"]["operator"] for entry in content["benchmarks"]}
    within = {
        "jacobian_determinant": "jacobian",
        "mutual_information": "joint_histogram",
        "bending": "smoothness",
    }
    names = {within.get(name, name) for name in measured}
    assert plasticine.ops.REGISTRY.keys() - names == set()
    for entry in content["benchmarks"]:
        information = entry["extra_info"]
        assert information["contender"].startswith("plasticine_cpu")
        assert information["floor_bytes"] > 0
        assert information["share_of_floor"] > 0
        assert information["copy_gb_per_s"] > 0
        if sys.platform == "linux":
            assert information["peak_bytes"] is not None


def test_every_benchmark_file_takes_part(native, tiny_run):
    ran = {
        entry["fullname"].split("::")[0] for entry in json.loads(tiny_run.read_text())["benchmarks"]
    }
    files = {f"benchmarks/{path.name}" for path in (ROOT / "benchmarks").glob("bench_*.py")}
    # The copy is the roof, and nobody's: it is no contender of ours.
    assert ran == files - {"benchmarks/bench_copy.py"}


def test_report_keeps_a_run(native, tiny_run, tmp_path):
    text = report(tiny_run, "--machine", "some-machine", "--root", tmp_path)
    assert "| jacobian_determinant |" in text
    assert "not measured" in text
    kept = tmp_path / "benchmarks" / "results" / "some-machine.json"
    record = json.loads(kept.read_text())
    assert record["machine"] == "some-machine"
    assert record["versions"]["torch"]
    rows = json.loads(tiny_run.read_text())["benchmarks"]
    assert len(record["rows"]) == len(rows)
    assert record["rows"][0]["seconds"] == pytest.approx(rows[0]["stats"]["median"], rel=1e-3)
    assert len(kept.read_text().splitlines()) < len(rows) + 40
    assert report(kept) == text


def row(operator: str, contender: str, milliseconds: float, **others: Any) -> dict[str, Any]:
    """A row of a record, of 128³ float32 forward unless said otherwise."""
    row = {
        "operator": operator,
        "case": "3d-128x128x128-batch-1-float32",
        "direction": "forward",
        "contender": contender,
        "seconds": milliseconds / 1e3,
        "iqr": 1e-5,
        "rounds": 7,
        "dtype": "float32",
        "displacement": "smooth",
        "floor_bytes": 41943040,
        "copy_gb_per_s": 20.0,
        "peak_bytes": 8 << 20,
        **others,
    }
    row["gb_per_s"] = row["floor_bytes"] / row["seconds"] / 1e9
    row["share_of_floor"] = row["gb_per_s"] / row["copy_gb_per_s"]
    return row


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """A checkout's READMEs and a record of what a run might have found."""
    backward = {"direction": "forward_and_backward"}
    batch = {"case": "2d-256x256-batch-16-float32"}
    rows = [
        row("copy", "copy", 1, case="1d-1048576-batch-1-float32", floor_bytes=8 << 20),
        row("copy", "copy", 9, case="1d-33554432-batch-1-float32", floor_bytes=256 << 20),
        row("warp", "grid_sample", 50),
        row("warp", "monai", 80),
        row("warp", "plasticine_cpu", 4),
        row("warp", "plasticine_cpu", 3.9, case="3d-128x128x128-batch-1-float16"),
        row("warp", "plasticine_cpu", 4.2, case="3d-128x128x128-batch-1-bfloat16"),
        row("warp", "grid_sample", 6, **batch),
        row("warp", "plasticine_cpu", 0.8, **batch),
        row("exponential_zeros", "monai", 3000, peak_bytes=800 << 20, **backward),
        row("exponential_zeros", "plasticine_cpu", 200, peak_bytes=160 << 20, **backward),
        row("exponential", "plasticine_cpu", 200, **backward),
        row("exponential", "plasticine_cpu_midpoint", 100, **backward),
        row("jacobian_determinant", "plasticine_cpu", 4.1),
    ]
    (tmp_path / "docs").mkdir()
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for path, name in ((tmp_path, "benchmarks"), (tmp_path / "benchmarks", "targets")):
        text = f"before\n<!-- {name}:begin -->\nold\n<!-- {name}:end -->\nafter\n"
        (path / "README.md").write_text(text)
    kept = results / "some-machine.json"
    kept.write_text(json.dumps({"device": "a processor", "threads": 2, "rows": rows}))
    return kept


def test_report_judges_the_targets(record):
    lines = report(record).splitlines()

    def verdict(start: str) -> list[str]:
        (line,) = [line for line in lines if line.startswith(f"| {start}")]
        return [cell.strip() for cell in line.split("|")[2:-1]]

    assert verdict("`warp` forward, 128³, against") == ["≥ 10.0×", "12.5×", "met"]
    assert verdict("`warp` forward, 16 × 256², against") == ["≥ 10.0×", "7.5×", "**missed** by 25%"]
    assert verdict("`warp` forward + backward, 128³, against")[1:] == ["–", "not measured"]
    assert verdict("`exponential` forward + backward, 128³, peak")[1:] == ["5.0×", "met"]
    assert verdict("midpoint, as exact, against Euler, forward + backward, 128³")[1] == "2.00×"
    assert verdict("half types against float32: `warp` forward, 128³")[1:] == [
        "0.95×",
        "**missed** by 5%",
    ]
    assert verdict("share of the floor: `jacobian_determinant` forward, 128³")[1:] == ["51%", "met"]


def test_report_writes_the_readme_and_the_picture(record):
    root = record.parents[2]
    report(record, "--root", root, "--write-readme")
    readme = (root / "README.md").read_text()
    assert readme.startswith("before\n<!-- benchmarks:begin -->\n")
    assert readme.endswith("<!-- benchmarks:end -->\nafter\n")
    assert "old" not in readme
    assert "**12×** `F.grid_sample`, **20×** MONAI" in readme
    assert "targets are met; [benchmarks/README](benchmarks/README.md#targets)" in readme
    assert "Of the 2 missed, 1 ask half types" in readme
    assert "a processor (2 threads)" in readme
    assert "benchmarks/results/some-machine.json" in readme
    assert "**missed** by 25%" in (root / "benchmarks" / "README.md").read_text()
    assert (root / "docs" / "roofline.png").read_bytes().startswith(b"\x89PNG")
    once = readme
    report(record, "--root", root, "--write-readme")
    assert (root / "README.md").read_text() == once


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a run's JSON, or --run"),
        (["RECORD", "--machine", "Not a name"], "a machine's name is made of"),
        (["RECORD", "--", "--large"], "only with --run are there options for pytest"),
        (["RECORD", "--larger"], "unrecognized arguments"),
    ],
)
def test_report_refuses(record, arguments, message):
    given = [record if argument == "RECORD" else argument for argument in arguments]
    assert message in report(*given, succeeds=False)


def test_report_names_what_it_cannot_read(record):
    record.write_text("{}")
    assert "is neither a run of pytest-benchmark nor a record" in report(record, succeeds=False)


def test_report_needs_its_markers(record):
    root = record.parents[2]
    (root / "README.md").write_text("none")
    text = report(record, "--root", root, "--write-readme", succeeds=False)
    assert "<!-- benchmarks:begin -->" in text


def gpu_row(operator: str, dtype: str, share: float) -> dict[str, Any]:
    case = f"3d-256x256x256-batch-1-{dtype}"
    found = row(operator, "plasticine_cuda", 1, case=case, dtype=dtype)
    return found | {"share_of_floor": share}


def test_half_types_are_not_asked_for_the_floor_of_what_is_integrated_in_float32(record):
    rows = [
        gpu_row(operator, dtype, 0.6)
        for operator in ("exponential", "warp")
        for dtype in ("float32", "bfloat16")
    ]
    record.write_text(json.dumps({"device": "a GPU", "rows": rows}))
    lines = [line for line in report(record).splitlines() if "share of the floor" in line]
    asked = [line for line in lines if "exponential" in line and "256³" in line]
    assert len(asked) == 1
    assert "float32" in asked[0]
    assert sum("`warp` forward, 256³" in line for line in lines) == 2


MEASURE = """
import types
import torch
from benchmarks import device_time

assert device_time.copies_beyond(60 << 20, [torch.empty(1 << 18), torch.empty(1 << 18), 3]) == 60
assert device_time.copies_beyond(60 << 20, [torch.empty(1 << 25)]) == 1
assert device_time.copies_beyond(60 << 20, [3]) == 1
of = lambda **facts: types.SimpleNamespace(**facts)
torch.cuda.get_device_properties = lambda device: of(L2_cache_size=50 << 20)
assert device_time.cache_bytes(torch.device("cuda")) == 50 << 20
torch.cuda.get_device_properties = lambda device: of()
assert device_time.cache_bytes(torch.device("cuda")) == 60 << 20

leaf = torch.rand(4, 3).T.requires_grad_()
(other,) = device_time.copied([leaf])
assert torch.equal(other, leaf) and other.requires_grad and other.is_leaf
assert other.data_ptr() != leaf.data_ptr() and other.stride() == leaf.stride()

# A device that takes 3 ms for a call, and a queue in which every call must wait for a start.
clock, order = [0.0], []
class Event:
    def __init__(self, enable_timing):
        assert enable_timing
    def record(self):
        self.time = clock[0]
    def synchronize(self):
        pass
    def elapsed_time(self, end):
        return 1e3 * (end.time - self.time)
def sleep(cycles):
    clock[0] += cycles
def call(index):
    order.append(index)
    clock[0] += 3e-3
torch.cuda.Event, torch.cuda._sleep = Event, sleep
import functools
found = device_time.event_seconds([functools.partial(call, index) for index in range(150)])
assert abs(found - 3e-3) < 1e-9, found
assert order[:151] == [*range(150), 0] and len(order) >= 150 + device_time.CALLS
"""


def test_device_time_rotates_what_a_cache_would_hold():
    run = ran(sys.executable, "-c", MEASURE, folder=ROOT)
    assert run.returncode == 0, run.stderr


# What a machine that is lent for its GPU has not: all that no operator needs.
ABSENT = ("nibabel", "typer", "rich", "matplotlib", "PIL", "safetensors", "scipy", "SimpleITK")
BLOCK = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""


@pytest.fixture
def without_extras(tmp_path: Path) -> str:
    """A folder on PYTHONPATH where a start of Python finds that these modules are absent."""
    folder = tmp_path / "blocked"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCK)
    return str(folder)


def test_the_operators_tests_need_no_reader_of_files(without_extras):
    """nibabel, the command line's libraries and the like are absent: the tests of operators run."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    command += ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    command += ["-o", "addopts=--import-mode=importlib", "-k", "differences and jacobian"]
    command += [str(ROOT / "tests" / "test_conformance.py"), "--share", "2/2"]
    run = ran(*command, folder=without_extras, without=XDIST, PYTHONPATH=without_extras)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"[1-9] passed", run.stdout), run.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not on PATH")
def test_gpu_round_dry_run(tmp_path, without_extras):
    """As where it is meant to run: a copy without git, no extras, and relative paths."""
    for module in ("pytest_benchmark", "setuptools", "pybind11"):
        pytest.importorskip(module)
    # A copy, so that its build does not meet another one in the checkout.
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("build", ".*", "*.so", "__pycache__", "*.egg-info", "results")
    shutil.copytree(ROOT, copy, ignore=ignored)
    output = tmp_path / "round"
    (tmp_path / "data").mkdir()
    wheel = tmp_path / "wheels" / "a_peer-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    metadata = "a_peer-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("a_peer.py", "")
        archive.writestr(
            f"{metadata}/METADATA", "Metadata-Version: 2.1\nName: a-peer\nVersion: 1.0"
        )
        tag = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any"
        archive.writestr(f"{metadata}/WHEEL", tag)
        archive.writestr(f"{metadata}/RECORD", "")
    run = ran(
        *("bash", "checkout/benchmarks/gpu_round.sh", "--dry-run", "round"),
        folder=tmp_path,
        without=XDIST,
        PYTHON=os.path.relpath(sys.executable, tmp_path),
        PYTHONPATH="blocked",
        PLASTICINE_DATA="data",
        GPU_ROUND_WHEELS="wheels",
        GPU_ROUND_SITE="site",
        GPU_ROUND_PROCESSES="2",
        GPU_ROUND_REVISION="a copy",
        GPU_ROUND_STEPS="tests-* registers benchmark-copy benchmark-warp translation report",
    )
    assert run.returncode == 0, run.stdout + run.stderr
    files = {path.name for path in output.iterdir()}
    assert files == {"round.json", "device.json", "report.md", "results.tar.gz"}
    with tarfile.open(output / "results.tar.gz") as archive:
        archive.extractall(output)

    record = json.loads((output / "round.json").read_text())
    assert record["dry_run"]
    status = {step["step"]: step.get("status", step.get("left_out")) for step in record["steps"]}
    taken = ("install", "wheels", "device", "tests-operators", "tests-on-gpu", "tests-kernels")
    for name in (*taken, "registers", "benchmark-copy", "benchmark-warp", "report"):
        assert status[name] == 0, (name, status)
    assert (tmp_path / "site" / "packages" / "a_peer.py").is_file()
    assert "share 2 of 2" in (output / "tests-operators.log").read_text()
    assert status["benchmark-jacobian"] == "not asked for"
    for name in (
        "sanitizer-memcheck-cuda",
        "sanitizer-racecheck-triton",
        "translation",
        "registration",
        "ncu",
    ):
        assert status[name] == "this is a dry run"
    assert "| warp |" in (output / "report.md").read_text()
    device = json.loads((output / "device.json").read_text())
    assert device["plasticine"]["versions"]["torch"]
    assert device["revision"] == "a copy"

    benchmarks = json.loads((output / "benchmark-warp.json").read_text())
    assert "node" not in benchmarks["machine_info"]
    measured = {entry["extra_info"]["contender"]: entry for entry in benchmarks["benchmarks"]}
    assert "grid_sample" in measured
    for entry in measured.values():
        information = entry["extra_info"]
        assert information["share_of_floor"] > 0
        assert information["floor_bytes"] > 0


def test_gpu_round_leaves_the_clocks_alone():
    """The GPU may be lent: ncu would fix its clocks."""
    text = (ROOT / "benchmarks" / "gpu_round.sh").read_text()
    profiled = [line for line in text.splitlines() if "step ncu ncu" in line]
    assert profiled
    assert all("--clock-control none" in line for line in profiled)


def test_gpu_round_reports_a_failing_step(tmp_path):
    """A step that fails does not stop the round, and is not hidden."""
    broken = tmp_path / "python"
    broken.write_text('#!/bin/sh\n[ "$2" = json.tool ] && exit 0\necho broken; exit 3\n')
    broken.chmod(0o755)
    variables = {"PYTHON": str(broken), "GPU_ROUND_STEPS": "tests-op*"}
    command = ("bash", ROOT / "benchmarks" / "gpu_round.sh", "--dry-run", tmp_path / "round")
    run = ran(*command, folder=tmp_path, without=XDIST, **variables)
    assert run.returncode == 1
    record = json.loads((tmp_path / "round" / "round.json").read_text())
    statuses = {step["step"]: step.get("status") for step in record["steps"]}
    assert statuses["install"] == 3
    assert statuses["tests-operators"] == 3
    assert statuses["benchmark-warp"] is None  # not asked for
    assert "FAILED with status 3" in run.stdout
