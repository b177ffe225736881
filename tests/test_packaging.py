"""The source distribution, the wheel built from it, and what each carries."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
from command_line import ran

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TOOLS = ("setuptools", "pybind11", "ninja")


def build_unavailable() -> str | None:
    """Why a build cannot run here, or None."""
    if not (ROOT / "setup.py").exists():
        return f"no setup.py in {ROOT}: not a checkout"
    missing = [name for name in TOOLS if importlib.util.find_spec(name) is None]
    if missing:
        return f"build tools missing: {', '.join(missing)}"
    compilers = (os.environ.get("CXX", "").split() or ["c++", "g++", "clang++"])[:3]
    if not any(shutil.which(name) for name in compilers):
        return f"no C++ compiler found (looked for {', '.join(compilers)})"
    return None


REASON = build_unavailable()
pytestmark = pytest.mark.skipif(REASON is not None, reason=str(REASON))


def build(folder: Path, hook: str, output: Path, **environment: str) -> Path:
    """Runs a PEP 517 hook of the project in a folder, without isolation."""
    output.mkdir(parents=True, exist_ok=True)
    script = f"from setuptools import build_meta; print(build_meta.{hook}({str(output)!r}))"
    # Unoptimised: what is packaged is under test here, and compiling it takes most of the time.
    result = ran(sys.executable, "-c", script, folder=folder, CXXFLAGS="-O0", **environment)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
    return output / result.stdout.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources: building must not touch the checkout that other tests import."""
    target = tmp_path_factory.mktemp("checkout") / "plasticine"
    ignored = shutil.ignore_patterns(
        ".*cache", ".git", ".github", ".venv", "build", "dist", "docs", "results", "__pycache__",
        "*.egg-info", "*.so", "_build.json",
    )  # fmt: skip
    shutil.copytree(ROOT, target, ignore=ignored)
    return target


@pytest.fixture(scope="module")
def sdist(checkout: Path) -> Path:
    return build(checkout, "build_sdist", checkout.parent / "sdist", PLASTICINE_CUDA="0")


@pytest.fixture(scope="module")
def unpacked(sdist: Path) -> Path:
    folder = sdist.parent / "unpacked"
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(folder, filter="data")
        else:
            archive.extractall(folder)
    return next(folder.iterdir())


@pytest.fixture(scope="module")
def wheel(unpacked: Path) -> Path:
    """The wheel with native code, built from the unpacked source distribution."""
    return build(unpacked, "build_wheel", unpacked.parents[1] / "wheel", PLASTICINE_CUDA="0")


