"""Builds plasticine: the Python package, and its native extensions with ninja.

`plasticine._native` (C++, CPU) is always built; a failure fails the install, with the compiler's
message. `PLASTICINE_NATIVE=0` installs without it, and without `_cuda`: the operators then run on
their PyTorch reference, many times slower.

`plasticine._cuda` is built where nvcc is found:

- `PLASTICINE_CUDA=auto` (default): a missing nvcc or a failing build is recorded, not fatal.
- `PLASTICINE_CUDA=1`: it must build. `PLASTICINE_CUDA=0`: it is left out.
- `PLASTICINE_CUDA_ARCHS="80;90;100"`: the architectures to compile for; the newest is also kept as
  PTX, for GPUs to come. Without it, those of the default list that this nvcc knows.

nvcc is looked for in `CUDACXX`, `CUDA_HOME`, `CUDA_PATH`, PATH and /usr/local/cuda. `CXX`,
`CXXFLAGS` and `LDFLAGS` are honoured, `MAX_JOBS` limits the parallel compilations. What was built,
how, and why something was not, is written to `plasticine/_build.json`, which `plasticine.info()`
reports. No torch header is used: the build needs neither torch nor a GPU.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
DEFAULT_CUDA_ARCHS = ("80", "90", "100")

# NaN must survive, so no -ffast-math; but neither errno nor the floating-point exception flags are
# read, and giving them up is what lets loops vectorise.
COMMON_FLAGS = (
    "-std=c++17 -O3 -fPIC -fvisibility=hidden -Wall -Wextra -fno-math-errno -fno-trapping-math"
).split()

# Compiled once for each of these in addition to the baseline, and chosen at run time.
SIMD_FLAGS = {
    "avx2": "-mavx2 -mfma -mf16c".split(),
    "avx512": (
        "-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx2 -mfma -mf16c -mprefer-vector-width=512"
    ).split(),
}


class BuildFailedError(RuntimeError):
    """An extension could not be built; the message says why."""


def setting(name: str, default: str, allowed: tuple[str, ...]) -> str:
    """Reads an environment variable that takes one of a few values."""
    value = os.environ.get(name, default)
    if value not in allowed:
        raise SystemExit(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
    return value


NATIVE = setting("PLASTICINE_NATIVE", "1", ("0", "1")) == "1"
CUDA = setting("PLASTICINE_CUDA", "auto", ("auto", "0", "1")) if NATIVE else "0"


def relative(paths: list[Path]) -> list[str]:
    """Paths relative to the root, sorted: setuptools refuses absolute sources."""
    return sorted(path.relative_to(ROOT).as_posix() for path in paths)


# The folder of a source says how it is compiled: csrc/<operator>/cpu once, rows once for each
# instruction set, cuda with nvcc. Headers are named from csrc.
CSRC = ROOT / "csrc"
ROW_SOURCES = relative(list(CSRC.glob("*/rows/*.cpp")))
CPU_SOURCES = relative([CSRC / "bindings.cpp", *CSRC.glob("*/cpu/*.cpp")])
CUDA_SOURCES = relative([*CSRC.glob("bindings_cuda.cpp"), *CSRC.glob("*/cuda/*.cu")])


def object_name(source: str, suffix: str = "") -> str:
    """Where a source's object goes, in folders as the source's."""
    return f"{Path(source).with_suffix('')}{suffix}.o"


def find_compiler() -> list[str]:
    """The C++ compiler's command, as a list."""
    if os.name == "nt":
        raise BuildFailedError("the native code is built with g++ or clang++; on Windows use WSL")
    if os.environ.get("CXX"):
        return os.environ["CXX"].split()
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    raise BuildFailedError(
        "no C++ compiler found (looked for $CXX, c++, g++, clang++ on PATH); install one, or set "
        "PLASTICINE_NATIVE=0 to install without native code"
    )


def find_ninja() -> str:
    """The ninja executable: the Python package's own, or the one on PATH."""
    try:
        import ninja

        candidate = Path(ninja.BIN_DIR) / "ninja"
        if candidate.exists():
            return str(candidate)
    except ImportError:
        pass
    if path := shutil.which("ninja"):
        return path
    raise BuildFailedError("ninja not found; install it with `pip install ninja`")


