"""Block sizes and warps, tried on the GPU at hand: which is best differs between GPUs and sizes.

A kernel under :func:`tuned` takes an argument ``size_class``, which :func:`size_class` gives, by
name, and is launched without the constants and warps that its configurations hold. The first call
of a size class, of the dtypes and of the kernel's own constants tries each configuration, about a
tenth of a second each, and so synchronises: capture a CUDA graph after a call outside of it.
Triton's interpreter, which has no clock, takes the first configuration.

Not tuned, and left at one configuration, is what a trial would spoil or what a configuration
changes in shape: kernels that add to memory which other launches have added to before
(``compose_backward``, ``spline_coefficients``), and those that leave one record for each of their
programs (``folding``, ``invert``, every backward pass that sums an affine map's gradient). The
tiles of ``jacobian_determinant`` are as large as the registers of a dtype allow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import triton

# Fewer voxels are over before a configuration matters; more than the last fill every GPU.
_CLASSES = (1 << 16, 1 << 20, 1 << 23)
# Constants of a kernel that change what it does for a voxel; the dtypes are always looked at.
_KEY = ("size_class", "NDIM", "MODE", "STEP")

#: The class of fewer voxels than the first, for which a kernel takes its first configuration.
NOT_TRIED = 0


def size_class(voxels: int) -> int:
    """What a kernel's configuration is chosen for: small, medium or large, 1 to 3, or NOT_TRIED.

    Args:
        voxels: those of all samples.
    """
    return sum(voxels >= limit for limit in _CLASSES)


def configuration(warps: int, **constants: int) -> triton.Config:
    """The warps of a program, and the constants that say how many voxels are its own."""
    return triton.Config(constants, num_warps=warps)


#: For kernels that sample linearly: two voxels a thread, one, and more warps.
SAMPLING = (
    configuration(4, BLOCK=256),
    configuration(4, BLOCK=128),
    configuration(8, BLOCK=512),
)


class Tuned:
    """A kernel with its configurations, launched as any: ``kernel[grid](...)``.

    Args:
        kernel: a ``triton.jit`` function.
        configurations: the first is that of small sizes and of the interpreter.
    """

    def __init__(self, kernel: Any, configurations: tuple[triton.Config, ...]) -> None:
        self.kernel, self.configurations = kernel, configurations
        key = [name for name in _KEY if name in kernel.arg_names]
        self.trials = triton.autotune(list(configurations), key=key)(kernel)

    @property
    def largest_block(self) -> int:
        """The most voxels that a program of any configuration takes."""
        return max(configuration.kwargs["BLOCK"] for configuration in self.configurations)

    def __getitem__(self, grid: Any) -> Callable[..., Any]:
        """A launch; ``grid`` is a function of the constants, those of the configuration too."""

        def launch(*arguments: Any, size_class: int, **options: Any) -> Any:
            return self.launch(grid, arguments, options | {"size_class": size_class})

        return launch

    def launch(self, grid: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """In the configuration that is best for the size class."""
        if options["size_class"] == NOT_TRIED or triton.knobs.runtime.interpret:
            # Past the autotuner, which would look a key up at every call.
            return self.kernel[grid](*arguments, **options, **self.configurations[0].all_kwargs())
        return self.trials[grid](*arguments, **options)


def tuned(*configurations: triton.Config) -> Callable[[Any], Tuned]:
    """Decorates a ``triton.jit`` function, which overwrites its results and adds to none."""
    return lambda kernel: Tuned(kernel, configurations)
