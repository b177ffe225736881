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
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from plasticine import __version__

BACKENDS: tuple[str, ...] = ("cpu", "cuda", "triton", "reference")

#: The operator whose kernels serve one that has none of its own: a splat is a gradient of a warp.
_KERNELS_OF = {"splat": "warp"}

#: What "auto" takes, by the type of the tensors' device: the first that exists. An
#: operator for which another order was measured to be faster stands in OVERRIDES with
#: the record of benchmarks/results that shows it. No GPU has been measured yet. Until then CUDA
#: goes first, because it needs no compilation at a first call and less of the host at every launch.
PREFERENCE = {"cpu": ("cpu",), "cuda": ("cuda", "triton")}
#: The oldest compute capability that Triton compiles for.
OLDEST_FOR_TRITON = (7, 0)
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


if TYPE_CHECKING:
    # Where it is not None; what its functions take is in _native.pyi and _cuda.pyi.
    from plasticine import _cuda as CUDA
    from plasticine import _native as NATIVE

    NATIVE_ERROR: str | None
    CUDA_ERROR: str | None
else:
    NATIVE, NATIVE_ERROR = _load("_native")
    CUDA, CUDA_ERROR = _load("_cuda")


@functools.cache
def triton_kernels(operator: str) -> tuple[Any, str | None]:
    """The module of an operator's Triton kernels, or why it does not load; imported on first use.

    Args:
        operator: its module has its name.
    """
    name = _KERNELS_OF.get(operator, operator)
    try:
        return importlib.import_module(f"plasticine.kernels.{name}"), None
    except ImportError as error:
        if error.name and error.name.split(".")[0] == "triton":
            return None, "triton is not installed"
        return None, f"plasticine.kernels does not load: {error}"


def interpreting() -> bool:
    """Whether Triton was told to interpret its kernels, which then run on CPU tensors."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


@functools.cache
def cuda_error(index: int) -> str | None:
    """Why the CUDA backend cannot serve a GPU, which is asked once; None where it can.

    The build holds code for some architectures, and its CUDA runtime needs a driver as new.

    Args:
        index: of the GPU.
    """
    if reason := CUDA_ERROR or _outdated(CUDA, "device_error"):
        return reason
    error = CUDA.device_error(index)
    if not error:
        return None
    info = CUDA.build_info()
    return (
        f"plasticine._cuda, built for sm_{info['architectures'].replace(';', ', sm_')} by nvcc "
        f"({info['nvcc']}), cannot run on cuda:{index} ({_describe_gpu(index)}): {error}"
    )


@functools.cache
def triton_error(index: int) -> str | None:
    """Why Triton cannot serve a GPU; None where it can.

    Args:
        index: of the GPU.
    """
    if torch.cuda.get_device_capability(index) >= OLDEST_FOR_TRITON:
        return None
    oldest = ".".join(map(str, OLDEST_FOR_TRITON))
    return (
        f"Triton compiles for compute capability {oldest} and later, which cuda:{index} "
        f"({_describe_gpu(index)}) is not"
    )


def _describe_gpu(index: int) -> str:
    major, minor = torch.cuda.get_device_capability(index)
    return f"{torch.cuda.get_device_name(index)}, sm_{major}{minor}"


def available() -> dict[str, str | None]:
    """Every backend with None where it can be used here, or the reason why it cannot.

    A backend that serves one of several GPUs can be used; ``plasticine.info()`` says which it does
    not serve.
    """
    kernels_error = triton_kernels("warp")[1]
    return {
        "cpu": NATIVE_ERROR,
        "cuda": CUDA_ERROR or _on_no_gpu(cuda_error),
        "triton": kernels_error or (None if interpreting() else _on_no_gpu(triton_error)),
        "reference": None,
    }


def _on_no_gpu(error: Callable[[int], str | None]) -> str | None:
    """Why there is no GPU that a backend can serve; None where there is one."""
    if not torch.cuda.is_available():
        return "no CUDA device: " + _no_cuda_reason()
    reasons = [error(index) for index in range(torch.cuda.device_count())]
    return None if None in reasons else "; ".join(filter(None, reasons))


def _no_cuda_reason() -> str:
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    return "PyTorch finds no GPU"


@functools.lru_cache(maxsize=256)
def choose(requested: str, operator: str, device: str) -> str:
    """The backend that serves a call.

    Args:
        requested: "auto", or a backend by name.
        operator: "warp", "compose", ...
        device: the tensors' device: "cpu", "cuda:0", "mps", ...; "cuda" is the current GPU.

    Returns:
        "cpu", "cuda", "triton" or "reference". "auto" takes the first of PREFERENCE, or
        of OVERRIDES, that can serve the call; else the reference.

    Raises:
        ValueError: ``requested`` is no backend.
        RuntimeError: the backend asked for by name is missing or cannot serve the call; the message
            holds the reason.
    """
    if requested == "auto":
        kind = device.partition(":")[0]
        for candidate in OVERRIDES.get((operator, kind), PREFERENCE.get(kind, ())):
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
    kernels = _KERNELS_OF.get(operator, operator)
    if any(hasattr(module, name) for name in (kernels, f"{kernels}_forward")):
        return None
    return f"{module.__name__} is older than this source: build it again (pip install .)"


def unsuited(backend: str, operator: str, device: str) -> str | None:
    """Why a backend cannot serve an operator on a device; None where it can."""
    if backend == "reference":
        return None
    kind, _, index = device.partition(":")
    if backend == "cpu":
        if kind != "cpu":
            return "it takes CPU tensors"
        return NATIVE_ERROR or _outdated(NATIVE, operator)
    if backend == "cuda":
        if kind != "cuda":
            return "it takes CUDA tensors"
        return CUDA_ERROR or _outdated(CUDA, operator) or cuda_error(_index(index))
    if kind == "cpu" and interpreting():
        return triton_kernels(operator)[1]
    if kind == "cuda":
        return triton_kernels(operator)[1] or triton_error(_index(index))
    return "it takes CUDA tensors (CPU tensors only with TRITON_INTERPRET=1 set before the start)"


def _index(index: str) -> int:
    return int(index) if index else torch.cuda.current_device()
