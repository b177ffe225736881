"""``plasticine.info``: what is installed, what can be used here, and why something cannot."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import numpy
import torch

from plasticine import backends


def info() -> dict[str, Any]:
    """Everything a bug report needs.

    Returns:
        A dict of JSON types: ``versions`` (plasticine, python, torch, numpy, triton; None where not
        installed), ``backends`` (name to None where usable, else the reason), ``devices`` (a line
        each), ``threads`` (of PyTorch, which the CPU backend uses), ``simd`` ("avx512", "avx2" or
        "baseline"; None without the CPU backend), ``build`` (``native``: what the loaded binary
        says of itself, ``cuda``: likewise, ``record``: what the build wrote about itself) and
        ``location`` of the package.
    """
    from plasticine import __file__ as location
    from plasticine import __version__

    return {
        "versions": {
            "plasticine": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": numpy.__version__,
            "triton": _version("triton"),
        },
        "platform": platform.platform(),
        "backends": backends.available(),
        "devices": _devices(),
        "threads": torch.get_num_threads(),
        "simd": backends.NATIVE.simd_level() if backends.NATIVE is not None else None,
        "build": {
            "native": backends.NATIVE.build_info() if backends.NATIVE is not None else None,
            "cuda": backends.CUDA.build_info() if backends.CUDA is not None else None,
            "record": backends.build_record() or None,
        },
        "location": location,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _not_served(index: int) -> str:
    """What the binaries that are there cannot do on a GPU."""
    errors = {"cuda": None if backends.CUDA is None else backends.cuda_error(index)}
    errors["triton"] = backends.triton_error(index)
    return "".join(f"; no {name}: {error}" for name, error in errors.items() if error)


def _devices() -> list[str]:
    devices = [f"cpu: {platform.processor() or platform.machine()}"]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            devices.append(
                f"cuda:{index}: {properties.name}, sm_{properties.major}{properties.minor}, "
                f"{properties.total_memory / 2**30:.0f} GiB{_not_served(index)}"
            )
    return devices
