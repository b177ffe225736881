"""The Triton kernels: what they compute, in the interpreter, and that they compile for GPUs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

triton = pytest.importorskip("triton", reason="triton is not installed")

CASES = Path(__file__).with_name("kernel_cases")
ARCHITECTURES = (80, 90, 100)
TYPES = {"float32": "fp32", "float64": "fp64", "float16": "fp16", "bfloat16": "bf16"}

# (mode, padding, image dtype, displacement dtype, affine, deterministic, index): every value of
# each option, and the plain float32 kernel.
INSTANCES = (
    ("linear", "zeros", "float32", "float32", False, False, "int32"),
    ("linear", "border", "bfloat16", "float32", True, False, "int32"),
    ("linear", "reflection", "float64", "float64", True, True, "int64"),
    ("nearest", "border", "float16", "float16", False, True, "int32"),
)


# The slowest are run in two processes, which share the cores.
SELECTIONS = {"cases_warp": ("equals_the_reference", "not equals_the_reference")}


@pytest.mark.parametrize(
    ("cases", "selection"),
    [
        (path, selection)
        for path in sorted(CASES.glob("cases_*.py"))
        for selection in SELECTIONS.get(path.stem, ("",))
    ],
    ids=lambda value: value.stem if isinstance(value, Path) else value.replace(" ", "_"),
)
def test_in_the_interpreter(cases, selection):
    """In a process of its own: triton reads TRITON_INTERPRET when it is imported."""
    environment = dict(os.environ, TRITON_INTERPRET="1", PLASTICINE_KERNELS="triton")
    arguments = ["-q", "-x", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, "-k", selection, str(cases)],
        env=environment,
        # Not the root: the checkout would hide the installed package there.
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.search(r"\d passed", run.stdout), run.stdout


def arguments_of(kernel: Any, ndim: int, instance: tuple[Any, ...]) -> dict[str, Any]:
    """A type for every run-time argument of a kernel and a value for every constexpr."""
    import triton.language as tl

    mode, padding, image, displacement, has_affine, is_deterministic, index = instance
    image, displacement = f"*{TYPES[image]}", f"*{TYPES[displacement]}"
    accumulator = "fp64" if image == "*fp64" else "fp32"
    number = "i32" if index == "int32" else "i64"
    has_location = mode == "linear"
    everything = {
        "image": image,
        "grad": image,
        "out": image,
        "displacement": displacement,
        "affine": displacement if has_affine else None,
        "grad_image": f"*{accumulator}",
        "grad_image_fixed": "*i64" if is_deterministic else None,
        "fixed_scale": "*fp64" if is_deterministic else None,
        "grad_displacement": displacement if has_location else None,
        "grad_affine": f"*{accumulator}" if has_affine and has_location else None,
        "image_strides": (number,) * 5,
        "grad_strides": (number,) * 5,
        "displacement_strides": (number,) * 5,
        "affine_strides": ("i32",) * 3 if has_affine else None,
        "size": ("i32",) * 3,
        "out_size": ("i32",) * 3,
        "channels": "i32",
        "blocks": "i32",
        "NDIM": ndim,
        "MODE": mode,
        "PADDING": padding,
        "INDEX": getattr(tl, index),
        "ACC": getattr(tl, accumulator.replace("fp", "float")),
        "BLOCK": 128,
    }
    return {name: everything[name] for name in kernel.arg_names}


def compile_for(kernel: Any, arguments: dict[str, Any], architecture: int) -> bytes:
    """The machine code of one instance of a kernel; no GPU is needed."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {k: v for k, v in arguments.items() if k.isupper() or v is None}
    signature = {k: "constexpr" if k in constants else v for k, v in arguments.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    target = GPUTarget("cuda", architecture, 32)
    return triton.compile(source, target=target, options={"num_warps": 4}).asm["cubin"]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET is set")
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_compiles_without_spilling(architecture, direction, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    from plasticine.kernels import warp

    kernel = getattr(warp, f"warp_{direction}_kernel")
    for ndim in (2, 3):
        for instance in INSTANCES:
            cubin = compile_for(kernel, arguments_of(kernel, ndim, instance), architecture)
            assert cubin[:4] == b"\x7fELF"
            usage = resource_usage(cubin, tmp_path / "kernel.cubin")
            if usage is not None:
                # Triton keeps no arrays on the stack: what is there was spilled.
                assert usage["STACK"] == 0, (ndim, instance, usage)
                assert usage["LOCAL"] == 0, (ndim, instance, usage)


def resource_usage(cubin: bytes, path: Path) -> dict[str, int] | None:
    """REG, STACK, LOCAL, ... of a kernel, or None where triton came without cuobjdump."""
    cuobjdump = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    if not cuobjdump.is_file():
        return None
    path.write_bytes(cubin)
    command = [str(cuobjdump), "--dump-resource-usage", str(path)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = re.findall(r"\b(REG|STACK|SHARED|LOCAL):(\d+)", listing)
    assert usage, listing
    return {name: int(value) for name, value in usage}
