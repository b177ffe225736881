"""Registers, spills and shared memory of every GPU kernel, as ptxas reports them. Needs no GPU.

    python benchmarks/register_report.py [--architecture 90] [--output registers.json] [--list]

Compiles every csrc/**/*.cu to machine code, and the Triton kernels in the instances of
tests/kernel_cases, prints one line per kernel family and architecture, and exits with 1 where a
kernel spills registers to memory. ``--backend cuda`` or ``triton`` takes one of the two.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# `Function properties for NAME`, a line of stack and spills, a line of registers.
KERNEL = re.compile(
    r"Function properties for (?P<name>\S+)\s+"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, "
    r"(?P<loads>\d+) bytes spill loads\s+"
    r"ptxas info\s*: Used (?P<registers>\d+) registers(?P<rest>[^\n]*)"
)
REGISTERS_PER_SM = 65536
WARP = 32


def compile_and_parse(nvcc: str, source: Path, architecture: str) -> list[dict[str, object]]:
    """What ptxas says of each kernel of a source."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            nvcc,
            *("-std=c++17", "-O3", "--expt-relaxed-constexpr", "-Xptxas=-v", "-cubin"),
            f"-I{ROOT / 'csrc'}",
            *(f"-arch=sm_{architecture}", "-o", str(Path(folder) / "kernel.cubin"), str(source)),
        ]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(f"nvcc failed on {source}:\n{run.stderr}")
    kernels = []
    for match in KERNEL.finditer(run.stderr):
        shared = re.search(r"(\d+) bytes smem", match["rest"])
        kernels.append(
            {
                "architecture": architecture,
                "kernel": match["name"],
                "registers": int(match["registers"]),
                "stack_bytes": int(match["stack"]),
                "spill_bytes": int(match["stores"]) + int(match["loads"]),
                "shared_bytes": int(shared[1]) if shared else 0,
            }
        )
    if not kernels and "__global__" in source.read_text():
        raise SystemExit(f"ptxas reported no kernel of {source}:\n{run.stderr}")
    return kernels


def compile_cuda(architectures: list[str]) -> list[dict[str, object]]:
    """The figures of every CUDA kernel."""
    nvcc = os.environ.get("CUDACXX") or shutil.which("nvcc")
    if nvcc is None:
        raise SystemExit("nvcc is not on PATH, and CUDACXX is not set")
    kernels = [
        kernel
        for architecture in architectures
        for source in sorted((ROOT / "csrc").rglob("*.cu"))
        for kernel in compile_and_parse(nvcc, source, architecture)
    ]
    demangle(kernels)
    return kernels


def demangle(kernels: list[dict[str, object]]) -> None:
    """Replaces mangled names where c++filt is to be had."""
    if shutil.which("c++filt") is None:
        return
    names = "\n".join(str(kernel["kernel"]) for kernel in kernels)
    run = subprocess.run(["c++filt"], input=names, capture_output=True, text=True, check=True)
    for kernel, name in zip(kernels, run.stdout.splitlines(), strict=True):
        short = name.replace("(anonymous namespace)::", "").replace("plasticine::", "")
        kernel["kernel"] = without_arguments(short).removeprefix("void ")


def without_arguments(name: str) -> str:
    """A demangled name without the types of its arguments, which stand in its last parentheses."""
    depth = 0
    for place in range(len(name) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(name[place], 0)
        if depth == 0:
            return name[:place] if name[place] == "(" else name
    return name


def is_aside(kernel: dict[str, object]) -> bool:
    """One float64 register that ptxas puts aside so that another block of Triton's is resident."""
    return "ACC=fp64" in str(kernel["kernel"]) and int(str(kernel["stack_bytes"])) <= 8


def compile_triton(architectures: list[str]) -> list[dict[str, object]]:
    """The same of the Triton kernels: see tests/kernel_cases/compile_triton.py."""
    script = ROOT / "tests" / "kernel_cases" / "compile_triton.py"
    command = [sys.executable, str(script)]
    command += [word for each in architectures for word in ("--architecture", each)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise SystemExit(f"{script.name} failed:\n{run.stderr}")
    return [
        {
            "architecture": row["architecture"],
            "kernel": f"triton::{row['operator']}::{row['kernel']}<{row['instance']}>",
            "registers": row["registers"],
            "stack_bytes": row["stack_bytes"],
            "spill_bytes": row["spill_stores"] + row["spill_loads"],
            "shared_bytes": row["shared_bytes"],
        }
        for row in json.loads(run.stdout)["compiled"]
    ]


def family(kernel: dict[str, object]) -> tuple[str, str]:
    name = str(kernel["kernel"]).split("<")[0]
    name = name.split("::")[-1] + (" (Triton)" if name.startswith("triton::") else "")
    return str(kernel["architecture"]), name


def print_summary(kernels: list[dict[str, object]]) -> None:
    groups = collections.defaultdict(list)
    for kernel in kernels:
        groups[family(kernel)].append(kernel)
    print(f"{'kernel':44}{'sm':>5}{'count':>7}{'registers':>14}{'spilled':>9}{'warps/SM':>12}")
    for (architecture, name), members in sorted(groups.items()):
        registers = sorted(int(str(kernel["registers"])) for kernel in members)
        spilled = sum(1 for kernel in members if kernel["spill_bytes"])
        warps = [min(64, REGISTERS_PER_SM // (WARP * max(n, 1))) for n in registers]
        print(
            f"{name:44}{architecture:>5}{len(members):>7}"
            f"{f'{registers[0]} to {registers[-1]}':>14}{spilled:>9}"
            f"{f'{warps[-1]} to {warps[0]}':>12}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", action="append", help="default: 80, 90 and 100")
    parser.add_argument("--output", type=Path, help="write every kernel's figures as JSON")
    parser.add_argument("--list", action="store_true", help="print every kernel")
    parser.add_argument("--backend", choices=["cuda", "triton"], help="default: both")
    arguments = parser.parse_args()
    architectures = arguments.architecture or ["80", "90", "100"]
    kernels: list[dict[str, object]] = []
    if arguments.backend != "triton":
        kernels += compile_cuda(architectures)
    if arguments.backend != "cuda":
        kernels += compile_triton(architectures)
    if arguments.list:
        for kernel in kernels:
            print(f"sm_{kernel['architecture']} {kernel['registers']:>4} {kernel['kernel']}")
    print_summary(kernels)
    if arguments.output:
        arguments.output.write_text(json.dumps(kernels, indent=1) + "\n")
    spilling = [kernel for kernel in kernels if kernel["spill_bytes"] and not is_aside(kernel)]
    for kernel in spilling:
        print(f"spills: sm_{kernel['architecture']} {kernel['kernel']}", file=sys.stderr)
    return 1 if spilling else 0


if __name__ == "__main__":
    sys.exit(main())
