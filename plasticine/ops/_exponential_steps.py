"""How many squarings an exponential takes: as many as asked for, or as the velocity needs."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from plasticine import backends
from plasticine.ops import _checks
from plasticine.ops._kernels import call, device_type

# The greatest speed, in voxels, up to which 0, 1, 2, ... squarings suffice: on Gaussian-smoothed
# noise (sigma 8 voxels, 2D and 3D) the mean error stays below 0.01 voxel and the 99th percentile
# below 0.05, or both within a quarter of the least that any number of squarings of the method
# gives. Beyond the last, one more. Measured by benchmarks/exponential_accuracy.py --limits.
LIMITS = {
    "euler": (1.0, 1.4, 2.0, 2.8, 3.3, 4.7, 5.6, 11.0, 26.0),
    "midpoint": (3.3, 5.6, 11.0, 19.0),
    "rk4": (8.0, 16.0),
}


def steps_for(velocity: Tensor, steps: Any, method: str, backend: str) -> int:
    """The number of squarings: ``steps``, or what "auto" stands for with this velocity."""
    count = _checks.steps_or_auto(steps)
    if count != "auto":
        return count
    if torch.compiler.is_compiling():  # a number of squarings is no tensor: the graph breaks here
        return torch.compiler.disable(_automatic)(velocity, method, backend)
    return _automatic(velocity, method, backend)


def enough_steps(speed: float, method: str) -> int:
    """How many squarings suffice up to a speed in voxels."""
    limits = LIMITS[method]
    for steps, limit in enumerate(limits):
        if speed <= limit:
            return steps
    return len(limits)


def peak(velocity: Tensor, backend: str) -> float:
    """The greatest Euclidean norm of a voxel's velocity; those that are not finite do not count."""
    velocity = _innermost(velocity)
    if backend == "cpu" and type(velocity) in (Tensor, torch.nn.Parameter):
        return call("cpu", "exponential_peak", velocity, velocity)
    if backend == "cuda" and type(velocity) in (Tensor, torch.nn.Parameter):
        square = velocity.new_zeros(1, dtype=torch.float64)
        call("cuda", "exponential_peak", velocity, velocity, square)
        return math.sqrt(square.item())
    norm = torch.linalg.vector_norm(velocity.double(), dim=1)
    norm = torch.where(norm.isfinite(), norm, 0.0)
    return norm.max().item() if norm.numel() else 0.0


def _automatic(velocity: Tensor, method: str, backend: str) -> int:
    if _is_batched(velocity):
        raise RuntimeError(
            'steps="auto" reads the velocity on the host, which torch.vmap does not allow; give a '
            "number of squarings"
        )
    served = backends.choose(backend, "exponential", device_type(velocity))
    return enough_steps(peak(velocity.detach(), served), method)


def _innermost(x: Tensor) -> Tensor:
    """What torch.func.grad wraps."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def _is_batched(x: Tensor) -> bool:
    """Whether a torch.vmap, at any depth of function transforms, stands for several tensors."""
    while torch._C._functorch.is_functorch_wrapped_tensor(x):
        if torch._C._functorch.is_batchedtensor(x):
            return True
        x = torch._C._functorch.get_unwrapped(x)
    return False
