"""Fused displacement warps, exponentials and Jacobians, and a traceable image translator.

Fields are channel-first and in voxels: a displacement ``u`` of shape ``(N, d, *spatial)`` holds in
channel ``i`` the displacement along spatial axis ``i``; ``warp(image, u)(p) = image(p + u(p))``.
"""

from __future__ import annotations

__version__ = "0.2.0"

import importlib
import warnings
from typing import TYPE_CHECKING, Any

from plasticine import _command_line

if _command_line.is_running():  # before PyTorch is loaded, which is below
    _command_line.wait_passively()

from plasticine import backends, ops
from plasticine.info import info
from plasticine.ops import *  # noqa: F403 - one list of the public operators

if TYPE_CHECKING:
    from plasticine.translation import Trace, Translator

__all__ = ["Trace", "Translator", "__version__", "backends", "info"]
__all__ += ops.__all__

# Imported when first asked for, so that the operators alone stay light.
_LAZY_MODULES = frozenset(
    {
        "compat",
        "diffusion",
        "io",
        "kernels",
        "metrics",
        "nn",
        "recipes",
        "reference",
        "registration",
        "report",
        "structure",
        "training",
        "translation",
    }
)
_LAZY_NAMES = {"Trace": "plasticine.translation", "Translator": "plasticine.translation"}

if backends.SHADOWED is not None:
    warnings.warn(backends.SHADOWED, RuntimeWarning, stacklevel=2)


def __getattr__(name: str) -> Any:
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    if name in _LAZY_MODULES:
        return importlib.import_module(f"plasticine.{name}")
    raise AttributeError(f"module 'plasticine' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_LAZY_MODULES})