def find_nvcc() -> str:
    """The nvcc executable."""
    candidates = [os.environ.get("CUDACXX")]
    candidates += [
        os.path.join(os.environ[name], "bin", "nvcc")
        for name in ("CUDA_HOME", "CUDA_PATH")
        if os.environ.get(name)
    ]
    candidates += ["nvcc", "/usr/local/cuda/bin/nvcc"]
    for candidate in candidates:
        if candidate and (path := shutil.which(candidate)):
            return path
    raise BuildFailedError("nvcc not found ($CUDACXX, $CUDA_HOME, $CUDA_PATH, PATH)")


def accepts(
    compiler: list[str], flags: list[str], source: str = "int main() { return 0; }"
) -> bool:
    """Whether the compiler builds and links a small program with these flags."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.cpp"
        path.write_text(source)
        command = [*compiler, *flags, str(path), "-o", str(Path(folder) / "probe")]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0


def find_openmp(compiler: list[str]) -> tuple[list[str], list[str]]:
    """Compile and link flags for OpenMP; empty where it is not to be had, as with Apple's clang."""
    source = "#include <omp.h>\nint main() { return omp_get_max_threads() > 0 ? 0 : 1; }"
    if accepts(compiler, ["-fopenmp"], source):
        return ["-fopenmp"], ["-fopenmp"]
    return [], []


def simd_variants(compiler: list[str]) -> dict[str, list[str]]:
    """The instruction sets to compile the row kernels for, with their flags."""
    variants: dict[str, list[str]] = {"baseline": []}
    architectures = os.environ.get("ARCHFLAGS", "").replace("-arch", "").split()
    if platform.machine().lower() in ("x86_64", "amd64") and architectures in ([], ["x86_64"]):
        variants |= {name: flags for name, flags in SIMD_FLAGS.items() if accepts(compiler, flags)}
    return variants


def first_line(command: list[str], containing: str = "") -> str:
    """The first line of a command's output that contains a text."""
    output = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return next((line.strip() for line in output.splitlines() if containing in line), "unknown")


