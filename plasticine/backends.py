"""Which backends exist on this machine, why one is missing, and which one serves a call.

"cpu" is the compiled C++ core, "cuda" its CUDA half, "triton" the Triton kernels and "reference"
plain PyTorch. The binaries are optional: every operator works without them through the reference.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from plasticine import __version__

BACKENDS = ("cpu", "cuda", "triton", "reference")

_COMPILED = frozenset(
    {
        "warp",
        "warp_cubic",
        "warp_double_backward",
        "compose",
        "exponential",
        "warp_exponential",
        "jacobian",
        "folding",
        "splat",
        "splat_cubic",
        "spline_coefficients",
        "invert",
    }
)

#: The operators that each backend holds; "warp_cubic" and "splat_cubic" are ``warp`` and ``splat``
#: in their cubic modes.
OPERATORS = {
    "cpu": _COMPILED,
    "cuda": _COMPILED,
    "triton": _COMPILED,
    "reference": _COMPILED | {"jacobian_double_backward"},
}


#: What "auto" takes, by the type of the tensors' device: the first that exists and holds the
#: operator. An operator for which another order was measured to be faster stands in OVERRIDES with
#: the record of benchmarks/results that shows it. No GPU has been measured yet. Until then CUDA
#: goes first, because it needs no compilation at a first call and less of the host at every launch.
PREFERENCE = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
#: (operator, device type): the order. Empty: no measurement says otherwise.
OVERRIDES: dict[tuple[str, str], tuple[str, ...]] = {}


def _shadowed_install() -> str | None:
    """Whether this is a source checkout without binaries that hides an installed copy with them."""
    here = Path(__file__).resolve().parent
    if any(here.glob("_native.*")) or not (here.parent / "setup.py").is_file():
        return None
    for entry in sys.path:
        other = Path(entry or ".").resolve() / "plasticine"
        if other != here and any(other.glob("_native.*")):
            return (
                f"plasticine was imported from its source checkout {here.parent}, which holds no "
                f"binaries and hides the copy installed in {other}: run from another folder, or "
                "install the checkout itself (pip install -e .)"
            )
    return None


#: The trap of a source checkout in front of an installed copy, in words; None where it is not met.
SHADOWED: str | None = _shadowed_install()


def _load(name: str) -> tuple[Any, str | None]:
    """Imports one of the package's binaries; the module, or None with the reason."""
    try:
        module = importlib.import_module(f"plasticine.{name}")
    except ImportError as error:
        if SHADOWED is not None:
            return None, SHADOWED
        if isinstance(error, ModuleNotFoundError) and error.name == f"plasticine.{name}":
            return None, _not_built(name)
        return None, f"plasticine.{name} does not load: {error}"
    built = module.build_info()["version"]
    if built != __version__:
        return None, (
            f"plasticine.{name} was built from version {built}, and this is {__version__}: "
            "build it again (pip install .)"
        )
    return module, None


def _not_built(name: str) -> str:
    """Why a binary is not there: what the build recorded, or that there was no build."""
    reason = build_record().get(name.lstrip("_"), {}).get("error")
    if reason:
        return f"plasticine.{name} was not built: {reason}"
    return f"plasticine.{name} is not built: install the package (pip install .) to build it"


def build_record() -> dict[str, Any]:
    """What the build wrote about itself (``_build.json``); empty where there was no build."""
    path = Path(__file__).with_name("_build.json")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}


NATIVE, NATIVE_ERROR = _load("_native")
CUDA, CUDA_ERROR = _load("_cuda")


@functools.cache
def triton_kernels(operator: str) -> tuple[Any, str | None]:
    """The module of an operator's Triton kernels, or why it does not load; imported on first use.

    Args:
        operator: one of OPERATORS["triton"]; its module has its name.
    """
    try:
        return importlib.import_module(f"plasticine.kernels.{operator}"), None
    except ImportError as error:
        if error.name and error.name.split(".")[0] == "triton":
            return None, "triton is not installed"
        return None, f"plasticine.kernels does not load: {error}"


def interpreting() -> bool:
    """Whether Triton was told to interpret its kernels, which then run on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def available() -> dict[str, str | None]:
    """Every backend with None where it can be used here, or the reason why it cannot."""
    no_gpu = None if torch.cuda.is_available() else "no CUDA device: " + _no_cuda_reason()
    kernels_error = triton_kernels("warp")[1]
    return {
        "cpu": NATIVE_ERROR,
        "cuda": CUDA_ERROR or no_gpu,
        "triton": kernels_error or (None if interpreting() else no_gpu),
        "reference": None,
    }


def _no_cuda_reason() -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return "PyTorch finds no GPU"


@functools.lru_cache(maxsize=256)
def choose(requested: str, operator: str, device: str) -> str:
    """The backend that serves a call.

    Args:
        requested: "auto", or a backend by name.
        operator: one of OPERATORS: "warp", "compose", ...
        device: the type of the tensors' device: "cpu", "cuda", ...

    Returns:
        "cpu", "cuda", "triton" or "reference". "auto" takes the first of PREFERENCE, or
        of OVERRIDES, that exists and holds the operator; else the reference.

    Raises:
        ValueError: ``requested`` is no backend.
        RuntimeError: the backend asked for by name is missing or cannot serve the call; the message
            holds the reason.
    """
    if requested == "auto":
        for candidate in OVERRIDES.get((operator, device), PREFERENCE.get(device, ())):
            if unsuited(candidate, operator, device) is None:
                return candidate
        return "reference"
    if requested not in BACKENDS:
        expected = ", ".join(repr(name) for name in ("auto", *BACKENDS))
        raise ValueError(f"backend must be one of {expected}, got {requested!r}")
    reason = unsuited(requested, operator, device)
    if reason is not None:
        raise RuntimeError(f"backend {requested!r} cannot serve {operator} on {device}: {reason}")
    return requested


def _outdated(module: Any, operator: str) -> str | None:
    """Why a binary that loads does not hold an operator that its source holds."""
    if any(hasattr(module, name) for name in (operator, f"{operator}_forward")):
        return None
    return f"{module.__name__} is older than this source: build it again (pip install .)"


def unsuited(backend: str, operator: str, device: str) -> str | None:
    """Why a backend cannot serve an operator on a device; None where it can."""
    if operator not in OPERATORS[backend]:
        return f"it holds only {', '.join(sorted(OPERATORS[backend]))} in this version"
    if backend == "reference":
        return None
    if backend == "cpu":
        if device != "cpu":
            return "it takes CPU tensors"
        return NATIVE_ERROR or _outdated(NATIVE, operator)
    if backend == "cuda":
        if device != "cuda":
            return "it takes CUDA tensors"
        return CUDA_ERROR or _outdated(CUDA, operator)
    if device == "cuda" or (device == "cpu" and interpreting()):
        return triton_kernels(operator)[1]
    return "it takes CUDA tensors (CPU tensors only with TRITON_INTERPRET=1 set before the start)"
