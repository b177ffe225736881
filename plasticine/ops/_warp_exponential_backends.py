"""The forward pass of ``warp_exponential`` on each backend; the arguments have been checked.

The backward pass is that of ``exponential`` after that of ``warp``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from plasticine import backends, reference
from plasticine.ops import _exponential_backends, _warp_backends
from plasticine.ops._exponential_backends import first_stage, native_flow, stages_like
from plasticine.ops._native_interface import (
    MODE_CODES,
    PADDING_CODES,
    contiguous_rows,
    cuda_launch,
    native,
    native_or_none,
    spans_32_bits,
    threads_for,
)

Result = tuple[Tensor, Tensor | None]


def _cpu_forward(image: Tensor, velocity: Tensor, *options: Any) -> Result:
    where = threads_for(velocity), ()
    return _compiled_forward(backends.NATIVE, where, image, velocity, *options)


def _cuda_forward(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    kept: list[int],
) -> Result:
    velocity = contiguous_rows(velocity)
    is_composed = steps > 0 or method == "midpoint"
    is_narrow = spans_32_bits(image) and spans_32_bits(velocity)
    if is_composed and is_narrow and velocity.dtype == torch.float32:
        options = steps, method, mode, padding, field_padding, kept
        where = 1, cuda_launch(velocity)
        return _compiled_forward(backends.CUDA, where, image, velocity, *options)
    # For what the fused kernel is not compiled.
    integrate = _exponential_backends.FORWARD["cuda"]
    displacement, _, stages = integrate(velocity, steps, method, field_padding, False, kept)
    return _warp_backends.FORWARD["cuda"](image, displacement, None, mode, padding), stages


def _triton_forward(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    kept: list[int],
) -> Result:
    result = image.new_empty(image.shape[:2] + velocity.shape[2:])
    stages = stages_like(velocity, len(kept)) if kept else None
    serve = backends.triton_kernels("warp_exponential")[0].warp_exponential_forward
    flow = 0.5**steps, steps, method, field_padding, kept
    serve(image, velocity, result, stages, *flow, mode, padding)
    return result, stages


def _compiled_forward(
    module: Any,
    where: tuple[int, tuple[int, ...]],
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    kept: list[int],
) -> Result:
    """By a compiled module; ``where``: a CPU's threads, and a GPU's device and stream."""
    threads, stream = where
    result = image.new_empty(image.shape[:2] + velocity.shape[2:])
    stages = stages_like(velocity, len(kept)) if kept else None
    # All displacements but the last are in memory, two at a time, in turn.
    between = steps - first_stage(steps, method) - len(kept)
    scratch = stages_like(velocity, min(between, 2)) if between else None
    module.warp_exponential_forward(
        native(image),
        native_flow(velocity, 0.5**steps, steps, method, field_padding, threads),
        native(result),
        (native_or_none(stages), kept),
        native_or_none(scratch),
        MODE_CODES[mode],
        PADDING_CODES[padding],
        *stream,
    )
    return result, stages


def _reference_forward(
    image: Tensor,
    velocity: Tensor,
    steps: int,
    method: str,
    mode: str,
    padding: str,
    field_padding: str,
    kept: list[int],
) -> Result:
    integrate = _exponential_backends.FORWARD["reference"]
    displacement, _, stages = integrate(velocity, steps, method, field_padding, False, kept)
    return reference.warp(image, displacement, None, mode, padding).contiguous(), stages


FORWARD: dict[str, Callable[..., Result]] = {
    "cpu": _cpu_forward,
    "cuda": _cuda_forward,
    "triton": _triton_forward,
    "reference": _reference_forward,
}
