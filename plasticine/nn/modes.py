"""Torch's global modes, and what of them a result must not depend on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import overload

import torch

_CPU = torch.device("cpu")


@contextlib.contextmanager
def plain_modes() -> Iterator[None]:
    """Torch's modes as they are when Python starts, whatever the caller has set.

    Default dtype float32, default device the CPU, no autocast, no inference mode, and denormal
    numbers as they are. Whether
    gradients are recorded is left to what runs within: leaving the inference mode turns it on.
    As a decorator it serves whole functions. The default dtype is that of the process, so that
    where the caller has changed it, other threads see float32, too, for as long as this lasts.
    """
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device() != _CPU:
            stack.enter_context(_CPU)
        before = torch.get_default_dtype()
        if before != torch.float32:
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, before)
        if _flushes_denormals():
            torch.set_flush_denormal(False)
            stack.callback(torch.set_flush_denormal, True)
        yield


def _flushes_denormals() -> bool:
    """Whether this thread takes the smallest numbers for 0; torch does not tell."""
    return not torch.tensor(5e-324, dtype=torch.float64, device=_CPU).mul(1).item()


@overload
def recordable(tensor: torch.Tensor) -> torch.Tensor: ...
@overload
def recordable(tensor: None) -> None: ...
def recordable(tensor: torch.Tensor | None) -> torch.Tensor | None:
    """A tensor without history, for gradients to be recorded on; a copy of an inference tensor."""
    if tensor is None:
        return None
    if tensor.is_inference():
        return tensor.clone()
    return tensor.detach() if tensor.requires_grad else tensor