def cuda_architectures(nvcc: str) -> list[str]:
    """The architectures to compile for, oldest first."""
    asked = os.environ.get("PLASTICINE_CUDA_ARCHS", "").replace(",", ";").split(";")
    architectures = [name.strip() for name in asked if name.strip()]
    if not architectures:
        listing = subprocess.run(
            [nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False
        ).stdout.split()
        architectures = [name for name in DEFAULT_CUDA_ARCHS if f"compute_{name}" in listing]
        if not architectures:
            raise BuildFailedError(f"{nvcc} knows none of {', '.join(DEFAULT_CUDA_ARCHS)}")
    return sorted(architectures, key=lambda name: (int(name.rstrip("af")), name))


class NinjaFile:
    """A build.ninja under construction, and the run of it."""

    def __init__(self, folder: Path) -> None:
        """Creates the build folder."""
        self.folder = folder
        self.lines: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)

    def rule(self, name: str, command: list[str], description: str, depfile: bool = False) -> None:
        """Adds a rule; $in, $out and $flags stay ninja's."""
        quoted = " ".join(part if part.startswith("$") else self.quote(part) for part in command)
        self.lines += [f"rule {name}", f"  command = {quoted}", f"  description = {description}"]
        if depfile:
            self.lines += ["  depfile = $out.d", "  deps = gcc"]

    def edge(self, rule: str, inputs: list[str], output: str, flags: list[str]) -> str:
        """Adds one build step and returns its output."""
        sources = " ".join(self.escape(source) for source in inputs)
        self.lines.append(f"build {self.escape(output)}: {rule} {sources}")
        self.lines.append(f"  flags = {' '.join(self.quote(flag) for flag in flags)}")
        return output

    def run(self, target: str) -> None:
        """Writes the file and builds the target, raising BuildFailedError with ninja's output."""
        (self.folder / "build.ninja").write_text("\n".join(self.lines) + "\n")
        command = [find_ninja(), "-C", str(self.folder)]
        if jobs := os.environ.get("MAX_JOBS"):
            command += ["-j", jobs]
        result = subprocess.run(
            [*command, target], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        sys.stdout.write(result.stdout)
        if result.returncode != 0:
            raise BuildFailedError(f"ninja failed on {target}:\n{result.stdout[-4000:]}")

    @staticmethod
    def escape(path: str) -> str:
        """A path as ninja reads it in a build line."""
        return path.replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    @staticmethod
    def quote(argument: str) -> str:
        """An argument as ninja's shell reads it."""
        import shlex

        return shlex.quote(argument).replace("$", "$$")


def shared_library_flags() -> list[str]:
    """What makes the linker produce a Python extension module on this system."""
    if sys.platform == "darwin":
        return ["-bundle", "-undefined", "dynamic_lookup"]
    return ["-shared", "-Wl,-s"]


def include_flags(source: str) -> list[str]:
    """The Python and pybind11 headers, as system headers, of what binds to Python.

    Of nothing else: pip has them in a folder that is new each time, and what is compiled by another
    command is compiled again.
    """
    if not Path(source).name.startswith("bindings"):
        return []
    import pybind11

    folders = [sysconfig.get_path("include"), pybind11.get_include()]
    return [flag for folder in folders for flag in ("-isystem", folder)]


def compile_rule(graph: NinjaFile, compiler: list[str], flags: list[str]) -> None:
    """Adds the rule `compile`: one C++ source to one object."""
    user = os.environ.get("CPPFLAGS", "").split() + os.environ.get("CXXFLAGS", "").split()
    architecture = os.environ.get("ARCHFLAGS", "").split()
    command = [*compiler, *COMMON_FLAGS, *flags, f"-I{CSRC}", *architecture, *user]
    command += ["$flags", "-MMD", "-MF", "$out.d", "-c", "$in", "-o", "$out"]
    graph.rule("compile", command, "C++ $out", depfile=True)


def build_native(folder: Path, output: Path, version: str) -> dict[str, object]:
    """Builds plasticine._native and returns how."""
    compiler = find_compiler()
    openmp_compile, openmp_link = find_openmp(compiler)
    variants = simd_variants(compiler)
    graph = NinjaFile(folder)
    defines = [f"-DPLASTICINE_HAS_{name.upper()}" for name in variants if name != "baseline"]
    defines.append(f'-DPLASTICINE_VERSION="{version}"')
    compile_rule(graph, compiler, [*openmp_compile, *defines])
    user = os.environ.get("ARCHFLAGS", "").split() + os.environ.get("LDFLAGS", "").split()
    link = [*compiler, *shared_library_flags(), "$in", "-o", "$out", *openmp_link, *user]
    graph.rule("link", link, "link $out")
    objects = [
        graph.edge("compile", [str(ROOT / source)], object_name(source), include_flags(source))
        for source in CPU_SOURCES
    ]
    for name, flags in variants.items():
        simd = [*flags, f"-DPLASTICINE_SIMD={name}", f"-DPLASTICINE_SIMD_{name.upper()}"]
        objects += [
            graph.edge("compile", [str(ROOT / source)], object_name(source, f"_{name}"), simd)
            for source in ROW_SOURCES
        ]
    graph.edge("link", objects, str(output), [])
    graph.run(str(output))
    return {
        "compiler": first_line([*compiler, "--version"]),
        "openmp": bool(openmp_compile),
        "simd": list(variants),
    }


def build_cuda(folder: Path, output: Path, version: str) -> dict[str, object]:
    """Builds plasticine._cuda and returns how."""
    if not any(source.endswith(".cu") for source in CUDA_SOURCES):
        raise BuildFailedError("there are no CUDA sources")
    nvcc = find_nvcc()
    compiler = find_compiler()
    architectures = cuda_architectures(nvcc)
    release = first_line([nvcc, "--version"], "release")
    newest = architectures[-1]
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in architectures]
    codes.append(f"-gencode=arch=compute_{newest},code=compute_{newest}")
    graph = NinjaFile(folder)
    defines = [
        f'-DPLASTICINE_VERSION="{version}"',
        f'-DPLASTICINE_NVCC="{release}"',
        f'-DPLASTICINE_CUDA_ARCHS="{";".join(architectures)}"',
    ]
    compile_rule(graph, compiler, defines)
    host = ["-ccbin", compiler[0], "-Xcompiler=-fPIC,-fvisibility=hidden"]
    flags = ["-std=c++17", "-O3", "--expt-relaxed-constexpr", "--threads=0", *codes, *host]
    flags.append(f"-I{CSRC}")
    if (number := re.search(r"release (\d+)", release)) and int(number[1]) >= 13:
        # A third of the size. Every driver that CUDA 13 runs on unpacks it; older ones may not.
        flags.append("--compress-mode=size")
    command = [nvcc, *flags, "$flags", "-MD", "-MF", "$out.d", "-c", "$in", "-o", "$out"]
    graph.rule("cuda", command, "CUDA $out", depfile=True)
    link = [nvcc, "-shared", "-cudart=static", *codes, *host[:2], "$in", "-o", "$out"]
    graph.rule("link", link, "link $out")
    objects = [
        graph.edge(
            "cuda" if source.endswith(".cu") else "compile",
            [str(ROOT / source)],
            object_name(source),
            include_flags(source),
        )
        for source in CUDA_SOURCES
    ]
    graph.edge("link", objects, str(output), [])
    graph.run(str(output))
    return {"nvcc": release, "architectures": architectures, "ptx": newest}


