"""The CUDA module: that nvcc builds it and what its kernels compute; test_on_gpu.py has the rest.

Without a GPU the kernels are compiled as plain C++ (tests/cuda_emulation) and run on the CPU.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from plasticine import backends
from plasticine.ops import REGISTRY

ROOT = Path(__file__).resolve().parents[1]
CASES = Path(__file__).with_name("kernel_cases")
EMULATION = Path(__file__).with_name("cuda_emulation")

# The build as setup.py does it, for one architecture and without the rest of the package.
BUILD = """
import os, runpy, sys
from pathlib import Path
os.chdir(sys.argv[1])
folder, output = Path(sys.argv[2]), Path(sys.argv[3])
sys.argv = ["setup.py", "--version"]
build_cuda = runpy.run_path("setup.py")["build_cuda"]
print(build_cuda(folder, output, "test"))
"""
# Without a GPU, or with one: the module loads, tells how it was built, and reports CUDA's errors.
LOAD = """
import importlib.machinery, importlib.util, sys, torch
loader = importlib.machinery.ExtensionFileLoader("_cuda", sys.argv[1])
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_cuda", loader))
loader.exec_module(module)
print(sorted(name for name in dir(module) if not name.startswith("_")))
print(module.build_info())
x, u = torch.zeros(1, 1, 4, 4), torch.zeros(1, 2, 4, 4)
try:
    module.warp_forward(x, u, None, x, "linear", "border", 1000, 0)
except RuntimeError as error:
    print("RuntimeError:", error)
print("device_error:", module.device_error(1000))
"""


def run(command: list[str], **environment: str) -> str:
    result = subprocess.run(
        command,
        env={**os.environ, **environment},
        # Not the root: the checkout would hide the installed package there.
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}"
    return result.stdout


def build(folder: Path) -> Path:
    """Builds the module for one architecture, about a minute; skips without the tools."""
    if os.environ.get("CUDACXX") is None and shutil.which("nvcc") is None:
        pytest.skip("nvcc is not on PATH, and CUDACXX is not set")
    output = folder / "_cuda.so"
    arguments = [str(ROOT), str(folder / "build"), str(output)]
    run([sys.executable, "-c", BUILD, *arguments], PLASTICINE_CUDA_ARCHS="90")
    return output


def find_cuobjdump() -> str | None:
    """The tool that lists what a binary holds: CUDA's, or the one that comes with triton."""
    if found := shutil.which("cuobjdump"):
        return found
    try:
        import triton
    except ImportError:
        return None
    bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(bundled) if bundled.is_file() else None


def test_module_holds_the_kernels_and_loads_without_a_gpu(tmp_path):
    """The installed module, or one built here by nvcc."""
    installed = backends.CUDA is not None
    module = Path(backends.CUDA.__file__) if installed else build(tmp_path)
    listing = run([sys.executable, "-c", LOAD, str(module)])
    for operator in set(REGISTRY) - {"splat"}:  # a gradient of warp
        assert re.search(rf"'{operator}(_forward)?'", listing), (operator, listing)
    assert re.search(r"RuntimeError: cuda\w+: cudaError\w+ \(.+\)", listing), listing
    assert re.search(r"device_error: cuda\w+: cudaError\w+ \(.+\)", listing), listing

    # The CUDA runtime is inside: no particular toolkit, and no driver, is needed to load it.
    if shutil.which("ldd"):
        needed = run(["ldd", str(module)])
        assert "libcudart" not in needed
        assert "libcuda." not in needed
        assert "libtorch" not in needed

    cuobjdump = find_cuobjdump()
    if cuobjdump is not None:
        architectures = re.search(r"'architectures': '([\w;]+)'", listing)
        assert architectures, listing
        elf = run([cuobjdump, "--list-elf", str(module)])
        for architecture in architectures[1].split(";"):
            assert elf.count(f"sm_{architecture}.cubin") >= 2  # forward and backward
        assert "ptx" in run([cuobjdump, "--list-ptx", str(module)])


@pytest.fixture(scope="session")
def emulated_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The CUDA sources, unchanged, compiled as C++ against a CUDA runtime that runs on the CPU."""
    pybind11 = pytest.importorskip("pybind11")
    ninja = pytest.importorskip("ninja")
    compiler = os.environ.get("CXX", "c++")
    if sys.platform != "linux" or shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"no C++ compiler for Linux ({compiler})")
    # One build serves all processes of a run in parallel, whose folders share a parent.
    folder = tmp_path_factory.getbasetemp().parent / "cuda_emulation"
    folder.mkdir(exist_ok=True)
    csrc = ROOT / "csrc"
    includes = [csrc, EMULATION, sysconfig.get_path("include"), pybind11.get_include()]
    names = ("VERSION", "NVCC", "CUDA_ARCHS")
    flags = [
        *("-std=c++17", "-O0", "-fPIC", "-fvisibility=hidden", "-w", "-x", "c++"),
        "-U_FORTIFY_SOURCE",  # which refuses to jump from one stack to another
        *(f"-I{include}" for include in includes),
        *(f"'-DPLASTICINE_{name}=\"emulation\"'" for name in names),
    ]
    sources = [csrc / "bindings_cuda.cpp", *sorted(csrc.glob("*/cuda/*.cu"))]
    objects = {source: f"{source.relative_to(csrc).with_suffix('.o')}" for source in sources}
    rules = [
        f"rule compile\n  command = {compiler} {' '.join(flags)} -c $in -o $out",
        f"rule link\n  command = {compiler} -shared $in -o $out",
        *(f"build {name}: compile {source}" for source, name in objects.items()),
        f"build _cuda.so: link {' '.join(objects.values())}",
    ]
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "build.ninja").write_text("\n".join(rules) + "\n")
        run([str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder)])
    return folder / "_cuda.so"


@pytest.mark.parametrize(
    "cases",
    [CASES.with_name("test_conformance.py"), *sorted(CASES.glob("cases_*.py"))],
    ids=lambda path: path.stem,
)
def test_kernels_on_the_cpu(emulated_module, cases):
    """The conformance suite, and what only these kernels can show."""
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    output = run(
        [sys.executable, "-m", "pytest", *arguments, str(cases)],
        PLASTICINE_KERNELS=str(emulated_module),
    )
    assert re.search(r"\d passed", output), output