@pytest.fixture(scope="module")
def wheel_names(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def libraries(names: list[str], module: str) -> list[str]:
    """The compiled files of an extension; its stubs lie beside them."""
    return [n for n in names if n.startswith(f"plasticine/{module}.") and n.endswith(".so")]


def sources(folder: Path, pattern: str) -> set[str]:
    """Files of the repository under a folder, relative to the folder."""
    found = (ROOT / folder).rglob(pattern)
    return {p.relative_to(ROOT / folder).as_posix() for p in found if "__pycache__" not in p.parts}


def test_sdist_carries_every_native_and_triton_source(unpacked: Path) -> None:
    for folder, pattern in (("csrc", "*.*"), ("kernels", "*.py"), ("plasticine", "*.py")):
        expected = sources(Path(folder), pattern)
        assert expected, f"the checkout has no {pattern} in {folder}"
        missing = [name for name in expected if not (unpacked / folder / name).is_file()]
        assert not missing, f"{folder}: not in the sdist: {missing}"


def test_sdist_has_the_version_of_the_source(unpacked: Path) -> None:
    text = (ROOT / "plasticine" / "__init__.py").read_text(encoding="utf-8")
    (version,) = re.findall(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    assert unpacked.name == f"plasticine-{version}"
    assert f"\nVersion: {version}\n" in (unpacked / "PKG-INFO").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(\d\S*)\] - \d{4}-\d\d-\d\d$", changes, re.MULTILINE)[0] == version


def test_wheels_are_asked_for_every_python_that_is_promised() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        settings = tomllib.load(file)
    promised = [
        name.removeprefix("Programming Language :: Python :: ").replace(".", "")
        for name in settings["project"]["classifiers"]
        if name.startswith("Programming Language :: Python :: 3.")
    ]
    wheels = settings["tool"]["cibuildwheel"]
    assert wheels["build"].split() == [f"cp{version}-*" for version in promised]
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
    assert "run: .ci/run\n" in workflow


def test_sdist_holds_nothing_built(unpacked: Path) -> None:
    built = [p for p in unpacked.rglob("*") if p.suffix in {".so", ".o", ".pyc"}]
    assert not built
    assert not list(unpacked.rglob("_build.json"))


def test_wheel_has_kernels_as_a_subpackage_only(wheel_names: list[str]) -> None:
    for name in sources(Path("kernels"), "*.py"):
        assert f"plasticine/kernels/{name}" in wheel_names
    assert {name.split("/")[0] for name in wheel_names if ".dist-info/" not in name} == {
        "plasticine"
    }


def test_wheel_has_every_module_its_data_and_no_cpp_sources(wheel_names: list[str]) -> None:
    expected = set().union(
        *(
            sources(Path("plasticine"), name)
            for name in ("*.py", "*.safetensors", "py.typed", "*.html", "*.css", "*.js")
        ),
        {f"recipes/{name}" for name in sources(Path("plasticine/recipes"), "*.toml")},
    )
    assert not [name for name in expected if f"plasticine/{name}" not in wheel_names]
    assert not [n for n in wheel_names if n.endswith((".cpp", ".cu", ".cuh", ".h"))]


def test_wheel_without_cuda_has_the_native_extension_and_says_why_not_cuda(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        record = json.loads(archive.read("plasticine/_build.json"))
    assert libraries(names, "_native")
    assert not libraries(names, "_cuda")
    assert record["native"]["error"] is None
    assert record["native"]["simd"][0] == "baseline"
    assert "PLASTICINE_CUDA=0" in record["cuda"]["error"]


def test_the_native_extension_of_the_wheel_loads_and_runs_on_every_simd_level(wheel: Path) -> None:
    folder = wheel.parent / "extracted"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    library = next((folder / "plasticine").glob("_native.*.so"))
    # One voxel, half a voxel on from the 2 towards the 4.
    script = f"""
import importlib.util, torch
spec = importlib.util.spec_from_file_location("_native", {str(library)!r})
native = importlib.util.module_from_spec(spec)
spec.loader.exec_module(native)
image, shift = torch.tensor([2.0, 4]).view(1, 1, 1, 2), torch.tensor([0, 0.5]).view(1, 2, 1, 1)
out = torch.tensor([-1.0]).view(1, 1, 1, 1)
native.warp_forward(image, shift, None, out, "linear", "border", 1)
assert out.item() == 3, out
print(native.simd_level())
"""
    for level in ("baseline", "avx2", "avx512"):
        result = ran(sys.executable, "-c", script, folder=folder, PLASTICINE_SIMD=level)
        assert result.returncode == 0, result.stderr
        # The variable lowers the level but never raises it above what the CPU has.
        levels = ["baseline", "avx2", "avx512"]
        assert levels.index(result.stdout.strip()) <= levels.index(level)


def test_a_build_without_native_code_is_pure_and_records_it(checkout: Path, tmp_path: Path) -> None:
    copy = tmp_path / "plasticine"
    shutil.copytree(checkout, copy, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    path = build(copy, "build_wheel", tmp_path / "wheel", PLASTICINE_NATIVE="0")
    with zipfile.ZipFile(path) as archive:
        assert not [n for n in archive.namelist() if n.endswith(".so")]
        record = json.loads(archive.read("plasticine/_build.json"))
    assert "PLASTICINE_NATIVE=0" in record["native"]["error"]


@pytest.fixture
def failing_nvcc(tmp_path: Path) -> str:
    """An nvcc that fails whatever it is asked."""
    path = tmp_path / "nvcc"
    path.write_text("#!/bin/sh\nexit 1\n")
    path.chmod(0o755)
    return str(path)


def test_a_failing_cuda_build_is_recorded_under_auto(
    unpacked: Path, wheel: Path, tmp_path: Path, failing_nvcc: str
) -> None:
    # In the folder of the first wheel, whose objects ninja takes up again.
    path = build(
        unpacked, "build_wheel", tmp_path / "wheel", PLASTICINE_CUDA="auto", CUDACXX=failing_nvcc
    )
    with zipfile.ZipFile(path) as archive:
        assert not libraries(archive.namelist(), "_cuda")
        record = json.loads(archive.read("plasticine/_build.json"))
    assert record["native"]["error"] is None
    assert failing_nvcc in record["cuda"]["error"]


def test_a_failing_cuda_build_fails_the_install_when_asked_for(
    unpacked: Path, wheel: Path, tmp_path: Path, failing_nvcc: str
) -> None:
    with pytest.raises(AssertionError, match=r"plasticine\._cuda could not be built"):
        build(
            unpacked, "build_wheel", tmp_path / "wheel", PLASTICINE_CUDA="1", CUDACXX=failing_nvcc
        )