def write_record(folder: Path, record: dict[str, object]) -> None:
    """Writes _build.json into a package folder."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"_build.json.{os.getpid()}"
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    os.replace(temporary, folder / "_build.json")


class BuildPython(build_py):
    """build_py that starts from an empty folder: modules deleted since must not ship."""

    def run(self) -> None:
        """Copies the modules, and the build record where no extension will write it."""
        if not self.editable_mode:
            shutil.rmtree(Path(self.build_lib) / "plasticine", ignore_errors=True)
        super().run()
        if not NATIVE:
            folder = ROOT if self.editable_mode else Path(self.build_lib)
            reason = {"error": "left out: PLASTICINE_NATIVE=0"}
            write_record(folder / "plasticine", {"native": reason, "cuda": reason})


class BuildNative(build_ext):
    """build_ext that compiles both extensions with ninja."""

    def run(self) -> None:
        """Builds the extensions, then records what was built."""
        self.record: dict[str, object] = {
            "native": {},
            "cuda": {"error": "left out: PLASTICINE_CUDA=0"},
        }
        super().run()
        in_place = self.inplace or getattr(self, "editable_mode", False)
        write_record((ROOT if in_place else Path(self.build_lib)) / "plasticine", self.record)

    def build_extension(self, ext: Extension) -> None:
        """Builds one extension; a failing optional one is recorded and passed over."""
        name = ext.name.rpartition(".")[2]
        folder = Path(self.build_temp).resolve() / name
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        build = build_native if name == "_native" else build_cuda
        version = self.distribution.get_version()
        try:
            self.record[name.lstrip("_")] = {"error": None, **build(folder, output, version)}
        except BuildFailedError as failure:
            if not ext.optional:
                raise SystemExit(f"plasticine.{name} could not be built: {failure}") from failure
            self.record[name.lstrip("_")] = {"error": str(failure)}
            output.unlink(missing_ok=True)
            self.warn(f"plasticine.{name} left out: {failure}")


def extensions() -> list[Extension]:
    """The extensions asked for; their sources are listed so that an sdist carries them."""
    found = []
    if NATIVE:
        found.append(Extension("plasticine._native", [*CPU_SOURCES, *ROW_SOURCES]))
    if CUDA != "0":
        found.append(Extension("plasticine._cuda", CUDA_SOURCES, optional=CUDA == "auto"))
    return found


def packages() -> list[str]:
    """plasticine and its subpackages, and the Triton kernels, which live in a folder beside it."""
    kernels = [f"plasticine.kernels.{name}" for name in find_packages("kernels")]
    return [*find_packages(include=["plasticine", "plasticine.*"]), "plasticine.kernels", *kernels]


setup(
    packages=packages(),
    package_dir={"plasticine": "plasticine", "plasticine.kernels": "kernels"},
    package_data={
        "plasticine": ["py.typed", "*.pyi", "weights/*.safetensors", "weights/*.md", "recipes/*"],
        "plasticine.report.viewer": ["*.html", "*.css", "*.js"],
    },
    include_package_data=False,
    ext_modules=extensions(),
    cmdclass={"build_py": BuildPython, "build_ext": BuildNative},
    zip_safe=False,
)
