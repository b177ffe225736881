"""What each path of the CPU kernels gains: every row with it and without it, in turn.

    python -m benchmarks.ablation --output benchmarks/results/ablation.json
    python -m benchmarks.ablation --output FILE --library _native.so --without one_pass all_rows

Compares the instruction sets of the installed library or, in a library built with switches for its
paths (see README.md), all paths with all but one. Every variant is a process of its own, which
waits for a row's name and answers with the time of one call. The variants take turns, and of many
calls the least counts, so that other work on the machine does not decide. On one thread it is that
thread's processor time.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

INSTRUCTION_SETS = ("avx512", "avx2", "baseline")
ROWS = (
    "warp",
    "warp small",
    "warp 2d",
    "warp nearest",
    "warp cubic",
    "warp bspline",
    "spline_coefficients",
    "splat",
    "compose",
    "exponential",
    "exponential 2d",
    "warp_exponential",
    "invert",
    "jacobian",
    "folding",
)
WITHOUT_BACKWARD = ("warp nearest", "invert", "folding")


def rows_of(library: str | None) -> dict[str, Callable[[], None]]:
    """A call for every row and direction; inputs are made at the first."""
    if library is not None:
        spec = importlib.util.spec_from_file_location("plasticine._native", library)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["plasticine._native"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["plasticine._native"])
    import torch

    import plasticine
    from benchmarks.bench_invert import invertible_field
    from benchmarks.contest import BATCH_2D, FULL_3D

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    small = replace(FULL_3D, displacement="small")
    image, field, operators = FULL_3D.image, FULL_3D.field, plasticine
    cases: dict[str, tuple[Callable[..., Any], ...]] = {
        "warp": (operators.warp, image, field),
        "warp small": (operators.warp, image, small.field),
        "warp 2d": (operators.warp, BATCH_2D.image, BATCH_2D.field),
        "warp nearest": (functools.partial(operators.warp, mode="nearest"), image, field),
        "warp cubic": (functools.partial(operators.warp, mode="cubic"), image, field),
        "warp bspline": (functools.partial(operators.warp, mode="bspline"), image, field),
        "spline_coefficients": (operators.spline_coefficients, image),
        "splat": (operators.splat, image, field),
        "compose": (operators.compose, field, field),
        "exponential": (operators.exponential, field),
        "exponential 2d": (operators.exponential, BATCH_2D.field),
        "warp_exponential": (operators.warp_exponential, image, field),
        "invert": (
            lambda u: operators.invert(u).displacement,
            functools.partial(invertible_field, FULL_3D),
        ),
        "jacobian": (operators.jacobian_determinant, field),
        "folding": (lambda u: operators.folding(u).folds, field),
    }
    assert tuple(cases) == ROWS

    def call_of(name: str, backward: bool) -> Callable[[], None]:
        function, *makers = cases[name]
        inputs: list[torch.Tensor] = []

        def call() -> None:
            if not inputs:
                inputs.extend(make().requires_grad_(backward) for make in makers)
            result = function(*inputs)
            if backward:
                torch.autograd.grad(result, inputs, torch.ones_like(result))

        return call

    return {
        f"{name} {d}": call_of(name, d == "backward") for name in ROWS for d in directions(name)
    }


def directions(row: str) -> tuple[str, ...]:
    """With backward means forward and backward."""
    return ("forward",) if row in WITHOUT_BACKWARD else ("forward", "backward")


def answer(library: str | None) -> None:
    """Serves times over standard input and output."""
    calls = rows_of(library)
    clock = time.thread_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
    for line in sys.stdin:
        start = clock()
        calls[line.strip()]()
        print(clock() - start, flush=True)


class Variant:
    """A process that measures one variant."""

    def __init__(self, threads: int, library: str | None, settings: dict[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.ablation", "--answer"]
        command += [] if library is None else ["--library", library]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), **settings},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, row: str) -> float:
        """Of one call."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(row + "\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def end(self) -> None:
        """Ends the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def measure(
    variants: dict[str, Variant], rows: list[str], seconds: float
) -> dict[str, dict[str, float]]:
    """The least milliseconds of every variant for every row."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        for variant in variants.values():
            variant.seconds(row)
        least = dict.fromkeys(variants, float("inf"))
        end = time.monotonic() + seconds
        rounds = 0
        while rounds < 3 or time.monotonic() < end:
            for name, variant in variants.items():
                least[name] = min(least[name], variant.seconds(row))
            rounds += 1
        found[row] = {name: round(1e3 * value, 3) for name, value in least.items()}
        print(row, found[row], flush=True)
    return found


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--library", help="a _native library in place of the installed one")
    parser.add_argument("--without", nargs="+", help="the paths to leave out, one at a time")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, metavar="ROW")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--seconds", type=float, default=8.0, help="for each row and direction")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.answer:
        return answer(options.library)
    settings = {name: {"PLASTICINE_SIMD": name} for name in INSTRUCTION_SETS}
    if options.without:
        settings = {"all": {"PLASTICINE_WITHOUT": ""}}
        settings |= {f"without {path}": {"PLASTICINE_WITHOUT": path} for path in options.without}
    rows = [f"{row} {direction}" for row in options.rows for direction in directions(row)]
    record = json.loads(options.output.read_text()) if options.output.exists() else {}
    record["machine"] = platform.processor() or platform.machine()
    for threads in options.threads:
        variants = {
            name: Variant(threads, options.library, environment)
            for name, environment in settings.items()
        }
        kind = "paths" if options.without else "instruction sets"
        measured = record.setdefault(f"{kind}, threads: {threads}", {})
        for row, times in measure(variants, rows, options.seconds).items():
            measured[row] = {**measured.get(row, {}), **times}
        for variant in variants.values():
            variant.end()
    options.output.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
