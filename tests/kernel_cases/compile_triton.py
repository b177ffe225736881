"""Compiles the Triton kernels for GPUs that are not there, and reports what ptxas said of each.

    python tests/kernel_cases/compile_triton.py [--architecture 90] [--first-of axes] [OPERATOR ...]

Runs the ``launch()`` of each ``instances_<operator>.py`` beside this file: it calls the operator's
Triton functions on small CPU tensors, as an application would on a GPU. Triton is told that its
device is a GPU of the architecture, and every launch of a kernel compiles it and does no more; an
autotuned kernel is compiled in all its configurations the first time, later in the first one.
Prints a JSON object: the kernels compiled, with registers, spills and shared memory, and the
kernels of plasticine.kernels that no instance launched. Needs a process of its own, without
TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib
import io
import json
import pkgutil
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

import plasticine.kernels
from plasticine.kernels.tuning import Tuned
from plasticine.kernels.warp import CUBIC_MODES

HERE = Path(__file__).resolve().parent
ARCHITECTURES = (80, 90, 100)
FIGURES = {
    "registers": r"Used (\d+) registers",
    "stack_bytes": r"(\d+) bytes stack frame",
    "spill_stores": r"(\d+) bytes spill stores",
    "spill_loads": r"(\d+) bytes spill loads",
}


class Device:
    """What Triton asks of its driver before it compiles; the device's index is its architecture."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_device(self) -> int:
        return self.architecture

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)


class Compiler:
    """Takes the place of the launches, and keeps a row for every instance that it compiles."""

    def __init__(self, *, first_of: str | None) -> None:
        self.first_of = first_of
        self.seen: set[tuple[Any, ...]] = set()
        self.rows: dict[tuple[int, str], dict[str, Any]] = {}
        self.compiled: set[JITFunction] = set()
        self.tuned: set[Tuned] = set()
        self._run = JITFunction.run

    @contextlib.contextmanager
    def instead_of_launching(self) -> Iterator[None]:
        def run(kernel: JITFunction, *arguments: Any, **options: Any) -> Any:
            return self.compile(kernel, *arguments, **options)

        def launch_each(
            tuned: Tuned, grid: Any, arguments: tuple[Any, ...], options: dict[str, Any]
        ) -> None:
            # In all its configurations once, and then in the first.
            for configuration in tuned.configurations[: 1 if tuned in self.tuned else None]:
                tuned.kernel[grid](*arguments, **options, **configuration.all_kwargs())
            self.tuned.add(tuned)

        with (
            tempfile.TemporaryDirectory() as cache,
            triton.knobs.cache.scope(),
            triton.knobs.nvidia.scope(),
            mock.patch.object(JITFunction, "run", run),
            mock.patch.object(Tuned, "launch", launch_each),
        ):
            triton.knobs.cache.dir = cache  # an empty one: what is found there, ptxas does not see
            triton.knobs.nvidia.dump_ptxas_log = True
            yield

    def compile(self, kernel: JITFunction, *arguments: Any, **options: Any) -> Any:
        if self.first_of is not None:
            architecture = triton.runtime.driver.active.get_current_device()
            axes = options.get("NDIM") if self.first_of == "axes" else None
            is_cubic = options.get("MODE") in CUBIC_MODES
            kind = (architecture, kernel, axes, options.get("BLOCK"), is_cubic)
            if kind in self.seen:
                return None
            self.seen.add(kind)
        log = io.StringIO()
        with contextlib.redirect_stdout(log):
            compiled = self._run(kernel, *arguments, **{**options, "warmup": True})
        self.compiled.add(kernel)
        architecture = compiled.metadata.target.arch
        if log.getvalue():  # otherwise this instance has been compiled before
            self.rows[architecture, compiled.hash] = {
                "architecture": str(architecture),
                "operator": kernel.__module__.split(".")[-1],
                "kernel": kernel.__name__,
                "instance": instance_of(compiled),
                **figures_of(log.getvalue()),
                "shared_bytes": compiled.metadata.shared,
                "warps": compiled.metadata.num_warps,
            }
        return compiled


def instance_of(compiled: Any) -> str:
    """The constants of one compiled kernel in words: ``NDIM=3 PADDING=border ...``."""
    names = compiled.src.fn.arg_names
    constants = compiled.src.constants
    words = [
        f"{names[path[0]]}={value}"
        for path, value in constants.items()
        if len(path) == 1 and (value is None or names[path[0]].isupper())
    ]
    return " ".join(words)


def figures_of(log: str) -> dict[str, int]:
    """What ptxas -v says of the one kernel that it was given."""
    found = {name: re.search(pattern, log) for name, pattern in FIGURES.items()}
    if None in found.values():
        raise RuntimeError(f"ptxas did not say what was expected of it:\n{log}")
    return {name: int(match[1]) for name, match in found.items() if match}


def kernels_of(package: ModuleType) -> dict[str, JITFunction]:
    """The kernels of a package by name: its Triton functions that no other one of them calls."""
    functions: dict[str, JITFunction] = {}
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Tuned):
                value = value.kernel
            if isinstance(value, JITFunction) and value.__module__ == module.name:
                functions[f"{module.name}.{name}"] = value
    called = {
        node.id
        for function in functions.values()
        for node in ast.walk(function.parse())
        if isinstance(node, ast.Name)
    }
    return {name: fn for name, fn in functions.items() if fn.__name__ not in called}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("operators", nargs="*", help="default: all that have instances")
    parser.add_argument("--architecture", type=int, action="append", help="default: 80, 90, 100")
    parser.add_argument(
        "--first-of",
        choices=("kernels", "axes"),
        help="only the first instance of each kernel, or of each kernel and number of axes",
    )
    options = parser.parse_args()
    every = sorted(path.stem.removeprefix("instances_") for path in HERE.glob("instances_*.py"))
    compiler = Compiler(first_of=options.first_of)
    with compiler.instead_of_launching():
        for architecture in options.architecture or ARCHITECTURES:
            triton.runtime.driver.set_active(Device(architecture))
            for operator in options.operators or every:
                importlib.import_module(f"instances_{operator}").launch()
    unlaunched = [
        name
        for name, kernel in kernels_of(plasticine.kernels).items()
        if kernel not in compiler.compiled
    ]
    json.dump({"compiled": list(compiler.rows.values()), "unlaunched": unlaunched}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
