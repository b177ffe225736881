"""Block sizes and warps, tried on the GPU at hand: which is best differs between GPUs and sizes.

A kernel under :func:`tuned` takes an argument ``size_class``, which :func:`size_class` gives, and
is launched without its BLOCK and num_warps. The first call of a size class, of the dtypes and of
the kernel's own constants tries each configuration, about a tenth of a second each, and so
synchronises: capture a CUDA graph after a call outside of it. Triton's interpreter, which has no
clock, takes the first configuration.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import triton
from triton.runtime.autotuner import Autotuner

# Fewer voxels are over before a configuration matters; more than the second fill every GPU.
_CLASSES = (1 << 16, 1 << 20, 1 << 23)
# Constants of a kernel that change what it does for a voxel; the dtypes are always looked at.
_KEY = ("size_class", "NDIM", "MODE")

#: The class of fewer voxels than the first, for which a kernel takes its first configuration.
NOT_TRIED = 0


def size_class(voxels: int) -> int:
    """What a kernel's configuration is chosen for: small, medium or large, 1 to 3, or NOT_TRIED.

    Args:
        voxels: those of all samples.
    """
    return sum(voxels >= limit for limit in _CLASSES)


def configuration(block: int, warps: int) -> triton.Config:
    """The voxels and warps of a program."""
    return triton.Config({"BLOCK": block}, num_warps=warps)


def tuned(
    *configurations: triton.Config, reset_to_zero: Sequence[str] = ()
) -> Callable[[Any], Autotuner]:
    """Decorates a ``triton.jit`` function.

    Args:
        configurations: the first is that of small sizes and of the interpreter.
        reset_to_zero: the arguments to which the kernel adds, which start at zero; None is passed
            over. They are cleared after every trial.
    """

    def decorate(kernel: Any) -> Autotuner:
        return triton.autotune(
            list(configurations[:1] if triton.knobs.runtime.interpret else configurations),
            key=[name for name in _KEY if name in kernel.arg_names],
            reset_to_zero=list(reset_to_zero),
            prune_configs_by={"early_config_prune": tried},
        )(kernel)

    return decorate


def tried(
    configurations: list[triton.Config], arguments: dict[str, Any], **options: Any
) -> list[triton.Config]:
    """Those of the configurations that a call tries."""
    return configurations[:1] if arguments["size_class"] == NOT_TRIED else configurations
